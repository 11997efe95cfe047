"""Forecast of a run from finished ones, by a law fitted to them (`gpt-jax forecast`).

The forecast of a ladder's largest run, which is in fit.json, is in ladder_forecast.py.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import (
    bootstrap,
    broken_law,
    identifiability,
    ladder_forecast,
    law_posterior,
    outliers,
    parametric_fit,
    power_law,
    refits,
)
from gpt_jax.scaling.ladder_forecast import LADDER_HUBER_DELTA, choose_law
from gpt_jax.scaling.runs import SAME_RUN_TOLERANCE, Runs, is_same_run

FORECAST_STARTS = 24  # starts of the search


class Forecaster(NamedTuple):
    """A law fitted to runs, ready to forecast others.

    Attributes:
      runs: the runs that it was fitted to.
      constants: of the law, by name; where there are several laws, of the one with the most weight.
      resampled: what the intervals come from, in words.
      predict: (params, tokens) -> (loss, low, high); with unique_tokens and params_total by name,
        where a law depends on them.
      posterior: of 'auto'; None for another law.
    """

    runs: Runs
    constants: dict[str, float]
    resampled: str
    predict: Callable[..., tuple[float, float, float]]
    posterior: law_posterior.LawPosterior | None = None


def forecast_run(
    runs: Runs,
    params: float,
    tokens: float,
    *,
    law: str,
    draws: int,
    seed: int,
    name: str,
    widening: float = 1.0,
    more: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Forecast the loss of a run from a law fitted to `runs`, with an interval.

    Args:
      runs: finished runs.
      params: parameters of the new run.
      tokens: training tokens of the new run.
      law: 'auto', a key of LAW_FORMS, 'power' or 'broken'.
      draws: number of bootstrap resamples; not used by 'auto'.
      seed: seed of the random numbers.
      name: name of the new run.
      widening: factor by which the logarithms of low and high are further from that of the loss
        than the law says (`rollouts.find_widening`).
      more: unique_tokens and params_total of the new run, where a law depends on them.

    Raises:
      UserError: the run is among `runs`, or they cannot determine the law.
    """
    same = is_same_run(runs, params, tokens)
    if same.any():
        known = runs.names[int(np.argmax(same))]
        raise UserError(
            f'{name}: this run is already in the data ({known}); forecast a run before making it'
        )
    if law in ('power', 'broken'):
        fitted = _fit_along_params(runs, tokens, law)
    else:
        fitted = fit_forecaster(runs, law, draws=draws, seed=seed)
    return predict_run(fitted, params, tokens, law=law, name=name, widening=widening, more=more)


