"""Analysis of finished runs: cleaning, law fits, held-out forecasts, comparison of approaches.

Everything is returned as one JSON-able dict, so that the table, --json and the figures show the
same numbers.
"""

import dataclasses
import math
from typing import Any

import numpy as np
import scipy.stats

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import (
    bootstrap,
    broken_law,
    downstream,
    envelope,
    identifiability,
    isoflop,
    lack_of_fit,
    ladder_forecast,
    law_posterior,
    outliers,
    parametric_fit,
    posterior_split,
    power_law,
    profiles,
    refits,
)
from gpt_jax.scaling.approaches import compare_approaches
from gpt_jax.scaling.compute_optimal import fit_cost
from gpt_jax.scaling.law_forms import has_optimal_split
from gpt_jax.scaling.runs import Runs

VARIABLE_COLUMNS = {'N': 'params', 'D': 'tokens', 'C': 'flops'}
POWER_DRAWS = 300  # bootstrap draws of a power law; more hardly change its intervals
MIN_POWER_SIZES = 4  # in a resample
SECONDARY_STARTS = 12  # starts of every fit except the main one
LARGEST = 'the largest by FLOPs'
REPEATED = 0.01  # log of tokens over unique tokens, beyond which data are repeated


def analyze_parametric(
    runs: Runs,
    *,
    law: str = 'auto',
    delta: float | None = None,
    residual: str = 'log',
    loss_function: str = 'huber',
    draws: int | None = None,
    seed: int = 0,
    holdout: str = '',
    at_flops: tuple[float, ...] = (),
    constants: dict[str, float] | None = None,
    keep_outliers: bool = False,
    which: tuple[str, ...] = ('3',),
    starts: int | None = None,
    curve: str = 'parabola',
    window: float = isoflop.WINDOW,
) -> dict[str, Any]:
    """Fit a law over parameters and tokens, and measure how reliable it is.

    Args:
      runs: the runs.
      law: a key of LAW_FORMS; or 'auto': Chinchilla's constants, and the split and the held-out
        errors of the posterior (`law_posterior.py`) too.
      delta: residual at which the Huber loss turns from quadratic to linear; None: as
        `outliers.clean_runs` chooses.
      residual: 'log' or 'loss': what the residuals are differences of.
      loss_function: 'huber' or 'squares', summed over the residuals.
      draws: number of draws of the constants; 0: none; None: as many as `bootstrap.choose_draws`
        says.
      seed: seed of the random numbers.
      holdout: condition on the runs to hold out, such as 'flops>=1e21'; '': the largest by FLOPs.
      at_flops: FLOP budgets to split.
      constants: constants of the base law, which 'repeated' then holds fixed.
      keep_outliers: whether runs far from the law are fitted too.
      which: the approaches to use, of '1', '2' and '3'.
      starts: number of starts of the main fit; None: all starts of the law.
      curve, window: of approach 2, as in `isoflop.CurveOptions`.

    Returns:
      data: the file, its SHA-256, the conventions of N and C, and the numbers of fitted runs and of
        their rows.
      left_out: row, name and reason of each row that is not fitted.
      notes: what was read in another way than expected.
      seed_noise: standard deviation of log loss between seeds and its degrees of freedom, or None.
      lack_of_fit: the result of `lack_of_fit.test_lack_of_fit`: None without seeds.
      design_gap: what the runs cannot identify and the run that would tell, or ''.
      failed_draws: number of draws that could not be refitted.
      fit: the fields of `parametric_fit.ParametricLaw`.
      intervals: for each constant, the fields of `bootstrap.Interval`.
      profiles: for each constant, the result of `profiles.profile_constant`.
      residuals: for each run, params, tokens, flops, loss, row, name, curves and log_residual (log
        of measured over predicted loss).
      envelope: the runs that no cheaper run beats, as indices into residuals.
      held_out: the result of `evaluate_holdout`; for 'auto' also 'auto', that of the posterior.
      approaches: for each approach, a, b (N* ~ C^a, D* ~ C^b), n_coefficient, d_coefficient, cost
        (C = k N^p D), a_interval, band (N* along compute: flops, params_low, params_high), at (for
        each budget, flops, params, tokens, tokens_per_param, loss, params_low, params_high), note;
        for approach 2 also minima (`isoflop.IsoflopMinimum`), points (the points that their indices
        refer to; between_runs: whether they are interpolated between runs) and akima; for approach
        1 also envelope (indices into residuals), budgets (FLOPs of the points of its line),
        between_runs and budgets_left_out. For 'auto', 'auto' is the split by the posterior.
      disagreements: sentences on approaches whose intervals of a, or of N* and D* at a budget, do
        not overlap.
      downstream: the result of `downstream.fit_downstream`, if the runs have an error.

    Raises:
      UserError: the runs cannot determine the law.
    """
    form = 'chinchilla' if law == 'auto' else law
    runs, delta, noise = outliers.clean_runs(
        form, runs, delta=delta, constants=constants, keep_outliers=keep_outliers
    )
    if residual == 'loss':
        delta *= float(np.median(runs.loss))  # a relative error of delta
    if loss_function == 'squares':
        delta = math.inf
    data = parametric_fit.to_log_data(runs)
    if form != 'repeated' and (repeats := int((data.d - data.u > REPEATED).sum())):
        note = (
            f'{repeats} of the runs repeat their data; the form {form} counts repeated tokens as '
            'new ones, --law=repeated does not'
        )
        runs = dataclasses.replace(runs, notes=[*runs.notes, note])
    fitted = parametric_fit.fit_parametric_law(
        form, data, delta=delta, constants=constants, tries=starts, residual=residual
    )
    draws = bootstrap.choose_draws(len(runs)) if draws is None else draws
    drawn = refits.draw_refits(runs, fitted, draws, seed, fixed_base=constants is not None)
    names = profiles.PROFILED_CONSTANTS.get(form, ())
    log_residual = data.log_loss - fitted.predict_data(data)
    gap = identifiability.find_design_gap(runs)
    factor = _compute_variance_factor(len(runs), int(runs.are_ends().sum()), len(names))
    result = describe_runs(runs) | {
        'seed_noise': noise,
        'lack_of_fit': lack_of_fit.test_lack_of_fit(runs, log_residual, len(fitted.constants)),
        'design_gap': gap.describe() if gap else '',
        'fit': dataclasses.asdict(fitted),
        'intervals': _compute_intervals(fitted, drawn),
        'resampled': drawn.words,
        'failed_draws': drawn.failed,
        'profiles': {
            name: profiles.profile_constant(fitted, data, name, variance_factor=factor)
            for name in names
        },
        'held_out': evaluate_holdout(
            form, runs, holdout, delta=delta, constants=constants, residual=residual
        ),
    }
    result['residuals']['log_residual'] = log_residual.tolist()
    if has_optimal_split(fitted.constants):
        curves = isoflop.CurveOptions(curve, window)
        result['approaches'], result['disagreements'] = compare_approaches(
            runs, fitted, drawn.constants, drawn.words, at_flops, which, seed, curves
        )
    if law == 'auto':
        _add_posterior(result, runs, at_flops, holdout, seed)
    if 'error' in runs.extra:
        few_draws = min(draws, downstream.DRAWS)
        result['downstream'] = downstream.fit_downstream(runs, draws=few_draws, seed=seed)
    return result


