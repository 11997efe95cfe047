"""Runs that laws are fitted to, read from a CSV, JSON or JSONL file and cleaned.

Rows that are left out are listed with the reason. The columns that laws and plots use, after
--columns and the aliases of rows.py:

    params, tokens, loss    parameters (under any convention), tokens trained on, nats per token
    flops                   training FLOPs; 6 x params x tokens if no row has them; if most rows
                            have them, the others are left out
    budget                  the FLOP budget that a run was planned for: runs of one budget are one
                            isoFLOP curve
    unique_tokens           tokens of distinct text; less than `tokens` where text was repeated
    planned_tokens          tokens at which the run was to end; a run that stopped short is left out
    seed, status, name      seed; 'done' or what went wrong; the run's name
    role                    'trunk' for a run at a constant learning rate, from which others cool
                            down; 'finetuned' for one that started from another run's weights;
                            'task' for one that was trained on a task: all of these are left out
    error                   downstream error in (0, 1), for error = eps - k exp(-gamma loss)
    tokenization            what the text was split into, by `gpt-jax eval --records`; losses of
                            different ones are not fitted together
    curve                   [[tokens, loss], ...] during training, in JSON and JSONL only; drawn,
                            never fitted
"""

import dataclasses
import hashlib
import math
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import rows
from gpt_jax.scaling.rows import REQUIRED_COLUMNS, Row

EXTRA_COLUMNS = ('budget', 'unique_tokens', 'planned_tokens', 'seed', 'error')
NUMBER_COLUMNS = (*REQUIRED_COLUMNS, 'flops', *EXTRA_COLUMNS)
POSITIVE_COLUMNS = (
    'params',
    'tokens',
    'flops',
    'budget',
    'unique_tokens',
    'planned_tokens',
    'loss',
)
COUNT_COLUMNS = ('params', 'tokens', 'unique_tokens', 'planned_tokens')  # at least 1
# Far above any run, and small enough that squares computed in a fit are still finite.
MAX_VALUE = 1e40
MAX_CURVE_VALUE = 1e300  # integers in JSON are unbounded, floats are not
DONE_WORDS = ('', 'done', 'ok', 'finished', 'complete', 'completed', 'success', 'none', 'nan')
# Share of the planned tokens below which a run counts as stopped short; above it, only a part of
# the last batch is missing.
COMPLETE_SHARE = 0.995
SAME_RUN_TOLERANCE = 0.005  # relative: with params and tokens this close, two runs are the same

Curve = list[tuple[float, float]]  # (tokens, loss in nats/token), by tokens


@dataclasses.dataclass(frozen=True)
class Runs:
    """The runs to which laws are fitted.

    Attributes:
      params, tokens, loss, flops: float64, [runs].
      extra: the other numeric columns of the file, NaN where a row lacks the value.
      names: names of the runs, [runs]; 'row 12' if the file gives none.
      rows: the number of each run's row in the file, from 1 and without the header.
      curves: (tokens, loss) during each run, [runs]; empty if a row has none that can be read.
      left_out: {'row', 'name', 'reason'} for every row that is not fitted.
      provenance: 'file', 'sha256', 'count', 'flops': the source of the numbers and their
        conventions.
    """

    params: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray
    flops: np.ndarray
    extra: dict[str, np.ndarray]
    names: list[str]
    rows: np.ndarray
    curves: list[Curve]
    left_out: list[dict[str, Any]]
    provenance: dict[str, str]

    def __len__(self) -> int:
        return len(self.loss)

    def variable(self, over: str) -> np.ndarray:
        """Return the values of one variable, 'N', 'D' or 'C'."""
        return {'N': self.params, 'D': self.tokens, 'C': self.flops}[over]

    def take(self, selection: np.ndarray) -> 'Runs':
        """Return the runs of a mask or of indices; `left_out` is unchanged."""
        index = np.arange(len(self))[selection]
        return dataclasses.replace(
            self,
            params=self.params[index],
            tokens=self.tokens[index],
            loss=self.loss[index],
            flops=self.flops[index],
            extra={name: values[index] for name, values in self.extra.items()},
            names=[self.names[i] for i in index],
            rows=self.rows[index],
            curves=[self.curves[i] for i in index],
        )

    def exclude(self, reasons: dict[int, str]) -> 'Runs':
        """Leave out the runs at these indices, each with its reason."""
        is_fitted = np.ones(len(self), bool)
        is_fitted[list(reasons)] = False
        excluded = [
            {'row': int(self.rows[i]), 'name': self.names[i], 'reason': reason}
            for i, reason in sorted(reasons.items())
        ]
        left_out = [*self.left_out, *excluded]
        return dataclasses.replace(self.take(is_fitted), left_out=left_out)


class Target(NamedTuple):
    """A run to forecast."""

    name: str
    params: float
    tokens: float


