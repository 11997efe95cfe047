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
    both: the two laws fitted to all runs but the largest, each with 'predicted' and
      'relative_error', for comparison; the rule does not use them.
    baselines: 'no_change' (the lowest loss of the others) and 'line' (in logarithms, through the
      two largest of them), each with 'predicted' and 'relative_error'.
    held_out: 'x', 'reached', 'predicted', 'relative_error' ((predicted - reached) / reached),
      'tolerance', 'within' (whether the error is within the tolerance), 'interval' ('low', 'high',
      'level', 'note') and 'inside' (whether the interval contains the loss; None without one).
    band: 'x', 'low', 'high': the interval of a run of size x.

The interval is that of the posterior of law_posterior.py, which contains the error of the law's
form and the noise of a run; four runs of three sizes are the least that it takes. It is widened to
contain the forecast of the rule, which is the more accurate of the two on ladders.
    falls_strictly: whether the mean loss of each size is below that of the size before.
    rises_at: the sizes where it is not.
"""

import dataclasses
from typing import Any

import numpy as np

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import law_posterior, power_law
from gpt_jax.scaling.bootstrap import CONFIDENCE_LEVEL
from gpt_jax.scaling.law_forms import LogData

FORECAST_TOLERANCE = 0.02
MIN_SIZES = 3  # two to fit, one to forecast
# Each is one more than the number of parameters of the law that is fitted.
BEND_SIZES, STRAIGHT_SIZES = 4, 3
# Wider than HUBER_DELTA, which suits hundreds of digitized runs: a ladder has a handful of evenly
# spaced runs, for which a sum of absolute residuals is flat at its minimum. Differences between
# seeds (under 1%) count quadratically, a failed run linearly.
LADDER_HUBER_DELTA = 0.02
BAND_POINTS = 24
ONE_LENGTH = 1e9  # tokens: any number, since all sizes have the same
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
    tolerance: float = FORECAST_TOLERANCE,
    delta: float = LADDER_HUBER_DELTA,
    band_points: int = BAND_POINTS,
) -> dict[str, Any]:
    """Fit all runs but the largest, forecast the largest, and compare.

    Several runs of one size (seeds) are separate points of the fit; the largest size is compared by
    its mean loss.

    Args:
      x: the scaled variable, [runs].
      loss: the loss reached, [runs].
      tolerance: relative error up to which 'within' is true.
      delta: residual at which the Huber loss turns from quadratic to linear.
      band_points: number of sizes of the band, at least 2: the ends.

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
    comparison = _compare(law, largest, reached)
    band, note = _predict_band(law, fitted_x, fitted_loss, largest, band_points)
    low, high = (band[end][-1] if band['x'] else None for end in ('low', 'high'))
    inside = None if low is None or high is None else low <= float(reached.mean()) <= high
    return {
        'x': x.tolist(),
        'loss': loss.tolist(),
        'rule': LAW_RULE,
        'law': dataclasses.asdict(law) | {'fitted_x': fitted_x[-law.points :].tolist()},
        'both': both,
        'baselines': _compute_baselines(fitted_x, fitted_loss, largest, float(reached.mean())),
        'held_out': {
            'x': largest,
            'reached': float(reached.mean()),
            **comparison,
            'tolerance': tolerance,
            'within': abs(comparison['relative_error']) <= tolerance,
            'interval': {'low': low, 'high': high, 'level': CONFIDENCE_LEVEL, 'note': note},
            'inside': inside,
        },
        'band': band,
        'falls_strictly': rises.size == 0,
        'rises_at': rises.tolist(),
    }


def _compare(law: power_law.PowerLaw, largest: float, reached: np.ndarray) -> dict[str, Any]:
    """Return the prediction, and its error relative to the mean of the losses reached."""
    predicted, mean = float(power_law.predict_loss(law, largest)), float(reached.mean())
    return {'predicted': predicted, 'relative_error': (predicted - mean) / mean}


def _compute_baselines(
    x: np.ndarray, loss: np.ndarray, largest: float, reached: float
) -> dict[str, dict[str, float]]:
    """Return what no change and a line through the two largest sizes predict."""
    (x0, x1), means = np.unique(x)[-2:], [loss[x == size].mean() for size in np.unique(x)[-2:]]
    slope = np.log(means[1] / means[0]) / np.log(x1 / x0)
    predicted = {'no_change': float(loss.min()), 'line': float(means[1] * (largest / x1) ** slope)}
    return {
        name: {'predicted': value, 'relative_error': (value - reached) / reached}
        for name, value in predicted.items()
    }


def _predict_band(
    law: power_law.PowerLaw, x: np.ndarray, loss: np.ndarray, largest: float, points: int
) -> tuple[dict[str, list[float]], str]:
    """Return the interval of a run along x, up to the largest; empty, with a note, if too few."""
    band: dict[str, list[float]] = {'x': [], 'low': [], 'high': []}
    try:
        posterior = fit_posterior_over(x, loss)
    except UserError:
        least = f'{law_posterior.MIN_RUNS} runs of {law_posterior.MIN_SIZES} sizes'
        return band, f'no interval: too few sizes, {least} are the least'
    for size in np.geomspace(x.min(), largest, points):
        low, high = predict_interval(posterior, size)
        band['x'].append(float(size))
        band['low'].append(low)
        band['high'].append(high)
    predicted = float(power_law.predict_loss(law, largest))
    band['low'][-1] = min(band['low'][-1], predicted)
    band['high'][-1] = max(band['high'][-1], predicted)
    return band, ''


def fit_posterior_over(x: np.ndarray, loss: np.ndarray) -> law_posterior.LawPosterior:
    """Fit the posterior to runs of one variable, as sizes with one number of tokens.

    Raises:
      UserError: there are too few runs or sizes.
    """
    log_d = np.full(len(x), np.log(ONE_LENGTH))
    return law_posterior.fit_posterior(LogData(np.log(x), log_d, log_d, np.log(loss)))


def predict_interval(posterior: law_posterior.LawPosterior, x: float) -> tuple[float, float]:
    """Return the ends of the interval of a run at x, by the result of `fit_posterior_over`."""
    tail = (1 - CONFIDENCE_LEVEL) / 2
    low, high = posterior.predict(x, ONE_LENGTH).compute_quantiles(tail, 1 - tail)
    return low, high


def describe_forecast(fit: dict[str, Any]) -> list[str]:
    """Describe the result of `leave_largest_out` in lines for the user."""
    law, held_out = power_law.law_from_dict(fit['law']), fit['held_out']
    interval = held_out['interval']
    formula = power_law.format_law(law, variable_letter(fit))
    within = 'within' if held_out['within'] else 'MISSED: outside'
    ends = interval['note']
    if not ends:
        side = 'inside' if held_out['inside'] else 'OUTSIDE'
        ends = (
            f'{100 * interval["level"]:g}% interval from {interval["low"]:.4f} to '
            f'{interval["high"]:.4f}, reached {side} of it'
        )
    errors = {name: 100 * base['relative_error'] for name, base in fit['baselines'].items()}
    lines = [
        f'law without the largest: loss = {formula}, through the {law.points} largest of the '
        'other runs',
        f'forecast at {held_out["x"]:,.0f}: {held_out["predicted"]:.4f}, reached '
        f'{held_out["reached"]:.4f}: {100 * held_out["relative_error"]:+.2f}%, {within} '
        f'{100 * held_out["tolerance"]:g}%; {ends}',
        f'baselines: no change {errors["no_change"]:+.2f}%, a line through the last two sizes '
        f'{errors["line"]:+.2f}%',
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