def _compute_variance_factor(rows: int, runs: int, constants: int) -> float:
    """Return by how much the rows of runs tell less of a constant than as many runs would.

    The rows of a run are taken for one, and the spread of so few runs is uncertain itself.
    """
    if rows == runs:
        return 1.0
    limit = scipy.stats.f.ppf(bootstrap.CONFIDENCE_LEVEL, 1, max(1, runs - constants))
    return float(rows / runs * limit / profiles.CHI_SQUARE_LIMIT)


def _compute_intervals(law: parametric_fit.ParametricLaw, drawn: refits.Refits) -> dict[str, Any]:
    if not drawn.constants:
        return {}
    draws = {name: [constants[name] for constants in drawn.constants] for name in law.constants}
    return {
        name: dataclasses.asdict(bootstrap.compute_interval(values, drawn.words))
        for name, values in draws.items()
    }


def _add_posterior(
    result: dict[str, Any], runs: Runs, at_flops: tuple[float, ...], holdout: str, seed: int
) -> None:
    """Add the split and the held-out errors of the posterior to a result."""
    posterior = law_posterior.fit_posterior(
        parametric_fit.to_log_data(runs), runs.get_checkpoint_clusters()
    )
    cost, largest = fit_cost(runs), float(runs.flops.max())
    result['approaches']['auto'] = posterior_split.describe_split(
        posterior, cost, largest, at_flops, level=bootstrap.CONFIDENCE_LEVEL, seed=seed
    )
    is_held_out = select_holdout(runs, holdout)
    try:
        rest = runs.take(~is_held_out)
        posterior = law_posterior.fit_posterior(
            parametric_fit.to_log_data(rest), rest.get_checkpoint_clusters()
        )
    except UserError as reason:
        result['held_out']['auto'] = {'note': str(reason)}
        return
    held_out = runs.take(is_held_out & runs.are_ends())
    tail = (1 - bootstrap.CONFIDENCE_LEVEL) / 2
    predicted, low, high = np.array(
        [
            posterior.predict(n, d).compute_quantiles(0.5, tail, 1 - tail)
            for n, d in zip(held_out.params, held_out.tokens, strict=True)
        ]
    ).T
    inside = int(((low <= held_out.loss) & (held_out.loss <= high)).sum())
    result['held_out']['auto'] = _measure_errors(predicted, held_out.loss) | {
        'inside': inside,
        'note': '',
    }