def read_targets(
    path: str, *, columns: dict[str, str] | None = None, count: str = ''
) -> list[Target]:
    """Read the runs to forecast: a file with the columns params and tokens, and perhaps name.

    Raises:
      UserError: as `read_runs`.
    """
    needed = ('params', 'tokens')
    content = rows.read_content(path)
    table, _ = rows.parse_rows(path, content, columns or {}, count, '6ND', needed)
    targets = []
    for number, row in enumerate(table, 1):
        values = _parse_values({name: row.get(name) for name in needed}, f'{path}: row {number}')
        for name in needed:
            if not math.isfinite(values[name]):
                raise UserError(f'{path}: row {number}: {name} is missing')
        name = str(row.get('name') or f'row {number}')
        targets.append(Target(name, values['params'], values['tokens']))
    return targets


def is_same_run(runs: Runs, params: float, tokens: float) -> np.ndarray:
    """Return whether each of `runs` has these params and tokens, up to rounding; bool, [runs]."""
    same_params = np.abs(runs.params / params - 1) < SAME_RUN_TOLERANCE
    return same_params & (np.abs(runs.tokens / tokens - 1) < SAME_RUN_TOLERANCE)


def parse_curve(value: Any) -> Curve:
    """Return the points of a record's `curve`, by tokens; empty where there are none.

    A curve is only drawn, so a malformed one counts as missing, and a point that is not a pair of
    finite numbers above zero is ignored; neither excludes the run from a fit.
    """
    points = [point for point in value if _is_point(point)] if isinstance(value, list) else []
    return sorted((float(tokens), float(loss)) for tokens, loss in points)


