"""Paths, atomic writes, JSON Lines and locks."""

import os
from pathlib import Path

import pytest

from gpt_jax.core import files
from gpt_jax.core.errors import UserError


def test_paths_need_not_exist(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'file').touch()
    for text in (
        str(tmp_path),
        str(tmp_path / 'file'),
        str(tmp_path / 'file' / 'below'),
        'nowhere/at/all',
        '',
    ):
        assert files.check_path(text, 'x') == Path(text)
    assert files.check_path('~/runs', 'x') == tmp_path / 'runs'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('x' * 300, f'--checkpoint={"x" * 80}...: File name too long'),
        ('runs/' * 1000, f'--checkpoint={"runs/" * 16}...: File name too long'),
        ('a\0b', r'--checkpoint=a\x00b: must not have a null byte'),
        (
            '~nobody_of_that_name/run',
            '--checkpoint=~nobody_of_that_name/run: must start with an existing user, got '
            '~nobody_of_that_name; write ./~nobody_of_that_name for a folder of this name',
        ),
    ],
)
def test_impossible_paths_are_one_line(text, message):
    with pytest.raises(UserError) as error:
        files.check_path(text, '--checkpoint')
    assert str(error.value) == message


def test_an_unreadable_folder(tmp_path, monkeypatch):
    def locked(path):
        raise PermissionError(13, 'Permission denied', str(path))

    monkeypatch.setattr(os, 'lstat', locked)  # root may read everything
    with pytest.raises(UserError, match=r'^--source=.*: Permission denied$'):
        files.check_path(str(tmp_path), '--source')


def test_appended_records_are_read_back(tmp_path):
    path = tmp_path / 'new folder' / 'records.jsonl'
    rows = [
        {'name': 'a', 'validation_loss': 0.1 + 0.2, 'status': 'done'},
        {'name': 'b', 'status': 'failed: 1'},
    ]
    for row in rows:
        files.append_jsonl(path, row)
    assert files.read_jsonl(path) == rows


def test_a_torn_last_line_is_dropped_and_removed(tmp_path, caplog):
    path = tmp_path / 'records.jsonl'
    files.append_jsonl(path, {'name': 'a'})
    with path.open('a') as file:
        file.write('{"name": "b", "validation_lo')
    assert files.read_jsonl(path) == [{'name': 'a'}]
    assert 'torn last line' in caplog.text
    files.append_jsonl(path, {'name': 'c'})
    assert files.read_jsonl(path) == [{'name': 'a'}, {'name': 'c'}]
    assert path.read_bytes() == b'{"name": "a"}\n{"name": "c"}\n'


def test_a_last_line_without_newline_is_read(tmp_path):
    path = tmp_path / 'records.jsonl'
    path.write_text('{"name": "by hand"}')
    files.append_jsonl(path, {'name': 'b'})
    assert [row['name'] for row in files.read_jsonl(path)] == ['by hand', 'b']


@pytest.mark.parametrize('broken', ['{"name": ', '[1, 2]', '\xff', '[' * 100_000], ids=range(4))
def test_a_broken_line_is_named(tmp_path, broken):
    path = tmp_path / 'records.jsonl'
    path.write_bytes(b'{"name": "a"}\n' + broken.encode('latin-1') + b'\n{"name": "c"}\n')
    with pytest.raises(UserError, match=r'records\.jsonl:2: '):
        files.read_jsonl(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r'absent\.jsonl: no such file'):
        files.read_jsonl(tmp_path / 'absent.jsonl')
    with pytest.raises(UserError, match='Is a directory'):
        files.read_jsonl(tmp_path)


def test_nan_raises_and_nothing_is_written(tmp_path):
    path = tmp_path / 'records.jsonl'
    with pytest.raises(ValueError, match='not JSON compliant'):
        files.append_jsonl(path, {'name': 'a', 'validation_loss': float('nan')})
    assert not path.exists()
