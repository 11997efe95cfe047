"""Is a tokenizer taken along as it is, and does one of ours encode the same where others read it?"""

import json
from pathlib import Path

import numpy as np
import pytest

from gpt_jax.data import tokenizer
from gpt_jax.errors import UserError
from gpt_jax.interop import tokenizer_files

TEXT = ["The cat sat on the mat, and the other cat didn't.\n", 'def f(x):\n    return x + 1  # é\n'] * 20


def test_what_belongs_to_a_tokenizer_is_taken_along_as_it_is(tmp_path):
    there = {'vocab.json': b'{"a": 0}', 'merges.txt': b'#version: 0.2\n', 'tokenizer_config.json': b'{ "x":1 }'}
    others = {'README.md': b'#', 'model.safetensors': b'', 'tokenizer.model': b'\0', 'evil.py': b'import os'}
    for name, content in (there | others).items():
        (tmp_path / name).write_bytes(content)
    found = tokenizer_files.read(tmp_path)
    assert found == there
    assert tokenizer_files.usable(found)
    assert not tokenizer_files.usable({'vocab.json': b'{}'})
    tokenizer_files.write(tmp_path / 'copy', found)
    assert tokenizer_files.read(tmp_path / 'copy') == there


def test_broken_files_and_links_are_refused(tmp_path):
    (tmp_path / 'secret').write_text('{}')
    for name, content in (('tokenizer.json', '{'), ('special_tokens_map.json', '[]')):
        folder = tmp_path / name.partition('.')[0]
        folder.mkdir()
        (folder / name).write_text(content)
        with pytest.raises(UserError, match=name):
            tokenizer_files.read(folder)
        (folder / name).unlink()
        (folder / 'merges.txt').symlink_to(tmp_path / 'secret')
        with pytest.raises(UserError, match='is a link that leads out of the folder'):
            tokenizer_files.read(folder)
        (folder / 'merges.txt').unlink()
        (folder / 'merges.txt').symlink_to(tmp_path / 'gone')
        with pytest.raises(UserError, match='is a link that leads out of the folder'):
            tokenizer_files.read(folder)


def test_ids_of_special_tokens():
    made = tokenizer_files.with_generation({}, {'eos_token_id': [2, 3], 'bos_token_id': 1})
    assert tokenizer_files.ids(made) == {'eos_token_id': [2, 3], 'bos_token_id': 1}
    assert tokenizer_files.with_generation(made, {'eos_token_id': 9}) == made
    assert tokenizer_files.ids({}) == {}
    assert tokenizer_files.ids({'generation_config.json': b'{"pad_token_id": null, "top_p": 0.9}'}) == {}
    assert tokenizer_files.ends(made, Path('x'), 4) == (2, 3)
    assert tokenizer_files.ends({}, Path('x'), 4) is None


def test_a_vocabulary_is_the_same_whatever_file_it_stands_in():
    plain, words = tokenizer.make('bytes', list), tokenizer.train(TEXT, 280)
    exported = tokenizer._from_content(tokenizer_files.made(plain, 64)['tokenizer.json'], 'x')
    assert exported.fingerprint != plain.fingerprint
    assert tokenizer_files.vocabulary(exported) == tokenizer_files.vocabulary(plain)
    again = tokenizer._from_content(json.dumps(json.loads(words.content), indent=1).encode(), 'x')
    assert again.fingerprint != words.fingerprint
    assert tokenizer_files.vocabulary(again) == tokenizer_files.vocabulary(words)
    moved = json.loads(words.content)
    ids = moved['model']['vocab']
    ids['a'], ids['b'] = ids['b'], ids['a']
    other = tokenizer._from_content(json.dumps(moved).encode(), 'x')
    assert tokenizer_files.vocabulary(other) != tokenizer_files.vocabulary(words)
    assert len(tokenizer_files.vocabulary(plain)) == 256


def test_what_is_not_followed_is_said_where_it_changes_anything():
    def unfollowed(**said):
        return tokenizer_files.unfollowed({'generation_config.json': json.dumps(said).encode()})

    nothing = {'repetition_penalty': 1.0, 'max_length': 20, 'top_p': 0.9, 'do_sample': False, 'length_penalty': 2.0,
               'bad_words_ids': None, 'transformers_version': '4.40.0', 'eos_token_id': 7}  # fmt: skip
    assert unfollowed(**nothing) == []
    assert unfollowed(**nothing | {'do_sample': True, 'top_k': 50}) == ['do_sample: True', 'top_p: 0.9']
    assert unfollowed(**nothing | {'num_beams': 4}) == ['num_beams: 4', 'length_penalty: 2.0']
    assert unfollowed(suppress_tokens=[1], repetition_penalty=1.2) == [
        'repetition_penalty: 1.2',
        'suppress_tokens: [1]',
    ]


@pytest.mark.parametrize('name', ['ALWAYS', 'SAMPLING', 'BEAMS'])
def test_what_transformers_does_without_a_word_needs_none(name):
    generation = pytest.importorskip('transformers', reason='its defaults').GenerationConfig
    silent = generation._get_default_generation_params()
    for field, values in getattr(tokenizer_files, name).items():
        assert field in generation().to_dict() or field in silent, field
        assert silent.get(field) is None or silent[field] in values


@pytest.mark.parametrize('spec', ['bytes', 'bpe'])
def test_ours_encode_the_same_as_a_tokenizer_json(spec, tmp_path):
    made = tokenizer.make('bytes', list) if spec == 'bytes' else tokenizer.train(TEXT, 290)
    tokenizer_files.write(tmp_path, tokenizer_files.made(made, 64))
    again = tokenizer.make(str(tmp_path), list)
    assert (again.vocab_size, again.end_of_document) == (made.vocab_size, made.end_of_document)
    every = ''.join(chr(n) for n in [*range(0x300), 0x20AC, 0x4E2D, 0x1F600])
    for text in (*TEXT[:2], every, '', ' \n\n  a', 'a<|endoftext|>b', 'x' * 5000):
        assert np.array_equal(again.encode(text), made.encode(text))
        assert again.decode(again.encode(text)) == text
    assert again.decode([0xE2, 0x82] if spec == 'bytes' else []) == ('\ufffd' if spec == 'bytes' else '')
    about = json.loads((tmp_path / 'tokenizer_config.json').read_text())
    assert (about['eos_token'], about['model_max_length']) == ('<|endoftext|>', 64)


def test_a_tokenizer_without_an_end_names_none():
    endless = tokenizer.Tokenizer(tokenizer.train(TEXT, 270).content, 'x', 270, None, list, str)
    found = tokenizer_files.made(endless, 64)
    assert tokenizer_files.ids(found) == {}
    assert 'eos_token' not in json.loads(found['tokenizer_config.json'])
