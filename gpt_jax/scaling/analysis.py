"""What do these runs say? The whole of `fit`: clean, fit, hold the largest out, put the approaches side by side.

Everything comes back as one JSON-able dict, so that the table, --json and the figures show the same numbers.
"""

import dataclasses
from typing import Any

import numpy as np

from gpt_jax.errors import UserError
from gpt_jax.scaling import approaches, confidence, downstream, intervals, laws, outliers, profiles, splits, surface
from gpt_jax.scaling.runs import Runs

COLUMN = {'N': 'params', 'D': 'tokens', 'C': 'flops'}
POWER_DRAWS = 300  # of a power law's bootstrap; more move its intervals little
FEWEST_POWER = 4  # sizes in a resample
TRIES = 12  # starts of the fits beside the main one


def fit(
    runs: Runs, *, law: str = 'chinchilla', delta: float = surface.HUBER_DELTA, draws: int = 1000, seed: int = 0,
    holdout: str = '', at_flops: tuple[float, ...] = (), constants: dict[str, float] | None = None,
    keep_outliers: bool = False, which: tuple[str, ...] = ('3',), starts: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Fits a law over parameters and tokens, with everything that says how far it can be believed.

    Args:
      law: a key of forms.LAWS.
      draws: bootstrap resamples; 0 for none.
      holdout: a condition such as 'flops>=1e21'; the largest by FLOPs where empty.
      at_flops: budgets to split.
      constants: of the base law that 'repeated' holds fixed.
      which: of the approaches '1', '2', '3'.
      starts: of the main fit; None: all that the law has.

    Returns:
      data: the file, its SHA-256, the conventions of N and C, the number of runs fitted.
      left_out: row, name and reason of each row that is not.
      seed_noise: standard deviation of log loss between seeds and its degrees of freedom, or None.
      fit: the fields of surface.Surface. intervals: per constant, the fields of confidence.Interval.
      profiles: per constant, what profiles.profile returns.
      residuals: per run, params, tokens, flops, loss, row, name, curves and log_residual (measured over law).
      envelope: indices into residuals: the runs that nothing cheaper beats.
      held_out: what held_out returns.
      approaches: per approach a, b (N* ~ C^a, D* ~ C^b), n_coefficient, d_coefficient, cost (C = k N^p D), a_interval,
        band (N* along compute: flops, params_low, params_high), at (per budget flops, params, tokens, tokens_per_param,
        loss, params_low, params_high), note; of approach 2 also minima (approaches.Minimum), points
        (what their indices mean; between_runs: read off between runs, see slices.py) and akima; of approach 1 also
        envelope (indices into residuals).
      disagreements: sentences on approaches whose intervals of a, or of N* and D* at a budget, do not meet.
      downstream: what downstream.fit returns, where the runs have an error.

    Raises:
      UserError: the runs cannot carry the law.
    """
    runs, delta, noise = outliers.cleaned(law, runs, delta=delta, constants=constants, keep_outliers=keep_outliers)
    given = surface.data(runs)
    found = surface.fit(law, given, delta=delta, constants=constants, tries=starts)
    resamples, words = confidence.counts(runs, draws, seed)
    drawn = confidence.bootstrap(found, given, resamples, held=constants is not None) if draws else []
    result = measured(runs) | {
        'seed_noise': noise,
        'fit': dataclasses.asdict(found),
        'intervals': _intervals(found, drawn, words),
        'profiles': _profiles(found, given),
        'held_out': held_out(law, runs, holdout, delta=delta, constants=constants),
    }
    expected = np.log(found.predict(runs.params, runs.tokens, np.exp(given.u)))
    result['residuals']['log_residual'] = (given.log_loss - expected).tolist()
    if law != 'kaplan':
        result['approaches'], result['disagreements'] = splits.side_by_side(
            runs, found, drawn, words, at_flops, which, seed
        )
    if 'error' in runs.more:
        result['downstream'] = downstream.fit(runs, draws=min(draws, downstream.DRAWS), seed=seed)
    return result


def _intervals(found: surface.Surface, drawn: list[dict[str, float]], words: str) -> dict[str, Any]:
    if not drawn:
        return {}
    return {
        name: dataclasses.asdict(confidence.interval([one[name] for one in drawn], words)) for name in found.constants
    }


def _profiles(found: surface.Surface, given: surface.Data) -> dict[str, Any]:
    return {name: profiles.profile(found, given, name) for name in profiles.NAMES[found.law]}


def measured(runs: Runs) -> dict[str, Any]:
    """What `fit` and `power` say of the runs themselves, whether or not a law can be fitted to them."""
    return {
        'data': runs.about | {'runs': len(runs)},
        'left_out': runs.left_out,
        'residuals': {
            'params': runs.params.tolist(),
            'tokens': runs.tokens.tolist(),
            'flops': runs.flops.tolist(),
            'loss': runs.loss.tolist(),
            'row': runs.rows.tolist(),
            'name': runs.names,
            'curves': runs.curves,
        },
        'envelope': approaches.envelope(runs).tolist(),
    }


def held_out(
    law: str, runs: Runs, condition: str, *, delta: float, constants: dict[str, float] | None
) -> dict[str, Any]:
    """Fits without the top of the data and predicts it: mean, bias and worst error, in nats and percent."""
    top = chosen(runs, condition)
    rest, there = runs.take(~top), runs.take(top)
    try:
        found = surface.fit(law, surface.data(rest), delta=delta, constants=constants, tries=TRIES)
    except UserError as reason:
        return {'condition': condition or 'the largest by FLOPs', 'runs': int(top.sum()), 'note': str(reason)}
    predicted = found.predict(there.params, there.tokens, np.exp(surface.data(there).u))
    error = predicted - there.loss
    percent = 100 * error / there.loss
    return {
        'condition': condition or 'the largest by FLOPs',
        'runs': len(there),
        'fitted_runs': len(rest),
        'constants': found.constants,
        'mean_absolute_nats': float(np.abs(error).mean()),
        'bias_nats': float(error.mean()),
        'worst_nats': float(error[np.argmax(np.abs(error))]),
        'mean_absolute_percent': float(np.abs(percent).mean()),
        'bias_percent': float(percent.mean()),
        'worst_percent': float(percent[np.argmax(np.abs(percent))]),
        'note': '',
    }


def chosen(runs: Runs, condition: str) -> np.ndarray:
    """The runs that a condition such as 'flops>=1e21' means; those of the largest FLOPs where it is empty.

    Raises:
      UserError: it is no such condition, or it leaves nothing to fit or nothing to predict.
    """
    if not condition:
        return runs.flops >= runs.flops.max() * (1 - 1e-6)
    comparisons = {'>=': np.greater_equal, '<=': np.less_equal, '>': np.greater, '<': np.less}
    sign = next((sign for sign in comparisons if sign in condition), '>=')
    name, _, value = condition.partition(sign)
    columns = {'params': runs.params, 'tokens': runs.tokens, 'loss': runs.loss, 'flops': runs.flops, **runs.more}
    try:
        mask = comparisons[sign](columns[name.strip()], float(value))
    except (KeyError, ValueError):
        raise UserError(
            f"--holdout={condition}: wants COLUMN>=NUMBER, 'flops>=1e21' say; columns: {', '.join(columns)}"
        ) from None
    if mask.all() or not mask.any():
        raise UserError(
            f'--holdout={condition}: {int(mask.sum())} of {len(mask)} runs; it must leave some on each side'
        )
    return mask


def power(
    runs: Runs, over: str, *, irreducible: bool, delta: float, draws: int = POWER_DRAWS, seed: int = 0,
    keep_outliers: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """L(N), L(D) or L(C) with its leave-the-largest-out forecast, by forecast.py's rule and laws.py's fit.

    Returns:
      data, left_out, residuals, envelope: as `fit`, log_residual over this law. over: 'N', 'D' or 'C'.
      law: the fields of laws.PowerLaw. intervals: of its amplitude, exponent and irreducible loss, as
      intervals.interval makes them; none without draws or with too few sizes. forecast: what
      forecast.leave_largest_out returns, from three sizes on, with x_column.
    """
    from gpt_jax.scaling import forecast

    if not keep_outliers:
        runs = outliers.along(over, runs, irreducible=irreducible, delta=delta)
    x = runs.along(over)
    law = laws.fit(x, runs.loss, with_irreducible=irreducible, delta=delta)
    result = measured(runs) | {'over': over, 'law': dataclasses.asdict(law), 'intervals': {}}
    result['residuals']['log_residual'] = np.log(runs.loss / laws.predict(law, x)).tolist()
    if draws and np.unique(x).size > FEWEST_POWER:

        def read(x: np.ndarray, loss: np.ndarray) -> np.ndarray:
            one = laws.fit(x, loss, with_irreducible=irreducible, delta=delta, tries=2)
            return np.array([one.amplitude, one.exponent, one.irreducible])

        about = {'seed': seed, 'sizes': FEWEST_POWER}
        drawn = intervals.bootstrap(x, runs.loss, read, draws=min(draws, POWER_DRAWS), **about)
        names = ('amplitude', 'exponent', *(('irreducible',) if irreducible else ()))
        result['intervals'] = {
            name: intervals.interval(values, runs=x.size, **about) for name, values in zip(names, drawn.T, strict=False)
        }
    if np.unique(x).size >= forecast.FEWEST:
        result['forecast'] = forecast.leave_largest_out(x, runs.loss) | {'x_column': COLUMN[over]}
    return result


def as_ladder(result: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What plots.scaling_curve draws: the forecast of `power`'s result, and the runs as its records."""
    column = COLUMN[result['over']]
    runs = result['residuals']
    records = [
        {'name': name, 'status': 'done', column: x, 'loss': loss}
        for name, x, loss in zip(runs['name'], runs[column], runs['loss'], strict=True)
    ]
    return result['forecast'] | {'loss_column': 'loss'}, records


def plain(value: Any) -> Any:
    """The same for JSON: NaN and infinity become null, for which it has a word."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and value - value != 0:
        return None
    return value
