"""Tests of the data section: invalid values are rejected, and the cache folder is found."""

import os

import pytest

from gpt_jax.core.config import cache_folder
from gpt_jax.core.errors import UserError


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('source', 'python_stdlib'),
        ('source', ''),
        ('source', 'files:'),
        ('source', 'tfds:../x'),
        ('validation_source', 'http://x'),
        ('validation_fraction', 0.0),
        ('validation_fraction', 1.0),
        ('validation_fraction', float('nan')),
        ('holdout', 'head'),
        ('packing', 'pack'),
        ('text_field', ''),
        ('tokenizer', ''),
        ('tokenizer', 'bpe:256'),
        ('tokenizer', 'bpe:many'),
        ('tokenizer', 'bpe:²'),
    ],
)
def test_invalid_value_names_its_field(config, field, value):
    with pytest.raises(UserError, match=rf'^config\.data\.{field}: ') as raised:
        config(**{field: value})
    assert '\n' not in str(raised.value)


@pytest.mark.parametrize(
    'source', ['tfds:c4', 'tfds:wiki40b/en', 'tfds:c4/en:3.1.0', 'files:a/*.txt,b/**/*.py']
)
def test_valid_sources(config, source):
    assert config(source=source, validation_source=source).source == source


def test_cache_folder_follows_xdg(monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', '/somewhere')
    assert cache_folder('') == '/somewhere/gpt_jax/data'
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setenv('HOME', '/home/a')
    assert cache_folder('') == '/home/a/.cache/gpt_jax/data'
    assert cache_folder('c') == os.path.join(os.getcwd(), 'c')