def predict_run(
    fitted: Forecaster,
    params: float,
    tokens: float,
    *,
    law: str,
    name: str,
    widening: float = 1.0,
    more: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Return the forecast of one run, as `forecast_run` does."""
    runs = fitted.runs
    more = {key: value for key, value in (more or {}).items() if not math.isnan(value)}
    loss, low, high = fitted.predict(params, tokens, **more)
    gap = identifiability.find_design_gap(runs, (params, tokens))
    return {
        'name': name,
        'params': params,
        'tokens': tokens,
        **more,
        'loss': loss,
        'low': loss * (low / loss) ** widening,
        'high': loss * (high / loss) ** widening,
        'level': bootstrap.CONFIDENCE_LEVEL,
        'constants': fitted.constants,
        'resampled': fitted.resampled,
        'law': law,
        'extrapolation': float(params * tokens / (runs.params * runs.tokens).max()),
        'data': runs.provenance,
        'runs': len(runs),
        'left_out': runs.left_out,
        'design_gap': gap.describe() if gap else '',
    }


def fit_forecaster(
    runs: Runs, law: str, *, draws: int, seed: int, starts: int = FORECAST_STARTS
) -> Forecaster:
    """Fit a law over N and D.

    The intervals of 'auto' are those of the posterior (law_posterior.py). Those of another law
    combine the spread of the bootstrap with the scatter of the runs about the law, since a new run
    is subject to both; they hold only as far as the law does.

    Args:
      runs: finished runs.
      law: 'auto' or a key of LAW_FORMS.
      draws: number of bootstrap resamples; not used by 'auto'.
      seed: seed of the random numbers.
      starts: starts of the search for a law's constants; not used by 'auto'.

    Raises:
      UserError: the runs cannot determine the law.
    """
    if law == 'auto':
        return _fit_posterior(runs)
    runs, delta, _ = outliers.clean_runs(law, runs)
    data = parametric_fit.to_log_data(runs)
    best = parametric_fit.fit_parametric_law(law, data, delta=delta, tries=starts)
    drawn = refits.draw_refits(runs, best, draws, seed)
    if not drawn.constants:
        raise UserError(f'--law={law}: {drawn.words}')
    laws = [parametric_fit.from_constants(law, constants) for constants in drawn.constants]

    def predict(params: float, tokens: float, **more: float) -> tuple[float, float, float]:
        losses = np.array([float(refit.predict(params, tokens, **more)) for refit in laws])
        interval = bootstrap.compute_interval(losses * np.exp(drawn.noise[: len(losses)]), '')
        return float(best.predict(params, tokens, **more)), interval.low, interval.high

    return Forecaster(runs, best.constants, f'{drawn.words}; and the noise of a run', predict)


def _fit_posterior(runs: Runs) -> Forecaster:
    runs = runs.exclude(law_posterior.find_outliers(parametric_fit.to_log_data(runs)))
    posterior = law_posterior.fit_posterior(
        parametric_fit.to_log_data(runs), runs.get_checkpoint_clusters()
    )
    tail = (1 - bootstrap.CONFIDENCE_LEVEL) / 2

    def predict(params: float, tokens: float, **more: float) -> tuple[float, float, float]:
        unique_tokens = more.get('unique_tokens', math.nan)
        quantiles = posterior.predict(params, tokens, unique_tokens).compute_quantiles(
            0.5, tail, 1 - tail
        )
        loss, low, high = quantiles
        return loss, low, high

    words = "posterior of the constants, of the error of the law's form, and of the noise"
    return Forecaster(runs, posterior.describe_constants(), words, predict, posterior)


def _fit_along_params(runs: Runs, tokens: float, law: str) -> Forecaster:
    """Fit a law over N at one token count: a broken power law or the rule of a ladder.

    The interval is that of the posterior, widened to contain the law's forecast.
    """
    other = np.abs(runs.tokens / tokens - 1) > SAME_RUN_TOLERANCE
    runs = runs.exclude(
        {int(i): f'{runs.tokens[i]:.4g} tokens, not {tokens:.4g}' for i in np.flatnonzero(other)}
    )
    if not len(runs):
        raise UserError(f'--law={law}: no run has {tokens:.4g} tokens; it is for one token count')
    runs = outliers.drop_power_law_outliers('N', runs, irreducible=True, delta=LADDER_HUBER_DELTA)
    predict_loss: Any = broken_law.predict_loss if law == 'broken' else power_law.predict_loss
    fit: Any = broken_law.fit_broken_law if law == 'broken' else choose_law
    fitted = fit(runs.params, runs.loss, delta=LADDER_HUBER_DELTA)
    posterior = ladder_forecast.fit_posterior_over(runs.params, runs.loss)

    def predict(params: float, tokens: float, **more: float) -> tuple[float, float, float]:
        del tokens, more
        loss = float(predict_loss(fitted, params))
        low, high = ladder_forecast.predict_interval(posterior, params)
        return loss, min(low, loss), max(high, loss)

    words = 'posterior of a law over one variable, of the error of its form, and of the noise'
    if law == 'broken':
        return Forecaster(runs, fitted.constants, words, predict)
    constants = {'E': fitted.irreducible, 'A': fitted.amplitude, 'alpha': fitted.exponent}
    return Forecaster(runs, constants, words, predict)
