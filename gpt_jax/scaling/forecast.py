"""What will the next size up reach, and was the forecast right? Leave the largest out, predict it, then look.

The rule by which a law is chosen sees only the runs that are not the largest:

    Fit the four largest of them. Where their log loss bends upward over log x, that is, where the gain from size is
    slowing, use the law with an irreducible term; where it does not, use the power law through the three largest.

Why so local: the smallest GPTs know little more than which pairs of tokens are frequent, and their loss hardly falls
with size; then it falls fast, then ever more slowly. Neither law can steepen, so neither can follow that beginning, and
the forecast is asked for at the other end. Why a bend and not cross-validation: with four to six runs, leaving one out
is decided by how badly the smallest is met, which says nothing about the next size up. On simulated ladders of all
these shapes the rule is within 2% more often than either law through all sizes (tests/scaling/test_forecast.py).

What comes out is fit.json, every float at full precision:

    x, loss: all runs, by size.
    rule: the rule in words. law: the PowerLaw it chose, with 'fitted_x'. exponent, irreducible: its intervals.
    both: the two laws fitted to all runs but the largest, each with 'predicted' and 'relative_error', for
      comparison; the rule does not look at them.
    held_out: 'x', 'reached', 'predicted', 'relative_error' ((predicted - reached) / reached), 'tolerance',
      'within' (the error is inside the tolerance) and 'interval' (of the prediction).
    intervals_mean: in words, how far the intervals can be believed.
    band: 'x', 'low', 'high': the interval of the law along x.
    falls_strictly: the mean loss of each size is below that of the one before; rises_at: the sizes where not.
"""

import dataclasses
from typing import Any

import numpy as np

from gpt_jax.errors import UserError
from gpt_jax.scaling import intervals, laws

TOLERANCE = 0.02
FEWEST = 3  # sizes: two to fit, one to forecast
BEND_SIZES, STRAIGHT_SIZES = 4, 3  # each one more than the parameters of the law that is fitted to them
# Wider than the one for hundreds of digitized runs: a ladder has a handful, at even distances, and there a sum of
# absolute residuals is flat at its minimum. Residuals of seeds (under 1%) count squared, a run gone wrong does not.
DELTA = 0.02
INTERVALS_MEAN = (
    "how the answer moves with the choice of runs; the error of the law's form is not in it, and it is the larger one: "
    'on simulated ladders of 6 to 8 sizes the 95% interval held the reached loss about half the time'
)
BAND_POINTS = 64
DRAWS = 400
RULE = (
    f'if log loss over log x bends upward over the {BEND_SIZES} largest fitted sizes: the law with E through these; '
    f'else the power law without E through the {STRAIGHT_SIZES} largest'
)


def choose(x: Any, loss: Any, *, delta: float = DELTA, tries: int | None = None) -> laws.PowerLaw:
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
    draws: int = DRAWS,
    seed: int = 0,
    tolerance: float = TOLERANCE,
    delta: float = DELTA,
) -> dict[str, Any]:
    """Fits all runs but the largest, forecasts the largest, and compares.

    Several runs of one size (seeds) are fitted one by one; the largest size is compared by its mean loss.

    Returns:
      What fit.json holds; the head of this file names its keys.

    Raises:
      UserError: fewer than three sizes, or a value that no power law can have.
    """
    x, loss = laws.checked(x, loss)
    sizes = np.unique(x)
    if sizes.size < FEWEST:
        raise UserError(f'forecast: {sizes.size} sizes; leaving out the largest needs at least {FEWEST}')
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
    return {
        'x': x.tolist(),
        'loss': loss.tolist(),
        'rule': RULE,
        'intervals_mean': INTERVALS_MEAN,
        'law': dataclasses.asdict(law) | {'fitted_x': x[fitted][-law.points :].tolist()},
        'exponent': spread['exponent'],
        'irreducible': spread['irreducible'],
        'both': both,
        'held_out': _outcome(law, largest, loss[~fitted], tolerance) | {'interval': spread['predicted']},
        'band': spread['band'],
        'falls_strictly': rises.size == 0,
        'rises_at': rises.tolist(),
    }


def verdict(fit: dict[str, Any]) -> list[str]:
    """What `leave_largest_out` found, in lines for the user."""
    law, held, exponent = laws.from_dict(fit['law']), fit['held_out'], fit['exponent']
    low, high = held['interval']['low'], held['interval']['high']
    sure = held['interval']['note'] or f'{100 * exponent["level"]:g}% bootstrap over {exponent["runs"]} runs'
    lines = [
        f'law without the largest: loss = {laws.formula(law, letter(fit))}, through the {law.points} largest of the '
        'other runs',
        f'exponent {law.exponent:.3f}, from {exponent["low"]:.3f} to {exponent["high"]:.3f} ({sure})',
        f'forecast at {held["x"]:,.0f}: {held["predicted"]:.4f}, from {low:.4f} to {high:.4f}; '
        f'reached {held["reached"]:.4f}: {100 * held["relative_error"]:+.2f}%, '
        f'{"within" if held["within"] else "outside"} {100 * held["tolerance"]:g}%',
    ]
    if law.note:
        lines.append(f'note: {law.note}')
    rises = ', '.join(f'{size:,.0f}' for size in fit['rises_at'])
    lines.append(f'bigger is not better at {rises}' if rises else 'bigger is better: the loss falls with every size')
    return lines


def letter(fit: dict[str, Any]) -> str:
    """The variable of what `leave_largest_out` found, by the name of its column."""
    name = str(fit.get('x_column', 'params'))
    return 'D' if name.startswith('tokens') else 'C' if name.startswith('flops') else 'N'


def _judged(law: laws.PowerLaw, largest: float, reached: np.ndarray) -> dict[str, Any]:
    predicted = float(laws.predict(law, largest))
    mean = float(reached.mean())
    return dataclasses.asdict(law) | {'predicted': predicted, 'relative_error': (predicted - mean) / mean}


def _outcome(law: laws.PowerLaw, largest: float, reached: np.ndarray, tolerance: float) -> dict[str, Any]:
    judged = _judged(law, largest, reached)
    error = judged['relative_error']
    return {
        'x': largest,
        'reached': float(reached.mean()),
        'predicted': judged['predicted'],
        'relative_error': error,
        'tolerance': tolerance,
        'within': abs(error) <= tolerance,
    }


def _spread(x: np.ndarray, loss: np.ndarray, largest: float, *, draws: int, seed: int, delta: float) -> dict[str, Any]:
    """The intervals: every resample goes through the rule afresh, the choice of the law included."""
    # Enough sizes for the rule as it stands where they leave a choice, or every resample would be the same.
    sizes = max(2, min(BEND_SIZES, np.unique(x).size - 1))
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
