"""Tokenizer files: copying, special ids, ignored options, export of our tokenizers."""

import json
from pathlib import Path

import numpy as np
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.data import tokenizer
from gpt_jax.interop import tokenizer_files

TEXT = [
    "The cat sat on the mat, and the other cat didn't.\n",
    'def f(x):\n    return x + 1  # é\n',
] * 20


def test_tokenizer_files_are_copied_unchanged(tmp_path):
    expected = {
        'vocab.json': b'{"a": 0}',
        'merges.txt': b'#version: 0.2\n',
        'tokenizer_config.json': b'{ "x":1 }',
    }
    others = {
        'README.md': b'#',
        'model.safetensors': b'',
        'tokenizer.model': b'\0',
        'evil.py': b'import os',
    }
    for name, content in (expected | others).items():
        (tmp_path / name).write_bytes(content)
    contents = tokenizer_files.read_files(tmp_path)
    assert contents == expected
    assert tokenizer_files.has_tokenizer(contents)
    assert not tokenizer_files.has_tokenizer({'vocab.json': b'{}'})
    tokenizer_files.write_files(tmp_path / 'copy', contents)
    assert tokenizer_files.read_files(tmp_path / 'copy') == expected


def test_damaged_files_and_links_are_rejected(tmp_path):
    (tmp_path / 'secret').write_text('{}')
    for name, content in (('tokenizer.json', '{'), ('special_tokens_map.json', '[]')):
        folder = tmp_path / name.partition('.')[0]
        folder.mkdir()
        (folder / name).write_text(content)
        with pytest.raises(UserError, match=name):
            tokenizer_files.read_files(folder)
        (folder / name).unlink()
        (folder / 'merges.txt').symlink_to(tmp_path / 'secret')
        with pytest.raises(UserError, match='is a link out of the folder'):
            tokenizer_files.read_files(folder)
        (folder / 'merges.txt').unlink()
        (folder / 'merges.txt').symlink_to(tmp_path / 'gone')
        with pytest.raises(UserError, match='is a link out of the folder'):
            tokenizer_files.read_files(folder)


def test_ids_of_special_tokens():
    contents = tokenizer_files.add_generation_config(
        {}, {'eos_token_id': [2, 3], 'bos_token_id': 1}
    )
    assert tokenizer_files.special_token_ids(contents) == {
        'eos_token_id': [2, 3],
        'bos_token_id': 1,
    }
    assert tokenizer_files.add_generation_config(contents, {'eos_token_id': 9}) == contents
    assert tokenizer_files.special_token_ids({}) == {}
    without_ids = {'generation_config.json': b'{"pad_token_id": null, "top_p": 0.9}'}
    assert tokenizer_files.special_token_ids(without_ids) == {}
    assert tokenizer_files.read_end_ids(contents, Path('x'), 4, print) == (2, 3)
    assert tokenizer_files.read_end_ids({}, Path('x'), 4, print) is None


def test_vocabulary_does_not_depend_on_the_file_format():
    plain, bpe = tokenizer.make_tokenizer('bytes', list), tokenizer.train_bpe(TEXT, 280)
    exported = tokenizer.parse_tokenizer_json(
        tokenizer_files.make_files(plain, 64)['tokenizer.json'], 'x'
    )
    assert exported.fingerprint != plain.fingerprint
    assert tokenizer_files.get_vocabulary(exported) == tokenizer_files.get_vocabulary(plain)
    reformatted = tokenizer.parse_tokenizer_json(
        json.dumps(json.loads(bpe.content), indent=1).encode(), 'x'
    )
    assert reformatted.fingerprint != bpe.fingerprint
    assert tokenizer_files.get_vocabulary(reformatted) == tokenizer_files.get_vocabulary(bpe)
    swapped = json.loads(bpe.content)
    ids = swapped['model']['vocab']
    ids['a'], ids['b'] = ids['b'], ids['a']
    other = tokenizer.parse_tokenizer_json(json.dumps(swapped).encode(), 'x')
    assert tokenizer_files.get_vocabulary(other) != tokenizer_files.get_vocabulary(bpe)
    assert len(tokenizer_files.get_vocabulary(plain)) == 256


def test_ignored_options_are_listed_if_they_change_the_output():
    def list_ignored(**options):
        content = json.dumps(options).encode()
        return tokenizer_files.list_ignored_options({'generation_config.json': content})

    neutral = {
        'repetition_penalty': 1.0,
        'max_length': 20,
        'top_p': 0.9,
        'do_sample': False,
        'length_penalty': 2.0,
        'bad_words_ids': None,
        'transformers_version': '4.40.0',
        'eos_token_id': 7,
    }
    assert list_ignored(**neutral) == []
    assert list_ignored(**neutral | {'do_sample': True, 'top_k': 50}) == [
        'do_sample: True',
        'top_p: 0.9',
    ]
    assert list_ignored(**neutral | {'num_beams': 4}) == ['num_beams: 4', 'length_penalty: 2.0']
    assert list_ignored(suppress_tokens=[1], repetition_penalty=1.2) == [
        'repetition_penalty: 1.2',
        'suppress_tokens: [1]',
    ]


@pytest.mark.parametrize('name', ['NEUTRAL_VALUES', 'NEUTRAL_SAMPLING', 'NEUTRAL_BEAM_SEARCH'])
def test_defaults_of_transformers_are_neutral(name):
    generation = pytest.importorskip('transformers', reason='its defaults').GenerationConfig
    defaults = generation._get_default_generation_params()
    for field, values in getattr(tokenizer_files, name).items():
        assert field in generation().to_dict() or field in defaults, field
        assert defaults.get(field) is None or defaults[field] in values


@pytest.mark.parametrize('spec', ['bytes', 'bpe'])
def test_exported_tokenizers_encode_the_same(spec, tmp_path):
    original = (
        tokenizer.make_tokenizer('bytes', list)
        if spec == 'bytes'
        else tokenizer.train_bpe(TEXT, 290)
    )
    tokenizer_files.write_files(tmp_path, tokenizer_files.make_files(original, 64))
    exported = tokenizer.make_tokenizer(str(tmp_path), list)
    assert exported.vocab_size == original.vocab_size
    assert exported.end_of_document == original.end_of_document
    all_letters = ''.join(chr(n) for n in [*range(0x300), 0x20AC, 0x4E2D, 0x1F600])
    for text in (*TEXT[:2], all_letters, '', ' \n\n  a', 'a<|endoftext|>b', 'x' * 5000):
        assert np.array_equal(exported.encode(text), original.encode(text))
        assert exported.decode(exported.encode(text)) == text
    if spec == 'bytes':
        assert exported.decode([0xE2, 0x82]) == '\ufffd'
    config = json.loads((tmp_path / 'tokenizer_config.json').read_text())
    assert (config['eos_token'], config['model_max_length']) == ('<|endoftext|>', 64)


def test_tokenizer_without_end_of_document():
    endless = tokenizer.Tokenizer(tokenizer.train_bpe(TEXT, 270).content, 'x', 270, None, list, str)
    contents = tokenizer_files.make_files(endless, 64)
    assert tokenizer_files.special_token_ids(contents) == {}
    assert 'eos_token' not in json.loads(contents['tokenizer_config.json'])
