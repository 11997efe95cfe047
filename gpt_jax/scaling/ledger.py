"""What was forecast, when, from what; and was it right? A file that is only ever added to, and its score.

A line of the ledger is one forecast: the run (params, tokens, flops), the predicted loss and its interval, the law with
its constants, the hash of the data that it was fitted to, the date, `previous`: the SHA-256 of the line before, and
`sha256`: of the line's own content, so that a line changed afterwards is seen.
"""

import datetime
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gpt_jax import jsonl
from gpt_jax.errors import UserError
from gpt_jax.scaling import confidence, laws, outliers, surface
from gpt_jax.scaling import forecast as ladder
from gpt_jax.scaling.runs import Runs

START = '0' * 64
TRIES = 24  # starts of the search
SCORED = {'name': str, 'date': str} | dict.fromkeys(('params', 'tokens', 'loss', 'low', 'high', 'level'), int | float)
SAME_RUN = 0.005  # relative: params and tokens this close are those of the forecast run


def forecast(runs: Runs, params: float, tokens: float, *, law: str, draws: int, seed: int, name: str) -> dict[str, Any]:
    """The forecast of a run: its loss from the law through `runs`, with an interval.

    The interval joins what the bootstrap moves with what the runs scatter about their law: both are in the next run.

    Raises:
      UserError: the run is among them, or they cannot carry the law.
    """
    there = _same_run(runs, params, tokens)
    if there.any():
        known = runs.names[int(np.argmax(there))]
        raise UserError(f'{name}: this run is in the data already ({known}); a forecast comes before the run')
    runs, made = (_along_params if law == 'power' else _over_both)(runs, params, tokens, law, draws, seed)
    return {
        'name': name,
        'params': params,
        'tokens': tokens,
        **made,
        'law': law,
        'extrapolation': float(params * tokens / (runs.params * runs.tokens).max()),
        'data': runs.about,
        'runs': len(runs),
        'left_out': runs.left_out,
    }


def _over_both(
    runs: Runs, params: float, tokens: float, law: str, draws: int, seed: int
) -> tuple[Runs, dict[str, Any]]:
    """From a law over parameters and tokens: (the runs it was fitted to, loss, interval and constants)."""
    runs, delta, _ = outliers.cleaned(law, runs)
    given = surface.data(runs)
    found = surface.fit(law, given, delta=delta, tries=TRIES)
    resamples, words = confidence.counts(runs, draws, seed)
    drawn = confidence.bootstrap(found, given, resamples)
    refits = [surface.Surface(law, one, 0.0, delta, 0, 0, found.points) for one in drawn]
    predicted = np.array([float(refit.predict(params, tokens)) for refit in refits])
    residual = given.log_loss - np.log(found.predict(runs.params, runs.tokens, np.exp(given.u)))
    spread = _spread(predicted, residual, words, seed)
    return runs, {'loss': float(found.predict(params, tokens)), 'constants': found.constants} | spread


def _along_params(
    runs: Runs, params: float, tokens: float, law: str, draws: int, seed: int
) -> tuple[Runs, dict[str, Any]]:
    """From a power law over parameters, by the rule of forecast.py: for a ladder, whose runs have the same tokens."""
    del law
    other = np.abs(runs.tokens / tokens - 1) > SAME_RUN
    runs = runs.without({int(i): f'{runs.tokens[i]:.4g} tokens, not {tokens:.4g}' for i in np.flatnonzero(other)})
    if np.unique(runs.params).size < 2:
        raise UserError(f'--law=power: fewer than two sizes with {tokens:.4g} tokens; it holds at one number of tokens')
    runs = outliers.along('N', runs, irreducible=True, delta=ladder.DELTA)
    found = ladder.choose(runs.params, runs.loss)
    resamples, words = confidence.counts(runs, draws, seed)
    predicted = [
        float(laws.predict(ladder.choose(np.repeat(runs.params, one), np.repeat(runs.loss, one), tries=2), params))
        for one in resamples.astype(int)
        if np.unique(runs.params[one > 0]).size >= 2
    ]
    fitted = runs.params >= np.sort(runs.params)[-found.points]
    residual = np.log(runs.loss) - np.log(laws.predict(found, runs.params))
    spread = _spread(np.array(predicted), residual[fitted], words, seed)
    constants = {'E': found.irreducible, 'A': found.amplitude, 'alpha': found.exponent}
    return runs, {'loss': float(laws.predict(found, params)), 'constants': constants} | spread