def _measure_errors(predicted: np.ndarray, reached: np.ndarray) -> dict[str, float]:
    """Return mean absolute error, bias and worst error, in units of the loss and in percent."""
    error = predicted - reached
    percent = 100 * error / reached
    return {
        'mean_absolute_nats': float(np.abs(error).mean()),
        'bias_nats': float(error.mean()),
        'worst_nats': float(error[np.argmax(np.abs(error))]),
        'mean_absolute_percent': float(np.abs(percent).mean()),
        'bias_percent': float(percent.mean()),
        'worst_percent': float(percent[np.argmax(np.abs(percent))]),
    }


def describe_runs(runs: Runs) -> dict[str, Any]:
    """Return the part of a result that describes the runs; the same for every law."""
    return {
        'data': runs.provenance | {'runs': int(runs.are_ends().sum()), 'rows': len(runs)},
        'left_out': runs.left_out,
        'notes': runs.notes,
        'residuals': {
            'params': runs.params.tolist(),
            'tokens': runs.tokens.tolist(),
            'flops': runs.flops.tolist(),
            'loss': runs.loss.tolist(),
            'row': runs.rows.tolist(),
            'name': runs.names,
            'curves': runs.curves,
        },
        'envelope': envelope.find_envelope(runs).tolist(),
    }