def _is_point(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 2:
        return False
    return all(
        isinstance(number, int | float)
        and not isinstance(number, bool)
        and 0 < number < MAX_CURVE_VALUE
        for number in value
    )


def read_runs(
    path: str,
    *,
    columns: dict[str, str] | None = None,
    count: str = '',
    flops: str = '',
    drop_highest: int = 0,
    for_fitting: bool = True,
) -> Runs:
    """Read and clean a file of runs.

    Args:
      path: .csv (with a header), .jsonl or .json (a list of objects).
      columns: {name in the file: name here}.
      count: which parameters are N: '' (the column params, or the total of gpt_jax records), or the
        column params_COUNT of gpt_jax records: total, non_embedding, without_positions, active.
      flops: '' (the column flops if there is one, else 6ND), '6ND', 'column'; 'with_attention' and
        'causal' are the columns flops_with_attention and flops_causal of gpt_jax records. Where
        most runs have the column, those that lack it are left out: two ways of counting in one fit
        would distort its law.
      drop_highest: number of the highest losses to leave out.
      for_fitting: False if the runs are only looked up to score a forecast: then one is enough,
        losses may be equal, and FLOPs, which are unused, are 6ND.

    Raises:
      UserError: the file does not exist, a column is missing, a cell is not a number or is an
        impossible value, losses per token are of different tokenizers, half of the runs or more
        lack FLOPs that others have, or there are fewer than two runs.
    """
    flops = flops if for_fitting else '6ND'
    content = rows.read_content(path)
    table, count = rows.parse_rows(path, content, columns or {}, count, flops)
    fitted, left_out = _separate_rows(path, table)
    if 'loss' not in (columns or {}).values():
        _check_tokenizations(path, [table[row['row'] - 1] for row in fitted])
    runs = _make_runs(path, content, fitted, left_out, count, flops)
    runs = _exclude_without_flops(path, runs, flops)
    if drop_highest:
        highest = np.argsort(-runs.loss, kind='stable')[:drop_highest]
        reason = f'one of the {drop_highest} highest losses (--drop_highest)'
        runs = runs.exclude({int(i): reason for i in highest})
    if not for_fitting:
        if not len(runs):
            raise UserError(
                f'{path}: {len(table)} rows and no finished run; {_summarize_reasons(runs)}'
            )
        return runs
    if len(runs) < 2:
        raise UserError(
            f'{path}: {len(runs)} of {len(table)} rows can be fitted, and a law needs more; '
            f'{_summarize_reasons(runs)}'
        )
    if np.ptp(runs.loss) == 0:
        raise UserError(
            f'{path}: all {len(runs)} losses are {runs.loss[0]:g}; there is nothing to fit'
        )
    return runs


def _check_tokenizations(path: str, fitted: list[Row]) -> None:
    """Raise UserError if the losses are means over different tokens of one text."""
    count = len({row['tokenization'] for row in fitted if row.get('tokenization')})
    if count > 1:
        raise UserError(
            f'{path}: {count} tokenizers split the text into different tokens, so that losses per '
            'token cannot be compared; use --columns=bits_per_byte=loss'
        )


def _separate_rows(path: str, table: list[Row]) -> tuple[list[Row], list[dict[str, Any]]]:
    """Return the rows that can be fitted, with numbers as floats, and the others with reasons."""
    fitted: list[Row] = []
    left_out: list[dict[str, Any]] = []
    first_rows: dict[tuple[Any, ...], int] = {}  # values -> number of the first row that has them
    for number, row in enumerate(table, 1):
        name, values = str(row.get('name') or f'row {number}'), {}
        # The status comes first, because a failed run may have left anything in its columns.
        reason = _find_bad_status(row)
        if not reason:
            values = _parse_values(row, f'{path}: row {number}')
            reason = _find_bad_value(row, values)
        key = tuple(repr(value) for value in values.values())
        if not reason and key in first_rows:
            reason = f'the same as row {first_rows[key]} in every column'
        if reason:
            left_out.append({'row': number, 'name': name, 'reason': reason})
        else:
            first_rows[key] = number
            curve = parse_curve(row.get('curve'))
            fitted.append(values | {'row': number, 'name': name, 'curve': curve})
    return fitted, left_out


def _find_bad_status(row: Row) -> str:
    status = str(row.get('status') if row.get('status') is not None else '').strip()
    if status.lower() not in DONE_WORDS:
        return f'status is {status!r}'
    return rows.EXCLUDED_ROLES.get(str(row.get('role')), '')


def _parse_values(row: Row, where: str) -> dict[str, Any]:
    """Return the row's numbers; NaN where it has none.

    Raises:
      UserError: a value can only be a mistake, not the result of a failed run.
    """
    values = {name: rows.parse_number(row.get(name), f'{where}: {name}') for name in NUMBER_COLUMNS}
    for name in POSITIVE_COLUMNS:
        value = values[name]
        if not math.isfinite(value):
            continue
        if value <= 0:
            raise UserError(f'{where}: {name}: must be above zero, got {value:g}')
        if name in COUNT_COLUMNS and value < 1:
            raise UserError(
                f'{where}: {name}: must be at least 1, got {value:g}; give a count, not billions'
            )
        if not 1 / MAX_VALUE < value < MAX_VALUE:
            raise UserError(
                f'{where}: {name} is {value:g}, which no run has; correct the row or delete it'
            )
    return values


def _find_bad_value(row: Row, values: dict[str, Any]) -> str:
    for name in REQUIRED_COLUMNS:
        if not math.isfinite(values[name]):
            return f'{name} is {"missing" if row.get(name) in (None, "") else row[name]}'
    for name in NUMBER_COLUMNS:
        if math.isinf(values[name]):
            return f'{name} is {row[name]}'
    if values['tokens'] < COMPLETE_SHARE * values['planned_tokens']:
        return (
            f'unfinished: {values["tokens"]:.4g} of {values["planned_tokens"]:.4g} planned tokens'
        )
    return ''


def _make_runs(
    path: str,
    content: bytes,
    fitted: list[Row],
    left_out: list[dict[str, Any]],
    count: str,
    flops: str,
) -> Runs:
    columns = {name: np.array([row[name] for row in fitted], float) for name in NUMBER_COLUMNS}
    has_flops = not np.isnan(columns['flops']).all()
    return Runs(
        params=columns['params'],
        tokens=columns['tokens'],
        loss=columns['loss'],
        flops=columns['flops'] if has_flops else 6 * columns['params'] * columns['tokens'],
        extra={name: columns[name] for name in EXTRA_COLUMNS if not np.isnan(columns[name]).all()},
        names=[row['name'] for row in fitted],
        rows=np.array([row['row'] for row in fitted], int),
        curves=[row['curve'] for row in fitted],
        left_out=left_out,
        provenance={
            'file': path,
            'sha256': hashlib.sha256(content).hexdigest(),
            'count': count or 'as given',
            'flops': (flops or 'column') if has_flops else '6ND',
        },
    )


def _exclude_without_flops(path: str, runs: Runs, flops: str) -> Runs:
    """Leave out the runs without FLOPs if most runs have them.

    Raises:
      UserError: half of the runs or more lack FLOPs that others have, or all lack the column that
        `flops` names.
    """
    name = 'flops' if flops in ('', 'column') else f'flops_{flops}'
    missing = np.flatnonzero(np.isnan(runs.flops))
    is_named = flops in ('with_attention', 'causal', 'column')
    all_missing = is_named and runs.provenance['flops'] == '6ND'
    if len(runs) and (all_missing or 2 * missing.size >= len(runs)):
        number, flag = len(runs) if all_missing else missing.size, f'--flops={flops}: '
        raise UserError(
            f'{path}: {flag if flops else ""}column {name!r} is missing in {number} of '
            f'{len(runs)} runs; use --flops=6ND'
        )
    reason = f'{name} is missing, and most rows have it (--flops=6ND needs none)'
    return runs.exclude({int(i): reason for i in missing})


def _summarize_reasons(runs: Runs) -> str:
    reasons = [f'row {row["row"]}: {row["reason"]}' for row in runs.left_out]
    more = [f'and {len(reasons) - 3} more'] if len(reasons) > 3 else []
    return '; '.join(reasons[:3] + more) or 'give more runs'
