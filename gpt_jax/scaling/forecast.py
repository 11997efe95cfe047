"""What will the next size up reach, and was the forecast right? Leave the largest out, predict it, then look.

The rule by which a law is chosen sees only the runs that are not the largest:

    Fit the four largest of them. Where their log loss bends upward over log x, that is, where the gain from size is
    slowing, use the law with an irreducible term; where it does not, use the power law through the three largest.

Why so local: below some 1e4 parameters a byte-level GPT knows little more than which pair of bytes is frequent, and
its loss hardly falls; then it falls fast, then ever more slowly. One law over all of it is wrong at both ends, and the
forecast is asked at the upper one. Both laws are monotone in log-log slope, so neither can follow the fall's beginning.
Why not cross-validation: with four or five runs it is decided by the noise of the smallest, and on simulated ladders it
never forecast better than this (tests/scaling/test_forecast.py holds the simulation).
"""

import dataclasses
from typing import Any

import numpy as np

from gpt_jax.errors import UserError
from gpt_jax.scaling import intervals, laws

TOLERANCE = 0.02
BEND_SIZES, STRAIGHT_SIZES = 4, 3  # each one more than the parameters of the law that is fitted to them
BAND_POINTS = 64
RULE = (
    f'if log loss over log x bends upward over the {BEND_SIZES} largest fitted sizes: the law with E through these; '
    f'else the power law without E through the {STRAIGHT_SIZES} largest'
)


def choose(x: Any, loss: Any, *, delta: float = laws.HUBER_DELTA, tries: int | None = None) -> laws.PowerLaw:
    """The law that the rule of this file fits to these runs; `points` of it are the ones it was fitted to.

    Raises:
      UserError: a value that no power law can have, or fewer than two sizes.
    """
    x, loss = laws.checked(x, loss)
    sizes = np.unique(x)
    top = x >= sizes[-BEND_SIZES:][0]
    bends = sizes.size >= BEND_SIZES and bend(x[top], loss[top]) > 0
    if not bends:
        top = x >= sizes[-STRAIGHT_SIZES:][0]
    return laws.fit(x[top], loss[top], with_irreducible=bends, delta=delta, tries=tries)


def bend(x: np.ndarray, loss: np.ndarray) -> float:
    """The curvature of log loss over log x, by least squares; above zero where the fall slows. Needs three sizes."""
    z = np.log(x)
    return float(np.polyfit(z - z.mean(), np.log(loss), 2)[0])


def leave_largest_out(
    x: Any,
    loss: Any,
    *,
    draws: int = 1000,
    seed: int = 0,
    tolerance: float = TOLERANCE,
    delta: float = laws.HUBER_DELTA,
) -> dict[str, Any]:
    """Fits all runs but the largest, forecasts the largest, and compares.

    Several runs of one size (seeds) are fitted one by one; the largest size is compared by its mean loss.

    Returns:
      A dict that JSON can hold, every float at full precision:
        x, loss: all runs, by size.
        rule: the rule in words. law: the PowerLaw it chose, with 'fitted_x'. exponent, irreducible: its intervals.
        both: the two laws fitted to all runs but the largest, each with 'predicted' and 'relative_error', for
          comparison; the rule does not look at them.
        held_out: 'x', 'reached', 'predicted', 'relative_error' ((predicted - reached) / reached), 'tolerance',
          'within' (the error is inside the tolerance) and 'interval' (of the prediction).
        band: 'x', 'low', 'high': the interval of the law along x.
        falls_strictly: the mean loss of each size is below that of the one before; rises_at: the sizes where not.

    Raises:
      UserError: fewer than three sizes, or a value that no power law can have.
    """
    x, loss = laws.checked(x, loss)
    sizes = np.unique(x)
    if sizes.size < 3:
        raise UserError(f'forecast: {sizes.size} sizes; leaving out the largest needs at least 3')
    order = np.argsort(x, kind='stable')
    x, loss = x[order], loss[order]
    fitted, largest = x < sizes[-1], float(sizes[-1])
    law = choose(x[fitted], loss[fitted], delta=delta)
    both = {
        name: _judged(laws.fit(x[fitted], loss[fitted], with_irreducible=flag, delta=delta), largest, loss[~fitted])
        for name, flag in (('power', False), ('power_and_irreducible', True))
    }
    means = np.array([loss[x == size].mean() for size in sizes])
    rises = sizes[1:][np.diff(means) >= 0]
    spread = _spread(x[fitted], loss[fitted], largest, draws=draws, seed=seed, delta=delta)
    predicted = _judged(law, largest, loss[~fitted])
    return {
        'x': x.tolist(),
        'loss': loss.tolist(),
        'rule': RULE,
        'law': dataclasses.asdict(law) | {'fitted_x': x[fitted][-law.points :].tolist()},
        'exponent': spread['exponent'],
        'irreducible': spread['irreducible'],
        'both': both,
        'held_out': {
            'x': largest,
            'reached': float(means[-1]),
            'predicted': predicted['predicted'],
            'relative_error': predicted['relative_error'],
            'tolerance': tolerance,
            'within': abs(predicted['relative_error']) <= tolerance,
            'interval': spread['predicted'],
        },
        'band': spread['band'],
        'falls_strictly': rises.size == 0,
        'rises_at': rises.tolist(),
    }


def _judged(law: laws.PowerLaw, largest: float, reached: np.ndarray) -> dict[str, Any]:
    predicted = float(laws.predict(law, largest))
    mean = float(reached.mean())
    return dataclasses.asdict(law) | {'predicted': predicted, 'relative_error': (predicted - mean) / mean}


def _spread(x: np.ndarray, loss: np.ndarray, largest: float, *, draws: int, seed: int, delta: float) -> dict[str, Any]:
    """The intervals: every resample goes through the rule afresh, the choice of the law included."""
    sizes = min(STRAIGHT_SIZES, np.unique(x).size)
    grid = np.geomspace(x.min(), largest, BAND_POINTS)

    def read(x: np.ndarray, loss: np.ndarray) -> np.ndarray:
        law = choose(x, loss, delta=delta, tries=2)
        return np.concatenate([[law.exponent, law.irreducible], laws.predict(law, grid)])

    values = intervals.bootstrap(x, loss, read, draws=draws, seed=seed, sizes=sizes)
    about = {'runs': x.size, 'seed': seed, 'sizes': sizes}
    along = [intervals.interval(column, **about) for column in values[:, 2:].T]
    return {
        'exponent': intervals.interval(values[:, 0], **about),
        'irreducible': intervals.interval(values[:, 1], **about),
        'predicted': along[-1],
        'band': {
            'x': grid.tolist(),
            'low': [each['low'] for each in along],
            'high': [each['high'] for each in along],
        },
    }