def evaluate_holdout(
    law: str,
    runs: Runs,
    condition: str,
    *,
    delta: float,
    constants: dict[str, float] | None,
    residual: str = 'log',
) -> dict[str, Any]:
    """Fit the law without the held-out runs, and predict those.

    Args:
      law: a key of LAW_FORMS.
      runs: all runs.
      condition: selects the held-out runs, as in `select_holdout`.
      delta: residual at which the Huber loss turns from quadratic to linear.
      constants: constants of the base law, which 'repeated' then holds fixed.
      residual: 'log' or 'loss'.

    Returns:
      condition, runs and rows (held out), fitted_runs, constants, note; and the mean absolute
      error, the bias and the worst error, in nats and percent. Only condition, runs, rows and note
      if the rest of the runs cannot determine the law.
    """
    is_held_out = select_holdout(runs, condition)
    rest, held_out = runs.take(~is_held_out), runs.take(is_held_out)
    ends = int(held_out.are_ends().sum())
    about = {'condition': condition or LARGEST, 'runs': ends, 'rows': len(held_out)}
    if not len(rest):
        return about | {'note': 'all runs have the same FLOPs'}
    try:
        fitted = parametric_fit.fit_parametric_law(
            law,
            parametric_fit.to_log_data(rest),
            delta=delta,
            constants=constants,
            tries=SECONDARY_STARTS,
            residual=residual,
        )
    except UserError as reason:
        return about | {'note': str(reason)}
    predicted = np.exp(fitted.predict_data(parametric_fit.to_log_data(held_out)))
    return about | {
        'fitted_runs': int(rest.are_ends().sum()),
        'constants': fitted.constants,
        **_measure_errors(predicted, held_out.loss),
        'note': '',
    }


def select_holdout(runs: Runs, condition: str) -> np.ndarray:
    """Return the mask of the runs that are held out, [runs]; clusters are held out as a whole.

    Args:
      runs: all runs.
      condition: such as 'flops>=1e21'; '': the runs with the most FLOPs.

    Raises:
      UserError: the condition is malformed, or it leaves nothing to fit or nothing to predict.
    """
    if not condition:
        return runs.max_in_cluster(runs.flops) >= runs.flops.max() * (1 - 1e-6)
    comparisons = {'>=': np.greater_equal, '<=': np.less_equal, '>': np.greater, '<': np.less}
    sign = next((sign for sign in comparisons if sign in condition), '>=')
    name, _, value = condition.partition(sign)
    columns = {
        'params': runs.params,
        'tokens': runs.tokens,
        'loss': runs.loss,
        'flops': runs.flops,
        **runs.extra,
    }
    try:
        mask = comparisons[sign](columns[name.strip()], float(value))
    except (KeyError, ValueError):
        raise UserError(
            f"--holdout={condition}: must be COLUMN>=NUMBER, such as 'flops>=1e21'; columns: "
            f'{", ".join(columns)}'
        ) from None
    mask = np.isin(runs.clusters, runs.clusters[mask])
    if mask.all() or not mask.any():
        raise UserError(
            f'--holdout={condition}: holds out {int(mask.sum())} of {len(mask)} runs; it must '
            'leave some on each side'
        )
    return mask


def analyze_power_law(
    runs: Runs,
    over: str,
    *,
    irreducible: bool,
    delta: float,
    draws: int | None = None,
    seed: int = 0,
    keep_outliers: bool = False,
) -> dict[str, Any]:
    """Fit L(N), L(D) or L(C), and forecast the largest run from the others.

    Args:
      runs: the runs.
      over: 'N', 'D' or 'C'.
      irreducible: whether the law has an irreducible loss.
      delta: residual at which the Huber loss turns from quadratic to linear.
      draws: number of bootstrap resamples, at most POWER_DRAWS; 0: none; None: POWER_DRAWS.
      seed: seed of the random numbers.
      keep_outliers: whether runs far from the law are fitted too.

    Returns:
      data, left_out, residuals, envelope: as in `analyze_parametric`; log_residual is that of this
        law.
      over: 'N', 'D' or 'C'.
      law: the fields of `power_law.PowerLaw`.
      intervals: intervals of its amplitude, exponent and irreducible loss, as
        `bootstrap.summarize_draws` returns them; empty without draws or with too few sizes.
      forecast: the result of `ladder_forecast.leave_largest_out`, with x_column; only with three
        sizes or more.
    """
    if not keep_outliers:
        runs = outliers.drop_power_law_outliers(over, runs, irreducible=irreducible, delta=delta)
    x = runs.variable(over)
    law = power_law.fit_power_law(x, runs.loss, with_irreducible=irreducible, delta=delta)
    result = describe_runs(runs) | {'over': over, 'law': dataclasses.asdict(law), 'intervals': {}}
    log_residual = np.log(runs.loss / power_law.predict_loss(law, x))
    result['residuals']['log_residual'] = log_residual.tolist()
    few_draws = POWER_DRAWS if draws is None else min(draws, POWER_DRAWS)
    if few_draws and np.unique(x).size > MIN_POWER_SIZES:
        result['intervals'] = _bootstrap_power_law(
            x, runs.loss, irreducible=irreducible, delta=delta, draws=few_draws, seed=seed
        )
    if np.unique(x).size >= ladder_forecast.MIN_SIZES:
        result['forecast'] = ladder_forecast.leave_largest_out(x, runs.loss)
        result['forecast'] |= {'x_column': VARIABLE_COLUMNS[over]}
    return result


