"""Does a source word name the text it should, with its splits?"""

from pathlib import Path

import pytest

from gpt_jax.data import sources
from gpt_jax.errors import UserError


def read(config):
    parts = {}
    for split, piece in sources.labelled(config, Path(config.cache))():
        parts[split] = parts.get(split, '') + piece.text
    return parts


def test_globs_are_sorted_and_each_file_once(config, tmp_path):
    for name in ('b.txt', 'a.txt', 'deep/er/c.txt', 'a.md'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    globs = f'{tmp_path}/b.txt, {tmp_path}/*.txt,{tmp_path}/**/c.txt'
    assert sources.matching('source', globs) == [tmp_path / 'a.txt', tmp_path / 'b.txt', tmp_path / 'deep/er/c.txt']
    assert read(config(source=f'files:{globs}', validation_source=f'files:{tmp_path}/a.md')) == {
        'train': 'a.txtb.txtdeep/er/c.txt',
        'validation': 'a.md',
    }


def test_globs_are_relative_to_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / 'a.txt').write_text('a')
    monkeypatch.chdir(tmp_path)
    assert sources.matching('source', '*.txt') == [tmp_path / 'a.txt']


def test_glob_without_files(tmp_path):
    with pytest.raises(UserError, match=r"^data\.validation_source: '.*\.nope' matches no file \(looked in "):
        sources.describe('validation_source', f'files:{tmp_path}/*.nope')


def test_description_changes_with_the_files(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('a')
    first = sources.describe('source', f'files:{path}')
    assert sources.describe('source', f'files:{path}') == first
    path.write_text('b')
    assert sources.describe('source', f'files:{path}') != first


def test_training_files_may_not_validate(config, tmp_path):
    (tmp_path / 'a.txt').write_text('a')
    (tmp_path / 'b.txt').write_text('b')
    with pytest.raises(UserError, match=r'^data\.validation_source: .*b\.txt is training data too'):
        read(config(validation_source=f'files:{tmp_path}/b.*'))


@pytest.mark.usefixtures('stdlib')
def test_the_library_has_its_own_splits(config):
    parts = read(config(source='tfds:python_stdlib'))
    assert set(parts) == {'train', 'validation', 'test'}
    assert sum(text.count('VALUE') for text in parts.values()) == 60


@pytest.mark.usefixtures('stdlib')
def test_validation_from_another_source(config, tmp_path):
    (tmp_path / 'a.txt').write_text('abc')
    own = read(config(source='tfds:python_stdlib'))
    assert read(config(validation_source='tfds:python_stdlib')) == {'train': 'abc', 'validation': own['validation']}
    parts = read(config(source='tfds:python_stdlib', validation_source=f'files:{tmp_path}/a.txt'))
    assert parts == own | {'validation': 'abc'}


def test_size_is_known_for_plain_text_only(tmp_path):
    (tmp_path / 'a.txt').write_text('abc')
    (tmp_path / 'b.jsonl').write_text('{}')
    assert sources.size(sources.describe('source', f'files:{tmp_path}/*.txt')) == 3
    assert sources.size(sources.describe('source', f'files:{tmp_path}/*')) is None
    assert sources.size({'tfds': 'x'}) is None
