"""Which runs can a law be fitted to? Anyone's CSV or JSONL becomes columns; a row left out is named with its reason.

The columns that laws and plots read, after --columns and the aliases below:

    params, tokens, loss    parameters (the convention is the reader's choice), tokens trained on, nats per token
    flops                   training FLOPs; where no row has them they are 6 x params x tokens; where most rows do,
                            the others are left out
    budget                  the FLOP budget that a run was planned for: runs of one budget are one isoFLOP curve
    unique_tokens           tokens of distinct text; less than `tokens` where text was repeated
    planned_tokens          tokens at which the run was to end; a run that stopped short is left out
    seed, status, name      seed; 'done' or what went wrong; the run's name
    role                    'trunk' for a run at a constant rate, from which others cool down, 'tuned' for one that
                            began with another run's weights, 'task' for one that learned a task: left out
    error                   a downstream error in (0, 1), for the law error = eps - k exp(-gamma loss)
    curve                   [[tokens, loss], ...] on the way there, in JSON and JSONL alone; drawn, never fitted
"""

import dataclasses
import hashlib
import math
from typing import Any

import numpy as np

from gpt_jax.errors import UserError
from gpt_jax.scaling import curves, rows

NUMBERS = (*rows.NEEDED, 'flops', 'budget', 'unique_tokens', 'planned_tokens', 'seed', 'error')
COUNTS = ('params', 'tokens', 'flops', 'budget', 'unique_tokens', 'planned_tokens')
WHOLE = ('params', 'tokens', 'unique_tokens', 'planned_tokens')  # no run has less than one of them
MOST = 1e40  # no run comes near it, and what is squared on the way to a law stays a float
DONE = ('', 'done', 'ok', 'finished', 'complete', 'completed', 'success', 'none', 'nan')
UNFINISHED = 0.995  # of the planned tokens: less is a run that stopped short, more is a last partial batch


@dataclasses.dataclass(frozen=True)
class Runs:
    """The runs that are fitted.

    Attributes:
      params, tokens, loss, flops: float64, [runs].
      more: the other numeric columns that the file has, NaN where a row lacks the value.
      names: of the runs, [runs]; 'row 12' where the file gives none.
      rows: where each run stands in the file, counted from 1 without the header.
      curves: (tokens, loss) on the way to each run's loss, [runs]; empty where a row has none that can be read.
      left_out: {'row', 'name', 'reason'} for every row that is not fitted.
      about: 'file', 'sha256', 'count', 'flops': where the numbers are from and under which conventions.
    """

    params: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray
    flops: np.ndarray
    more: dict[str, np.ndarray]
    names: list[str]
    rows: np.ndarray
    curves: list[curves.Curve]
    left_out: list[dict[str, Any]]
    about: dict[str, str]

    def __len__(self) -> int:
        return len(self.loss)

    def along(self, over: str) -> np.ndarray:
        """The variable of a law over one: 'N', 'D' or 'C'."""
        return {'N': self.params, 'D': self.tokens, 'C': self.flops}[over]

    def take(self, keep: np.ndarray) -> 'Runs':
        """The runs where `keep` (a mask or indices) says so; `left_out` stays as it is."""
        index = np.arange(len(self))[keep]
        picked = {name: getattr(self, name)[index] for name in ('params', 'tokens', 'loss', 'flops', 'rows')}
        more = {name: values[index] for name, values in self.more.items()}
        names, drawn = [self.names[i] for i in index], [self.curves[i] for i in index]
        return dataclasses.replace(self, **picked, more=more, names=names, curves=drawn)

    def without(self, reasons: dict[int, str]) -> 'Runs':
        """Leaves out the runs at these indices, each with its reason."""
        keep = np.ones(len(self), bool)
        keep[list(reasons)] = False
        gone = [
            {'row': int(self.rows[i]), 'name': self.names[i], 'reason': reason} for i, reason in sorted(reasons.items())
        ]
        return dataclasses.replace(self.take(keep), left_out=[*self.left_out, *gone])


def read(
    path: str,
    *,
    columns: dict[str, str] | None = None,
    count: str = '',
    flops: str = '',
    drop_highest: int = 0,
    for_fitting: bool = True,
) -> Runs:
    """Reads and cleans a file of runs.

    Args:
      path: .csv (with a header), .jsonl or .json (a list of objects).
      columns: {name in the file: name here}.
      count: which parameters are N: '' (the column params, or what our own records count as total), or that column
        params_COUNT of our own records: total, non_embedding, without_positions, active.
      flops: '' (the column flops if there is one, else 6ND), '6ND', 'column'; 'with_attention' and 'causal' are the
        columns flops_with_attention and flops_causal of our own records. Where most runs have the column and some lack
        it, those are left out: two ways of counting in one fit would bend its law.
      drop_highest: so many of the highest losses are left out.
      for_fitting: False where the runs are only looked up, to score a forecast: then one is enough, losses may be equal
        and FLOPs, which nobody asks for, are 6ND.

    Raises:
      UserError: no such file, a missing column, text where a number should be, a value that no run can have, FLOPs that
        half of the runs or more lack and others have, or fewer than two runs left.
    """
    flops = flops if for_fitting else '6ND'
    content = rows.content(path)
    table, count = rows.table(path, content, columns or {}, count, flops)
    kept, left_out = _sorted_out(path, table)
    runs = _without_flops(path, _runs(path, content, kept, left_out, count, flops), flops)
    if drop_highest:
        highest = np.argsort(-runs.loss, kind='stable')[:drop_highest]
        runs = runs.without({int(i): f'one of the {drop_highest} highest losses (--drop-highest)' for i in highest})
    if not for_fitting and not len(runs):
        raise UserError(f'{path}: none of {len(table)} rows is a finished run; {_why(runs)}')
    if not for_fitting:
        return runs
    if len(runs) < 2:
        raise UserError(f'{path}: {len(runs)} of {len(table)} rows can be fitted, and a law needs more; {_why(runs)}')
    if np.ptp(runs.loss) == 0:
        raise UserError(f'{path}: all {len(runs)} losses are {runs.loss[0]:g}; there is nothing to fit')
    return runs


