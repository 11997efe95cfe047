"""Append-only ledger of forecasts, and their scores against the runs made later.

A line of the ledger is one forecast: the run (params, tokens), the predicted loss and its interval,
the law with its constants, the hash of the data that it was fitted to, the date, `previous` (the
SHA-256 of the line before) and `sha256` (that of the line's own content), so that a later change of
any line is detected.
"""

import datetime
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gpt_jax.core import files
from gpt_jax.core.errors import UserError
from gpt_jax.scaling import bootstrap, outliers, parametric_fit, power_law
from gpt_jax.scaling.forecast import LADDER_HUBER_DELTA, choose_law
from gpt_jax.scaling.runs import Runs

FIRST_HASH = '0' * 64  # `previous` of the first line
FORECAST_STARTS = 24  # starts of the search
SCORED_FIELDS = {'name': str, 'date': str} | dict.fromkeys(
    ('params', 'tokens', 'loss', 'low', 'high', 'level'), int | float
)
SAME_RUN_TOLERANCE = 0.005  # relative: with params and tokens this close, two runs are the same


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
    same = _is_same_run(runs, params, tokens)
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
    """Forecast by a power law over N and the rule of forecast.py, at one token count."""
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


def append_forecast(
    path: str, forecast: dict[str, Any], *, now: datetime.datetime | None = None
) -> dict[str, Any]:
    """Append a forecast with its date and the hash of the line before; return the line.

    Args:
      path: path of the ledger.
      forecast: as `forecast_run` returns it.
      now: the date; None: the current time.

    Raises:
      UserError: the ledger was changed.
    """
    lines = _read_lines(path)
    check_ledger(path, lines)
    date = (now or datetime.datetime.now(datetime.UTC)).isoformat(timespec='seconds')
    line = forecast | {'date': date, 'previous': _hash_line(lines[-1]) if lines else FIRST_HASH}
    line |= {'sha256': _hash_content(line)}
    files.append_jsonl(path, line)
    return line


def read_ledger(path: str) -> list[dict[str, Any]]:
    """Read the forecasts, oldest first.

    Raises:
      UserError: there is no such file, a line was changed, or a line is not a forecast.
    """
    if not Path(path).exists():
        raise UserError(f'{path}: no such ledger; gpt-jax forecast --ledger={path} starts one')
    lines = _read_lines(path)
    check_ledger(path, lines)
    forecasts = [json.loads(line) for line in lines]
    for number, line in enumerate(forecasts, 1):
        for name, kind in SCORED_FIELDS.items():
            if not isinstance(line.get(name), kind):
                raise UserError(
                    f'{path}:{number}: not a forecast: its {name} is {line.get(name)!r}'
                )
    return forecasts


def _read_lines(path: str) -> list[bytes]:
    try:
        return [line for line in Path(path).read_bytes().split(b'\n') if line.strip()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f'{path}: {error.strerror or error}') from None


def _hash_line(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _hash_content(line: dict[str, Any]) -> str:
    """Return the SHA-256 of a line without its sha256; it protects the last line too."""
    content = {key: value for key, value in line.items() if key != 'sha256'}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_ledger(path: str, lines: list[bytes]) -> None:
    """Check the hashes of all lines.

    Raises:
      UserError: a line was changed, removed or inserted after it was written.
    """
    previous = FIRST_HASH
    for number, line in enumerate(lines, 1):
        try:
            forecast = json.loads(line)
            declared = forecast['previous']
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UserError(f'{path}:{number}: not a forecast') from None
        if declared != previous:
            raise UserError(
                f'{path}:{number}: a line before this one was changed or removed after it was '
                'written'
            )
        if forecast.get('sha256', _hash_content(forecast)) != _hash_content(forecast):
            raise UserError(f'{path}:{number}: this line was changed after it was written')
        previous = _hash_line(line)


def verify_forecasts(
    forecasts: list[dict[str, Any]], runs_of: Callable[[str], Runs]
) -> dict[str, Any]:
    """Score each forecast against its finished run, and count the intervals that contain the loss.

    Args:
      forecasts: as `read_ledger` returns them.
      runs_of: convention of the parameter count -> the finished runs ('total', ...; '': as the file
        gives it). A forecast is looked up under the convention that it was made with.

    Returns:
      'scores': for each forecast, 'name', 'predicted', 'reached' (None without a run), 'error',
      'percent', 'inside'; and 'verified', 'inside', 'level', 'bias_percent', 'mean_percent' and
      'worst_percent' over all forecasts.
    """
    scores = [_score(forecast, runs_of(_get_count(forecast))) for forecast in forecasts]
    done = [score for score in scores if score['reached'] is not None]
    percent = [score['percent'] for score in done]
    return {
        'scores': scores,
        'verified': len(done),
        'inside': sum(score['inside'] for score in done),
        'level': forecasts[0]['level'] if forecasts else math.nan,
        'bias_percent': float(np.mean(percent)) if percent else None,
        'mean_percent': float(np.mean(np.abs(percent))) if percent else None,
        'worst_percent': float(max(percent, key=abs)) if percent else None,
    }


def _get_count(forecast: dict[str, Any]) -> str:
    count = str(forecast.get('data', {}).get('count', ''))
    return '' if count == 'as given' else count


def _is_same_run(runs: Runs, params: float, tokens: float) -> np.ndarray:
    same_params = np.abs(runs.params / params - 1) < SAME_RUN_TOLERANCE
    return same_params & (np.abs(runs.tokens / tokens - 1) < SAME_RUN_TOLERANCE)


def _score(forecast: dict[str, Any], runs: Runs) -> dict[str, Any]:
    is_same = _is_same_run(runs, forecast['params'], forecast['tokens'])
    score: dict[str, Any] = {name: forecast[name] for name in ('name', 'date', 'low', 'high')}
    score |= {
        'predicted': forecast['loss'],
        'reached': None,
        'error': None,
        'percent': None,
        'inside': None,
    }
    if is_same.any():
        reached = float(runs.loss[is_same].mean())
        error = forecast['loss'] - reached
        score |= {
            'reached': reached,
            'error': error,
            'percent': 100 * error / reached,
            'inside': bool(forecast['low'] <= reached <= forecast['high']),
        }
    return score
