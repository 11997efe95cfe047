"""Is running out of memory told apart from other failures?"""

import pytest

from gpt_jax import errors


@pytest.mark.parametrize('error', [MemoryError(), RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes')])
def test_memory_is_named_with_what_to_do(error):
    with pytest.raises(errors.OutOfMemory, match=r'out of memory; make train\.microbatch'), errors.memory_named():
        raise error


def test_other_errors_stay_what_they_are():
    with pytest.raises(KeyError), errors.memory_named():
        raise KeyError('RESOURCE')


def test_a_line_of_the_users_words_is_one_line_and_no_command_to_the_terminal():
    error = errors.UserError('a\nb\r\x1b[2J\u2028\u202e\x85c\ud800: no such field é 的 \\n')
    assert str(error) == r'a\nb\r\x1b[2J\u2028\u202e\x85c\ud800: no such field é 的 \n'
