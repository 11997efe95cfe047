"""Forecast of the largest run of a ladder from the others, with its law and interval.

The rule that chooses the law uses only the runs below the largest size:

    Take the four largest of them. If their log loss bends upward over log x, that is, if the gain
    from size is slowing, use the law with an irreducible term through these four; otherwise, use
    the power law through the three largest.

The rule is local because the smallest GPTs learn little more than which pairs of tokens are
frequent, and their loss hardly falls with size; then it falls fast, then ever more slowly. Neither
law can steepen, so neither can follow that beginning, and the forecast is needed at the other end.
The rule tests for a bend instead of cross-validating because, with four to six runs, the score of
leaving one out depends mostly on how badly the smallest is predicted, which says nothing about the
next size up. On simulated ladders of all these shapes, the rule is within 2% more often than either
law through all sizes (tests/scaling/test_ladder_forecast.py).

The result is fit.json, with every float at full precision:

    x, loss: all runs, by size.
    rule: the rule in words.
    law: the PowerLaw that it chose, with 'fitted_x'.
    exponent, irreducible: intervals of these constants.
    both: the two laws fitted to all runs but the largest, each with 'predicted' and
      'relative_error', for comparison; the rule does not use them.
    held_out: 'x', 'reached', 'predicted', 'relative_error' ((predicted - reached) / reached),
      'tolerance', 'within' (whether the error is within the tolerance) and 'interval' (of the
      prediction).
    intervals_mean: how reliable the intervals are, in words.
    band: 'x', 'low', 'high': the interval of the law along x.
    falls_strictly: whether the mean loss of each size is below that of the size before.
    rises_at: the sizes where it is not.
"""

import dataclasses
from typing import Any

import numpy as np

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import bootstrap, power_law

FORECAST_TOLERANCE = 0.02
MIN_SIZES = 3  # two to fit, one to forecast
# Each is one more than the number of parameters of the law that is fitted.
BEND_SIZES, STRAIGHT_SIZES = 4, 3
# Wider than HUBER_DELTA, which suits hundreds of digitized runs: a ladder has a handful of evenly
# spaced runs, for which a sum of absolute residuals is flat at its minimum. Differences between
# seeds (under 1%) count quadratically, a failed run linearly.
LADDER_HUBER_DELTA = 0.02
INTERVAL_CAVEAT = (
    'the spread over the choice of runs; it leaves out the error of the form of the law, which is '
    'larger: on simulated ladders of 6 to 8 sizes the 95% interval contained the reached loss '
    'about half the time'
)
BAND_POINTS = 64
DRAWS = 400
LAW_RULE = (
    f'if log loss over log x bends upward over the {BEND_SIZES} largest fitted sizes: the law '
    f'with E through these; else the power law without E through the {STRAIGHT_SIZES} largest'
)


def choose_law(
    x: Any, loss: Any, *, delta: float = LADDER_HUBER_DELTA, tries: int | None = None
) -> power_law.PowerLaw:
    """Fit the law that the rule of this module chooses; its `points` is the number of fitted runs.

    Args:
      x: the scaled variable, [runs].
      loss: the loss reached, [runs].
      delta: residual at which the Huber loss turns from quadratic to linear.
      tries: number of starts of the search; None: all.

    Raises:
      UserError: as in `power_law.check_points`.
    """
    x, loss = power_law.check_points(x, loss)
    sizes = np.unique(x)
    top = x >= sizes[-BEND_SIZES:][0]
    bends = sizes.size >= BEND_SIZES and log_log_curvature(x[top], loss[top]) > 0
    if not bends:
        top = x >= sizes[-STRAIGHT_SIZES:][0]
    return power_law.fit_power_law(
        x[top], loss[top], with_irreducible=bends, delta=delta, tries=tries
    )


def log_log_curvature(x: np.ndarray, loss: np.ndarray) -> float:
    """Return the curvature of log loss over log x by least squares; it needs three sizes.

    It is positive if the loss falls more and more slowly.
    """
    z = np.log(x)
    return float(np.polyfit(z - z.mean(), np.log(loss), 2)[0])


