"""How do the processes of a run come to one answer, or to one failure?"""

from collections.abc import Callable

from gpt_jax.errors import UserError

_NONE, _FAILED = -1, -(2**31)


def is_first() -> bool:
    import jax

    return jax.process_index() == 0


def several() -> bool:
    import jax

    return jax.process_count() > 1


def together(here: Callable[[], int]) -> int:
    """Runs `here`, which returns an int32, on every process; returns the first process's result on all of them.

    All must call it. With one process it is a plain call; with several it waits for the slowest.

    Raises:
      UserError: `here` failed on another process. Where it failed, its own error.
    """
    import numpy as np

    if not several():
        return here()
    from jax.experimental import multihost_utils

    answer, error = _FAILED, None
    try:
        answer = here()
    except Exception as raised:
        error = raised
    answers = multihost_utils.process_allgather(np.int32(answer)).tolist()
    if error is not None:
        raise error
    if _FAILED in answers:
        raise UserError(f'process {answers.index(_FAILED)} failed; its own message says why')
    return int(answers[0])


def first_decides(decide: Callable[[], int | None]) -> int | None:
    """Runs `decide`, which returns a natural number or None, on the first process alone.

    Its result, or its failure, is that of all. All must call it.
    """

    def here() -> int:
        answer = decide() if is_first() else None
        return _NONE if answer is None else answer

    answer = together(here)
    return None if answer == _NONE else answer