def analyze_broken_law(
    runs: Runs, over: str, *, delta: float, keep_outliers: bool = False
) -> dict[str, Any]:
    """Fit a broken power law over one variable, and forecast the largest run from the others.

    Args:
      runs: the runs.
      over: 'N', 'D' or 'C'.
      delta: residual at which the Huber loss turns from quadratic to linear.
      keep_outliers: whether runs far from a power law are fitted too.

    Returns:
      data, left_out, residuals, envelope: as in `analyze_parametric`; log_residual is that of this
        law.
      over: 'N', 'D' or 'C'.
      law: the fields of `broken_law.BrokenLaw`.
      held_out: x, reached and predicted of the largest run; only where the others have enough
        sizes.

    Raises:
      UserError: there are too few sizes.
    """
    if not keep_outliers:
        runs = outliers.drop_power_law_outliers(over, runs, irreducible=True, delta=delta)
    x = runs.variable(over)
    law = broken_law.fit_broken_law(x, runs.loss, delta=delta)
    result = describe_runs(runs) | {'over': over, 'law': dataclasses.asdict(law)}
    log_residual = np.log(runs.loss / broken_law.predict_loss(law, x))
    result['residuals']['log_residual'] = log_residual.tolist()
    rest = x < x.max()
    if np.unique(x[rest]).size >= broken_law.MIN_SIZES:
        shorter = broken_law.fit_broken_law(x[rest], runs.loss[rest], delta=delta)
        result['held_out'] = {
            'x': float(x.max()),
            'reached': float(runs.loss[~rest].mean()),
            'predicted': float(broken_law.predict_loss(shorter, x.max())),
        }
    return result


def _bootstrap_power_law(
    x: np.ndarray, loss: np.ndarray, *, irreducible: bool, delta: float, draws: int, seed: int
) -> dict[str, Any]:
    """Compute intervals of the constants of a power law."""

    def fit_constants(x: np.ndarray, loss: np.ndarray) -> np.ndarray:
        law = power_law.fit_power_law(x, loss, with_irreducible=irreducible, delta=delta, tries=2)
        return np.array([law.amplitude, law.exponent, law.irreducible])

    values = bootstrap.bootstrap_statistic(
        x, loss, fit_constants, draws=draws, seed=seed, sizes=MIN_POWER_SIZES
    )
    names = ('amplitude', 'exponent', *(('irreducible',) if irreducible else ()))
    return {
        name: bootstrap.summarize_draws(column, runs=x.size, seed=seed, sizes=MIN_POWER_SIZES)
        for name, column in zip(names, values.T, strict=False)
    }


def to_ladder_records(result: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the input of the scaling-curve figure: the forecast of a power law, and its runs."""
    column = VARIABLE_COLUMNS[result['over']]
    runs = result['residuals']
    records = [
        {'name': name, 'status': 'done', column: x, 'loss': loss}
        for name, x, loss in zip(runs['name'], runs[column], runs['loss'], strict=True)
    ]
    return result['forecast'] | {'loss_column': 'loss'}, records


def nan_to_none(value: Any) -> Any:
    """Replace NaN and infinity, which JSON lacks, by None."""
    if isinstance(value, dict):
        return {key: nan_to_none(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [nan_to_none(item) for item in value]
    if isinstance(value, float) and value - value != 0:
        return None
    return value
