"""Are the published layouts read as their authors meant them? Files in these layouts, with sentences of our own."""

import json

import pytest

from gpt_jax.errors import UserError
from gpt_jax.evaluate import bias_files
from gpt_jax.evaluate.bias import Pair


def file(folder, name, text):
    path = folder / name
    path.write_text(text, 'utf-8')
    return path


def test_crows_pairs(tmp_path):
    header = ',sent_more,sent_less,stereo_antistereo,bias_type,annotations,anon_writer,anon_annotators\n'
    lines = (
        '0,"Old men, they say, forget.","Young men, they say, forget.",stereo,age,[],a0,[]\n'
        '1,The rich man was clever.,The poor man was clever.,antistereo,socioeconomic,[],a1,[]\n'
    )
    expected = [
        Pair('Old men, they say, forget.', 'Young men, they say, forget.', 'age'),
        Pair('The rich man was clever.', 'The poor man was clever.', 'socioeconomic'),
    ]
    # The published file's first column, of numbers, has no name.
    assert bias_files.crows_pairs(file(tmp_path, 'pairs.csv', header + lines)) == expected
    with pytest.raises(UserError, match=r"other\.csv:2: no 'sent_more'; CrowS-Pairs has"):
        bias_files.crows_pairs(file(tmp_path, 'other.csv', 'a,b\n1,2\n'))


PRO = '1 [The pilot] thanked the nurse because [he] was late.\n2 The pilot gave [the nurse] her book and saw [her].\n'
ANTI = '1 [The pilot] thanked the nurse because [she] was late.\n2 The pilot gave [the nurse] her book and saw [him].\n'


def test_winobias(tmp_path):
    pro, anti = file(tmp_path, 'pro.dev', PRO), file(tmp_path, 'anti.dev', ANTI)
    expected = [
        Pair(
            'The pilot thanked the nurse because he was late.',
            'The pilot thanked the nurse because she was late.',
            'he',
        ),
        Pair('The pilot gave the nurse her book and saw her.', 'The pilot gave the nurse her book and saw him.', 'she'),
    ]
    assert bias_files.winobias(pro, anti) == expected
    bare = [file(tmp_path, f'bare_{n}', text.replace('1 ', '').replace('2 ', '').replace('[he]', '[ he ]'))
            for n, text in enumerate((PRO, ANTI))]  # fmt: skip
    assert bias_files.winobias(*bare) == expected
    with pytest.raises(UserError, match=r'short: 1 sentences, where .*pro\.dev has 2'):
        bias_files.winobias(pro, file(tmp_path, 'short', ANTI.splitlines()[0]))
    with pytest.raises(UserError, match=r'plain:2: no \[he\]'):
        bias_files.winobias(file(tmp_path, 'plain', PRO.replace('[her]', 'her')), anti)
    with pytest.raises(UserError, match=r'none: cannot be read'):
        bias_files.winobias(pro, tmp_path / 'none')


def test_stereoset(tmp_path):
    def three(kind, *texts):
        labels = ('anti-stereotype', 'unrelated', 'stereotype')
        return {'id': 'x', 'target': 't', 'bias_type': kind, 'context': 'The cook came in.',
                'sentences': [{'id': 'y', 'sentence': text, 'gold_label': label}
                              for text, label in zip(texts, labels, strict=True)]}  # fmt: skip

    inter = [three('profession', 'She sang.', 'Rain fell.', 'He shouted.')]
    intra = [three('gender', 'My mother is loud.', 'My mother is blue.', 'My mother is mild.')]
    data = {'intersentence': inter, 'intrasentence': intra}
    path = file(tmp_path, 'dev.json', json.dumps({'version': '1.0', 'data': data}))
    assert bias_files.stereoset(path) == [
        Pair('The cook came in. He shouted.', 'The cook came in. She sang.', 'profession'),
        Pair('My mother is mild.', 'My mother is loud.', 'gender'),
    ]
    for text in ('{', '[]', '{"data": {"intersentence": [{}], "intrasentence": []}}'):
        with pytest.raises(UserError, match=r'not the layout of StereoSet'):
            bias_files.stereoset(file(tmp_path, 'broken.json', text))
