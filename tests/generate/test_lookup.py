"""Does the draft from the text itself continue the longest, latest run that was there before?"""

import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.generate.lookup import LONGEST, propose


def slowly(tokens: list[int], count: int) -> list[int] | None:
    for size in range(LONGEST, 0, -1):
        for end in range(len(tokens) - 2, size - 2, -1):
            if tokens[end + 1 - size : end + 1] == tokens[len(tokens) - size :]:
                drafts = list(tokens)
                return [drafts.append(drafts[end + 1 + k]) or drafts[-1] for k in range(count)]
    return None


@pytest.mark.parametrize('seed', range(4))
def test_equals_a_slow_search(seed):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 6, (16, 20))
    lengths = rng.integers(1, 21, 16)
    drafts, found = propose(jnp.asarray(tokens), jnp.asarray(lengths), 5)
    for row, length in enumerate(lengths):
        expected = slowly(tokens[row, :length].tolist(), 5)
        assert bool(found[row]) == (expected is not None)
        if expected is not None:
            assert drafts[row].tolist() == expected


def test_a_short_period_goes_on():
    drafts, found = propose(jnp.array([[5, 1, 2, 1, 2, 0, 0]]), jnp.array([5]), 5)
    assert found[0]
    assert drafts[0].tolist() == [1, 2, 1, 2, 1]
