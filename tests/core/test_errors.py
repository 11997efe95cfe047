"""Out-of-memory errors are translated; messages are one printable line."""

import pytest

from gpt_jax.core import errors


@pytest.mark.parametrize(
    'error', [MemoryError(), RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes')]
)
def test_out_of_memory_says_what_to_change(error):
    with (
        pytest.raises(errors.OutOfMemory, match=r'out of memory; make train\.microbatch'),
        errors.translate_oom(),
    ):
        raise error


def test_other_errors_are_unchanged():
    with pytest.raises(KeyError), errors.translate_oom():
        raise KeyError('RESOURCE')


def test_control_characters_are_escaped():
    error = errors.UserError('a\nb\r\x1b[2J\u2028\u202e\x85c\ud800: no such field é 的 \\n')
    assert str(error) == r'a\nb\r\x1b[2J\u2028\u202e\x85c\ud800: no such field é 的 \n'