def leave_largest_out(
    x: Any,
    loss: Any,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    tolerance: float = FORECAST_TOLERANCE,
    delta: float = LADDER_HUBER_DELTA,
) -> dict[str, Any]:
    """Fit all runs but the largest, forecast the largest, and compare.

    Several runs of one size (seeds) are separate points of the fit; the largest size is compared by
    its mean loss.

    Args:
      x: the scaled variable, [runs].
      loss: the loss reached, [runs].
      draws: number of bootstrap resamples.
      seed: seed of the random numbers.
      tolerance: relative error up to which 'within' is true.
      delta: residual at which the Huber loss turns from quadratic to linear.

    Returns:
      The content of fit.json; the module docstring lists its keys.

    Raises:
      UserError: fewer than three sizes, or as in `power_law.check_points`.
    """
    x, loss = power_law.check_points(x, loss)
    sizes = np.unique(x)
    if sizes.size < MIN_SIZES:
        raise UserError(
            f'forecast: needs at least {MIN_SIZES} sizes to leave out the largest, got {sizes.size}'
        )
    order = np.argsort(x, kind='stable')
    x, loss = x[order], loss[order]
    is_fitted, largest = x < sizes[-1], float(sizes[-1])
    fitted_x, fitted_loss, reached = x[is_fitted], loss[is_fitted], loss[~is_fitted]
    law = choose_law(fitted_x, fitted_loss, delta=delta)
    both = {}
    for name, with_irreducible in (('power', False), ('power_and_irreducible', True)):
        fitted = power_law.fit_power_law(
            fitted_x, fitted_loss, with_irreducible=with_irreducible, delta=delta
        )
        both[name] = dataclasses.asdict(fitted) | _compare(fitted, largest, reached)
    means = np.array([loss[x == size].mean() for size in sizes])
    rises = sizes[1:][np.diff(means) >= 0]
    spread = _bootstrap(fitted_x, fitted_loss, largest, draws=draws, seed=seed, delta=delta)
    comparison = _compare(law, largest, reached)
    return {
        'x': x.tolist(),
        'loss': loss.tolist(),
        'rule': LAW_RULE,
        'intervals_mean': INTERVAL_CAVEAT,
        'law': dataclasses.asdict(law) | {'fitted_x': fitted_x[-law.points :].tolist()},
        'exponent': spread['exponent'],
        'irreducible': spread['irreducible'],
        'both': both,
        'held_out': {
            'x': largest,
            'reached': float(reached.mean()),
            **comparison,
            'tolerance': tolerance,
            'within': abs(comparison['relative_error']) <= tolerance,
            'interval': spread['predicted'],
        },
        'band': spread['band'],
        'falls_strictly': rises.size == 0,
        'rises_at': rises.tolist(),
    }


def _compare(law: power_law.PowerLaw, largest: float, reached: np.ndarray) -> dict[str, Any]:
    """Return the prediction, and its error relative to the mean of the losses reached."""
    predicted, mean = float(power_law.predict_loss(law, largest)), float(reached.mean())
    return {'predicted': predicted, 'relative_error': (predicted - mean) / mean}


def _bootstrap(
    x: np.ndarray, loss: np.ndarray, largest: float, *, draws: int, seed: int, delta: float
) -> dict[str, Any]:
    """Compute intervals from resamples, applying the whole rule to each, choice included."""
    # Enough sizes for the rule, but fewer than there are, so that resamples can differ.
    sizes = max(2, min(BEND_SIZES, np.unique(x).size - 1))
    grid = np.geomspace(x.min(), largest, BAND_POINTS)

    def evaluate(x: np.ndarray, loss: np.ndarray) -> np.ndarray:
        law = choose_law(x, loss, delta=delta, tries=2)
        return np.concatenate([[law.exponent, law.irreducible], power_law.predict_loss(law, grid)])

    values = bootstrap.bootstrap_statistic(x, loss, evaluate, draws=draws, seed=seed, sizes=sizes)
    exponent, irreducible, *along_grid = (
        bootstrap.summarize_draws(column, runs=x.size, seed=seed, sizes=sizes)
        for column in values.T
    )
    return {
        'exponent': exponent,
        'irreducible': irreducible,
        'predicted': along_grid[-1],
        'band': {
            'x': grid.tolist(),
            'low': [interval['low'] for interval in along_grid],
            'high': [interval['high'] for interval in along_grid],
        },
    }


def describe_forecast(fit: dict[str, Any]) -> list[str]:
    """Describe the result of `leave_largest_out` in lines for the user."""
    law, held_out, exponent = power_law.law_from_dict(fit['law']), fit['held_out'], fit['exponent']
    interval = held_out['interval']
    confidence = f'{100 * exponent["level"]:g}% bootstrap over {exponent["runs"]} runs'
    formula = power_law.format_law(law, variable_letter(fit))
    within = 'within' if held_out['within'] else 'outside'
    lines = [
        f'law without the largest: loss = {formula}, through the {law.points} largest of the '
        'other runs',
        f'exponent {law.exponent:.3f}, from {exponent["low"]:.3f} to {exponent["high"]:.3f} '
        f'({interval["note"] or confidence})',
        f'forecast at {held_out["x"]:,.0f}: {held_out["predicted"]:.4f}, from '
        f'{interval["low"]:.4f} to {interval["high"]:.4f}; reached {held_out["reached"]:.4f}: '
        f'{100 * held_out["relative_error"]:+.2f}%, {within} {100 * held_out["tolerance"]:g}%',
    ]
    if law.note:
        lines.append(f'note: {law.note}')
    rises = ', '.join(f'{size:,.0f}' for size in fit['rises_at'])
    if rises:
        lines.append(f'bigger is not better at {rises}')
    else:
        lines.append('bigger is better: the loss falls with every size')
    return lines


def variable_letter(fit: dict[str, Any]) -> str:
    """Return the variable of a forecast, N, D or C, from the name of its column."""
    name = str(fit.get('x_column', 'params'))
    return 'D' if name.startswith('tokens') else 'C' if name.startswith('flops') else 'N'
