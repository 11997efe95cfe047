"""Append-only ledger of forecasts, and their scores against the runs made later.

A line of the ledger is one forecast: the run (params, tokens), the predicted loss and its interval,
the law with its constants, the hash of the data that it was fitted to, the date, `previous` (the
SHA-256 of the line before) and `sha256` (that of the line's own content), so that a later change of
any line is detected.
"""

import datetime
import functools
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpt_jax.core import files
from gpt_jax.core.errors import UserError
from gpt_jax.scaling import rows
from gpt_jax.scaling.loss_units import label_unit
from gpt_jax.scaling.runs import Runs, is_same_run, read_runs

FIRST_HASH = '0' * 64  # `previous` of the first line
SCORED_FIELDS = {'name': str, 'date': str} | dict.fromkeys(
    ('params', 'tokens', 'loss', 'low', 'high', 'level'), int | float
)


def append_forecast(
    path: str, forecast: dict[str, Any], *, now: datetime.datetime | None = None
) -> dict[str, Any]:
    """Append a forecast with its date and the hash of the line before; return the line.

    Args:
      path: path of the ledger.
      forecast: as forecast.forecast_run returns it.
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


def verify_ledger(
    ledger_path: str,
    runs_paths: str | Sequence[str],
    *,
    columns: dict[str, str] | None = None,
    count: str = '',
    loss_unit: str = '',
) -> dict[str, Any]:
    """Score the forecasts of a ledger against the finished runs of a file.

    Args:
      ledger_path: path of the ledger.
      runs_paths: one or several tables that read_runs can read.
      columns: as in read_runs.
      count: as in read_runs, for forecasts whose own convention the file does not have.
      loss_unit: as in read_runs.

    Returns:
      As verify_forecasts, and 'left_out' and 'notes'.

    Raises:
      UserError: the ledger was changed, the file cannot be read as runs, or its parameters or its
        loss are not those of the forecasts.
    """
    ledger = read_ledger(ledger_path)
    counts = rows.list_param_counts(runs_paths, columns)

    @functools.cache
    def read_finished(count: str) -> Runs:
        return read_runs(
            runs_paths, columns=columns, count=count, loss_unit=loss_unit, for_fitting=False
        )

    def read_like(own: str) -> Runs:
        return read_finished(own if own in counts else count)

    for forecast in ledger:
        _check_conventions(forecast, read_like(_get_count(forecast)), is_given=bool(count))
    result = verify_forecasts(ledger, read_like)
    finished = read_finished(count)
    return result | {'left_out': finished.left_out, 'notes': finished.notes}


def _check_conventions(forecast: dict[str, Any], runs: Runs, *, is_given: bool) -> None:
    """Raise UserError if a forecast and the runs count or measure differently.

    Args:
      forecast: a line of the ledger; lines of older versions do not say all conventions.
      runs: the finished runs.
      is_given: whether the user says which parameters are counted.
    """
    own, theirs = forecast.get('data', {}), runs.provenance
    start = f'{theirs["file"]}: the forecast {forecast["name"]!r}'
    unit = label_unit(own.get('loss_unit', theirs['loss_unit']))
    if unit != label_unit(theirs['loss_unit']):
        raise UserError(
            f'{start} is in {unit}, and the loss here in {label_unit(theirs["loss_unit"])}; choose '
            'its column by --columns=THEIRS=loss, or its unit by --loss_unit'
        )
    count = own.get('count', theirs['count'])
    if count != theirs['count'] and not is_given:
        raise UserError(
            f'{start} counts the parameters {_describe_count(count)}, and the runs here '
            f'{_describe_count(theirs["count"])}; say that these are the same by '
            + (
                f'--columns=params=params_{count}'
                if theirs['count'] == 'as given'
                else f'--count={theirs["count"]}'
            )
        )


def _describe_count(count: str) -> str:
    return 'of the column params' if count == 'as given' else f'as {count}'


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


def _score(forecast: dict[str, Any], runs: Runs) -> dict[str, Any]:
    is_same = is_same_run(runs, forecast['params'], forecast['tokens'])
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
