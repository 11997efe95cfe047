"""Forecast of a run from finished ones, by a law fitted to them (`gpt-jax forecast`).

The forecast of a ladder's largest run, which is in fit.json, is in ladder_forecast.py.
"""

from typing import Any

import numpy as np

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import bootstrap, outliers, parametric_fit, power_law
from gpt_jax.scaling.ladder_forecast import LADDER_HUBER_DELTA, choose_law
from gpt_jax.scaling.runs import SAME_RUN_TOLERANCE, Runs, is_same_run

FORECAST_STARTS = 24  # starts of the search


def forecast_run(
    runs: Runs, params: float, tokens: float, *, law: str, draws: int, seed: int, name: str
) -> dict[str, Any]:
    """Forecast the loss of a run from a law fitted to `runs`, with an interval.

    The interval combines the spread of the bootstrap with the scatter of the runs about their law,
    since the new run is subject to both.

    Args:
      runs: finished runs.
      params: parameters of the new run.
      tokens: training tokens of the new run.
      law: a key of LAW_FORMS, or 'power'.
      draws: number of bootstrap resamples.
      seed: seed of the random numbers.
      name: name of the new run.

    Raises:
      UserError: the run is among `runs`, or they cannot determine the law.
    """
    same = is_same_run(runs, params, tokens)
    if same.any():
        known = runs.names[int(np.argmax(same))]
        raise UserError(
            f'{name}: this run is already in the data ({known}); forecast a run before making it'
        )
    if law == 'power':
        runs, prediction = _predict_along_params(runs, params, tokens, draws, seed)
    else:
        runs, prediction = _predict_over_both(runs, params, tokens, law, draws, seed)
    return {
        'name': name,
        'params': params,
        'tokens': tokens,
        **prediction,
        'law': law,
        'extrapolation': float(params * tokens / (runs.params * runs.tokens).max()),
        'data': runs.provenance,
        'runs': len(runs),
        'left_out': runs.left_out,
    }


def _predict_over_both(
    runs: Runs, params: float, tokens: float, law: str, draws: int, seed: int
) -> tuple[Runs, dict[str, Any]]:
    """Forecast by a law over N and D: (fitted runs, dict of loss, interval and constants)."""
    runs, delta, _ = outliers.clean_runs(law, runs)
    data = parametric_fit.to_log_data(runs)
    fitted = parametric_fit.fit_parametric_law(law, data, delta=delta, tries=FORECAST_STARTS)
    resamples, resampled = bootstrap.draw_resamples(runs, draws, seed)
    refits = [
        parametric_fit.from_constants(law, constants)
        for constants in bootstrap.refit_resamples(fitted, data, resamples)
    ]
    predicted = np.array([float(refit.predict(params, tokens)) for refit in refits])
    expected = fitted.predict(runs.params, runs.tokens, np.exp(data.u))
    residual = data.log_loss - np.log(expected)
    return runs, {
        'loss': float(fitted.predict(params, tokens)),
        'constants': fitted.constants,
        **_compute_spread(predicted, residual, resampled, seed),
    }


def _predict_along_params(
    runs: Runs, params: float, tokens: float, draws: int, seed: int
) -> tuple[Runs, dict[str, Any]]:
    """Forecast by a power law over N and the rule of ladder_forecast.py, at one token count."""
    other = np.abs(runs.tokens / tokens - 1) > SAME_RUN_TOLERANCE
    runs = runs.exclude(
        {int(i): f'{runs.tokens[i]:.4g} tokens, not {tokens:.4g}' for i in np.flatnonzero(other)}
    )
    if np.unique(runs.params).size < 2:
        raise UserError(
            f'--law=power: needs at least two sizes with {tokens:.4g} tokens; this law is for one '
            'token count'
        )
    runs = outliers.drop_power_law_outliers('N', runs, irreducible=True, delta=LADDER_HUBER_DELTA)
    fitted = choose_law(runs.params, runs.loss)
    resamples, resampled = bootstrap.draw_resamples(runs, draws, seed)
    predicted = []
    for weights in resamples.astype(int):
        if np.unique(runs.params[weights > 0]).size >= 2:
            n, loss = np.repeat(runs.params, weights), np.repeat(runs.loss, weights)
            refit = choose_law(n, loss, tries=2)
            predicted.append(float(power_law.predict_loss(refit, params)))
    is_fitted = runs.params >= np.sort(runs.params)[-fitted.points]
    residual = np.log(runs.loss) - np.log(power_law.predict_loss(fitted, runs.params))
    return runs, {
        'loss': float(power_law.predict_loss(fitted, params)),
        'constants': {'E': fitted.irreducible, 'A': fitted.amplitude, 'alpha': fitted.exponent},
        **_compute_spread(np.array(predicted), residual[is_fitted], resampled, seed),
    }


def _compute_spread(
    predicted: np.ndarray, residual: np.ndarray, resampled: str, seed: int
) -> dict[str, Any]:
    scatter = np.random.default_rng(seed).choice(residual, size=predicted.size)
    drawn = predicted * np.exp(scatter)
    interval = bootstrap.compute_interval(drawn, f'{resampled}; and the residuals')
    return {
        'low': interval.low,
        'high': interval.high,
        'level': interval.level,
        'resampled': interval.resampled,
    }
