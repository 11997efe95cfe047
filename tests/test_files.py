"""Is a path taken as its user means it, and one where nothing can be looked for refused in one line?"""

import os
from pathlib import Path

import pytest

from gpt_jax import files
from gpt_jax.errors import UserError


def test_paths_are_there_or_not(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'file').touch()
    for text in (str(tmp_path), str(tmp_path / 'file'), str(tmp_path / 'file' / 'below'), 'nowhere/at/all', ''):
        assert files.path(text, 'x') == Path(text)
    assert files.path('~/runs', 'x') == tmp_path / 'runs'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('x' * 300, f'--checkpoint={"x" * 80}...: File name too long'),
        ('runs/' * 1000, f'--checkpoint={"runs/" * 16}...: File name too long'),
        ('a\0b', r'--checkpoint=a\x00b: embedded null byte'),
        ('~nobody_of_that_name/run', '--checkpoint=~nobody_of_that_name/run: Could not determine home directory.'),
    ],
)
def test_where_nothing_can_be_looked_for(text, message):
    with pytest.raises(UserError) as error:
        files.path(text, '--checkpoint')
    assert str(error.value) == message


def test_a_locked_folder(tmp_path, monkeypatch):
    def locked(path):
        raise PermissionError(13, 'Permission denied', str(path))

    monkeypatch.setattr(os, 'lstat', locked)  # root, who may run this test, is let in everywhere
    with pytest.raises(UserError, match=r'^--source=.*: Permission denied$'):
        files.path(str(tmp_path), '--source')
