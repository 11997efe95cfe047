"""Full disks and too little memory are told apart; messages are one printable line."""

import errno

import pytest

from gpt_jax.core import errors


@pytest.mark.parametrize(
    'error', [MemoryError(), RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes')]
)
def test_out_of_memory_says_what_to_change(error):
    with (
        pytest.raises(errors.OutOfMemory, match=r'out of memory; make train\.microbatch'),
        errors.translate_exhaustion(),
    ):
        raise error


TENSORSTORE = (
    'RESOURCE_EXHAUSTED: Error writing "params/x/0.0" in OCDBT database at local file "/runs/a/": '
    "Failed to write 844 bytes to file 12: No space left on device [os_error_code='28']"
)


@pytest.mark.parametrize(
    ('error', 'path'),
    [
        (OSError(errno.ENOSPC, 'No space left on device', '/runs/a/b'), '/runs/a/b'),
        (OSError(errno.EDQUOT, 'Disk quota exceeded'), 'output'),
        (ValueError(TENSORSTORE), '/runs/a/'),
        (ExceptionGroup('two', [KeyError('x'), ValueError(TENSORSTORE)]), '/runs/a/'),
    ],
)
def test_a_full_disk_is_named_before_memory(error, path):
    expected = f'^{path}: no space left on this disk; free space'
    with pytest.raises(errors.DiskFull, match=expected), errors.translate_exhaustion():
        raise error
    with pytest.raises(errors.DiskFull, match=expected), errors.translate_exhaustion():
        raise RuntimeError('saving failed') from error


def test_a_described_full_disk_keeps_its_description():
    with (
        pytest.raises(errors.DiskFull, match=r'^--output=/x: No space left on device$'),
        errors.translate_exhaustion(),
    ):
        raise errors.UserError('--output=/x: No space left on device')


@pytest.mark.parametrize(
    'error', [OSError(errno.EFBIG, 'File too large'), ValueError('RESOURCE_EXHAUSTED: quota')]
)
def test_other_limits_are_neither(error):
    with pytest.raises(type(error)), errors.translate_exhaustion():
        raise error


def test_other_errors_are_unchanged():
    with pytest.raises(KeyError), errors.translate_exhaustion():
        raise KeyError('RESOURCE')


def test_control_characters_are_escaped():
    error = errors.UserError('a\nb\r\x1b[2J\u2028\u202e\x85c\ud800: no such field é 的 \\n')
    assert str(error) == r'a\nb\r\x1b[2J\u2028\u202e\x85c\ud800: no such field é 的 \n'