def _spread(predicted: np.ndarray, residual: np.ndarray, words: str, seed: int) -> dict[str, Any]:
    scatter = np.random.default_rng(seed).choice(residual, size=predicted.size)
    spread = confidence.interval(predicted * np.exp(scatter), f'{words}; and the residuals')
    return {'low': spread.low, 'high': spread.high, 'level': spread.level, 'resampled': spread.resampled}


def add(path: str, forecast: dict[str, Any], *, now: datetime.datetime | None = None) -> dict[str, Any]:
    """Appends a forecast with its date and the hash of the line before; returns the line.

    Raises:
      UserError: the ledger was changed.
    """
    lines = _lines(path)
    check(path, lines)
    date = (now or datetime.datetime.now(datetime.UTC)).isoformat(timespec='seconds')
    line = forecast | {'date': date, 'previous': _hash(lines[-1]) if lines else START}
    line |= {'sha256': _own(line)}
    jsonl.append(path, line)
    return line


def read(path: str) -> list[dict[str, Any]]:
    """The forecasts, oldest first.

    Raises:
      UserError: no such file, a line of it was changed, or a line is no forecast.
    """
    if not Path(path).exists():
        raise UserError(f'{path}: no such ledger; forecast --ledger={path} begins one')
    lines = _lines(path)
    check(path, lines)
    forecasts = [json.loads(line) for line in lines]
    for number, one in enumerate(forecasts, 1):
        for name, kind in SCORED.items():
            if not isinstance(one.get(name), kind):
                raise UserError(f'{path}:{number}: not a forecast: its {name} is {one.get(name)!r}')
    return forecasts


def _lines(path: str) -> list[bytes]:
    try:
        return [line for line in Path(path).read_bytes().split(b'\n') if line.strip()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f'{path}: {error.strerror or error}') from None


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _own(line: dict[str, Any]) -> str:
    """The SHA-256 of a line without itself: the last one has no line after it that would tell of a change."""
    rest = {key: value for key, value in line.items() if key != 'sha256'}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def check(path: str, lines: list[bytes]) -> None:
    """Raises UserError where a line does not know the one before."""
    previous = START
    for number, line in enumerate(lines, 1):
        try:
            whole = json.loads(line)
            said = whole['previous']
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UserError(f'{path}:{number}: not a forecast') from None
        if said != previous:
            raise UserError(f'{path}:{number}: a line before this one was changed or taken out after it was written')
        if whole.get('sha256', _own(whole)) != _own(whole):
            raise UserError(f'{path}:{number}: this line was changed after it was written')
        previous = _hash(line)


def verify(forecasts: list[dict[str, Any]], runs_of: Callable[[str], Runs]) -> dict[str, Any]:
    """Each forecast against the run that was made; and how often the interval held it.

    Args:
      runs_of: the finished runs by the count of their parameters ('total', or '' as the file gives them): a forecast is
        looked up under the count that it was made with.

    Returns:
      'scores': per forecast 'name', 'predicted', 'reached' (None where the run is not there), 'error', 'percent',
      'inside'; and 'verified', 'inside', 'level', 'mean_percent', 'worst_percent' over all.
    """
    scores = [_score(one, runs_of(_count(one))) for one in forecasts]
    done = [one for one in scores if one['reached'] is not None]
    percent = [one['percent'] for one in done]
    return {
        'scores': scores,
        'verified': len(done),
        'inside': sum(one['inside'] for one in done),
        'level': forecasts[0]['level'] if forecasts else math.nan,
        'bias_percent': float(np.mean(percent)) if percent else None,
        'mean_percent': float(np.mean(np.abs(percent))) if percent else None,
        'worst_percent': float(max(percent, key=abs)) if percent else None,
    }


def _count(one: dict[str, Any]) -> str:
    count = str(one.get('data', {}).get('count', ''))
    return '' if count == 'as given' else count


def _same_run(runs: Runs, params: float, tokens: float) -> np.ndarray:
    return (np.abs(runs.params / params - 1) < SAME_RUN) & (np.abs(runs.tokens / tokens - 1) < SAME_RUN)


def _score(one: dict[str, Any], runs: Runs) -> dict[str, Any]:
    near = _same_run(runs, one['params'], one['tokens'])
    made: dict[str, Any] = {name: one[name] for name in ('name', 'date', 'low', 'high')}
    made |= {'predicted': one['loss'], 'reached': None, 'error': None, 'percent': None, 'inside': None}
    if near.any():
        reached = float(runs.loss[near].mean())
        error = one['loss'] - reached
        made |= {
            'reached': reached,
            'error': error,
            'percent': 100 * error / reached,
            'inside': bool(one['low'] <= reached <= one['high']),
        }
    return made
