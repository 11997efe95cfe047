"""How sure is a number that was read off these runs? The bootstrap: draw the runs anew and read it again."""

from collections.abc import Callable
from typing import Any

import numpy as np

from gpt_jax.errors import UserError
from gpt_jax.scaling import laws

LEVEL = 0.95
ENOUGH = 5  # with fewer runs a resample is mostly repeats of two or three of them
RESAMPLED = 'runs, with replacement; a resample of fewer than {} sizes is drawn again'


def bootstrap(
    x: Any,
    loss: Any,
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray],
    *,
    draws: int,
    seed: int,
    sizes: int,
) -> np.ndarray:
    """The values of `statistic` over resampled runs.

    Args:
      x, loss: [runs].
      statistic: of the resampled x and loss, sorted by run; returns a vector, [outputs].
      sizes: the least number of distinct x that the statistic can be read off.

    Returns:
      [draws, outputs].

    Raises:
      UserError: the runs have fewer than `sizes` distinct x, so that no resample would do.
    """
    x, loss = laws.checked(x, loss)
    if np.unique(x).size < sizes:
        raise UserError(f'bootstrap: {np.unique(x).size} sizes, and the statistic needs {sizes}')
    random = np.random.default_rng(seed)
    # Few runs have few distinct resamples (126 of 5 runs), so most draws are already known.
    known: dict[tuple[int, ...], np.ndarray] = {}
    values: list[np.ndarray] = []
    while len(values) < draws:
        picked = np.sort(random.integers(x.size, size=x.size))
        if np.unique(x[picked]).size < sizes:
            continue
        key = tuple(picked.tolist())
        if key not in known:
            known[key] = np.atleast_1d(statistic(x[picked], loss[picked]))
        values.append(known[key])
    return np.array(values)


def interval(values: np.ndarray, *, runs: int, seed: int, sizes: int) -> dict[str, Any]:
    """The central interval of one output's draws, [draws], as a JSON-able dict that says where it comes from."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {
        'low': float(low),
        'high': float(high),
        'level': LEVEL,
        'resampled': RESAMPLED.format(sizes),
        'runs': runs,
        'draws': len(values),
        'seed': seed,
        'note': '' if runs >= ENOUGH else f'{runs} runs are too few: read no confidence into this interval',
    }