def _sorted_out(path: str, table: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows that can be fitted, their numbers as floats, and the others with their reasons."""
    kept: list[dict[str, Any]] = []
    left_out: list[dict[str, Any]] = []
    seen: dict[tuple[Any, ...], int] = {}
    for number, row in enumerate(table, 1):
        name, reason, values = str(row.get('name') or f'row {number}'), _not_a_run(row), {}
        if not reason:
            values = _values(row, f'{path}: row {number}')
            reason = _reason(row, values)
        same = tuple(repr(value) for value in values.values())
        if not reason and same in seen:
            reason = f'the same as row {seen[same]} in every column'
        if reason:
            left_out.append({'row': number, 'name': name, 'reason': reason})
        else:
            seen[same] = number
            kept.append(values | {'row': number, 'name': name, 'curve': curves.read(row.get('curve'))})
    return kept, left_out


def _not_a_run(row: dict[str, Any]) -> str:
    """Asked before any value is looked at: what died may have left anything in its columns."""
    status = str(row.get('status') if row.get('status') is not None else '').strip()
    if status.lower() not in DONE:
        return f'status is {status!r}'
    return rows.OFF_THE_LAW.get(str(row.get('role')), '')


def _values(row: dict[str, Any], where: str) -> dict[str, Any]:
    """The row's numbers; NaN where it has none. Raises UserError for one that is a slip, not the end of a run."""
    values = {name: rows.number(row.get(name), f'{where}: {name}') for name in NUMBERS}
    for name in (*COUNTS, 'loss'):
        value = values[name]
        if not math.isfinite(value):
            continue
        if value <= 0:
            raise UserError(f'{where}: {name} is {value:g}; it must be above zero')
        if name in WHOLE and value < 1:
            raise UserError(f'{where}: {name} is {value:g}; it must be at least 1, as a count and not in billions')
        if not 1 / MOST < value < MOST:
            raise UserError(f'{where}: {name} is {value:g}, which no run has; mend the row or delete it')
    return values


def _reason(row: dict[str, Any], values: dict[str, Any]) -> str:
    for name in rows.NEEDED:
        if not math.isfinite(values[name]):
            return f'{name} is {"missing" if row.get(name) in (None, "") else row[name]}'
    for name in NUMBERS:
        if math.isinf(values[name]):
            return f'{name} is {row[name]}'
    if values['tokens'] < UNFINISHED * values['planned_tokens']:
        return f'unfinished: {values["tokens"]:.4g} of {values["planned_tokens"]:.4g} planned tokens'
    return ''


def _runs(
    path: str, content: bytes, kept: list[dict[str, Any]], left_out: list[dict[str, Any]], count: str, flops: str
) -> Runs:
    columns = {name: np.array([row[name] for row in kept], float) for name in NUMBERS}
    six = 6 * columns['params'] * columns['tokens']
    known = not np.isnan(columns['flops']).all()
    return Runs(
        params=columns['params'],
        tokens=columns['tokens'],
        loss=columns['loss'],
        flops=columns['flops'] if known else six,
        more={n: columns[n] for n in NUMBERS[4:] if not np.isnan(columns[n]).all()},
        names=[row['name'] for row in kept],
        rows=np.array([row['row'] for row in kept], int),
        curves=[row['curve'] for row in kept],
        left_out=left_out,
        about={
            'file': path,
            'sha256': hashlib.sha256(content).hexdigest(),
            'count': count or 'as given',
            'flops': (flops or 'column') if known else '6ND',
        },
    )


def _without_flops(path: str, runs: Runs, flops: str) -> Runs:
    """Leaves out the runs without FLOPs where most have them; with none at all, 6ND stands in unless flags forbid."""
    name = 'flops' if flops in ('', 'column') else f'flops_{flops}'
    missing = np.flatnonzero(np.isnan(runs.flops))
    asked = flops in ('with_attention', 'causal', 'column') and runs.about['flops'] == '6ND'
    if len(runs) and (asked or 2 * missing.size >= len(runs)):
        lacking, said = len(runs) if asked else missing.size, f'--flops={flops}: ' if flops else ''
        raise UserError(
            f'{path}: {said}column {name!r} is missing in {lacking} of {len(runs)} runs; --flops=6ND needs none'
        )
    reason = f'{name} is missing, and most rows have it (--flops=6ND needs none)'
    return runs.without({int(i): reason for i in missing})


def _why(runs: Runs) -> str:
    reasons = [f'row {one["row"]}: {one["reason"]}' for one in runs.left_out]
    return '; '.join(reasons[:3] + ([f'and {len(reasons) - 3} more'] if len(reasons) > 3 else [])) or 'give more runs'
