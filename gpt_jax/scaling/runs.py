"""Runs that laws are fitted to, read from a table of any usual format and cleaned.

Rows that are left out are listed with the reason, and what is read in another way than expected in
a note. The columns that laws and plots use, after --columns and the aliases of rows.py:

    params, tokens, loss    parameters (under any convention), tokens trained on, nats per token (or
                            bits per byte); 124M and 1.3B are counts
    flops                   training FLOPs; 6 x params x tokens if no row has them; if most rows
                            have them, the others are left out
    budget                  the FLOP budget that a run was planned for: runs of one budget are one
                            isoFLOP curve
    unique_tokens           tokens of distinct text; less than `tokens` where text was repeated
    params_total            parameters with all experts, where params are those active for a token
    planned_tokens          tokens at which the run was to end; a run that stopped short is left out
    seed, status, name      seed; 'done' or what went wrong; the run's name
    role                    'trunk' for a run at a constant learning rate, from which others cool
                            down; 'finetuned' for one that started from another run's weights;
                            'task' for one that was trained on a task: all of these are left out
    seconds                 wall-clock seconds of training, for `compare --by=seconds`
    error                   downstream error in (0, 1), for error = eps - k exp(-gamma loss)
    tokenization            what the text was split into, by `gpt-jax eval --records`; losses of
                            different ones are not fitted together
    curve                   [[tokens, loss], ...] during training, in JSON and JSONL only; drawn,
                            never fitted
    learning_rate, ...      hyperparameters: of equal params and tokens, the best is fitted
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import loss_units, rows, run_groups, select_rows, tuned_runs
from gpt_jax.scaling.clean_rows import (
    EXTRA_COLUMNS,
    NUMBER_COLUMNS,
    Curve,
    parse_value,
    separate_rows,
)
from gpt_jax.scaling.rows import RunTable
from gpt_jax.scaling.table_formats import Row
from gpt_jax.scaling.table_sources import list_paths

FLOPS_TOLERANCE = 0.3  # of C over 6ND from 1, beyond which a line says so
# What a FLOPs column may count in, instead of FLOPs.
FLOPS_UNITS = {
    1e6: 'MFLOPs',
    1e9: 'GFLOPs',
    1e12: 'TFLOPs',
    1e15: 'PFLOPs',
    1e18: 'EFLOPs',
    1e21: 'ZFLOPs',
    8.64e19: 'PFLOP/s-days',
}
# The noise between seeds is known to a factor of 3 from this many degrees of freedom on.
MIN_NOISE_FREEDOM = 4
SAME_RUN_TOLERANCE = 0.005  # relative: with params and tokens this close, two runs are the same


@dataclasses.dataclass(frozen=True)
class Runs:
    """The runs to which laws are fitted.

    Attributes:
      params, tokens, loss, flops: float64, [runs].
      extra: the other numeric columns of the file, NaN where a row lacks the value.
      names: names of the runs, [runs]; 'row 12' if the file gives none.
      rows: the number of each run's row, from 1 and without the header.
      files: what each run was read from, [runs].
      clusters: integer label of the configuration, [runs]. Rows of one cluster are not independent
        evidence on a law: they are checkpoints of one run, or runs of equal params, tokens at the
        end, unique tokens and hyperparameters (seeds and re-runs). A cluster is resampled and held
        out as a whole. `run_groups` says how runs and checkpoints are known.
      curves: (tokens, loss) during each run, [runs]; empty if a row has none that can be read.
      left_out: {'row', 'name', 'reason'} for every row that is not fitted.
      provenance: 'file', 'sha256', 'count', 'flops', 'loss_unit': the source of the numbers and
        their conventions.
      notes: what was read in another way than expected, a sentence each.
    """

    params: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray
    flops: np.ndarray
    extra: dict[str, np.ndarray]
    names: list[str]
    rows: np.ndarray
    files: list[str]
    clusters: np.ndarray
    curves: list[Curve]
    left_out: list[dict[str, Any]]
    provenance: dict[str, str]
    notes: list[str] = dataclasses.field(default_factory=list)

    def __len__(self) -> int:
        return len(self.loss)

    def variable(self, over: str) -> np.ndarray:
        """Return the values of one variable, 'N', 'D' or 'C'."""
        return {'N': self.params, 'D': self.tokens, 'C': self.flops}[over]

    def max_in_cluster(self, values: np.ndarray) -> np.ndarray:
        """Return the largest value of each row's cluster, [runs]."""
        _, label = np.unique(self.clusters, return_inverse=True)
        largest = np.full(label.max(initial=-1) + 1, -math.inf)
        np.maximum.at(largest, label, values)
        return largest[label]

    def get_checkpoint_clusters(self) -> np.ndarray | None:
        """Return `clusters` if rows of a cluster are checkpoints, which share its noise."""
        is_split = np.unique(np.stack([self.clusters, self.tokens]), axis=1)[0]
        return self.clusters if np.unique(is_split).size < is_split.size else None

    def are_ends(self) -> np.ndarray:
        """Return whether each row is the end of a run rather than an earlier checkpoint, [runs]."""
        return self.tokens == self.max_in_cluster(self.tokens)

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
            files=[self.files[i] for i in index],
            clusters=self.clusters[index],
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
    """A run to forecast.

    Attributes:
      name, params, tokens: of the run.
      unique_tokens, params_total: as in the table above; NaN where the table has none.
    """

    name: str
    params: float
    tokens: float
    unique_tokens: float = math.nan
    params_total: float = math.nan


def read_targets(
    path: str, *, columns: dict[str, str] | None = None, count: str = ''
) -> list[Target]:
    """Read the runs to forecast: params, tokens, and perhaps name, unique_tokens, params_total.

    Raises:
      UserError: as `read_runs`.
    """
    needed = ('params', 'tokens')
    # --columns is about the runs too: their loss, or names that the targets do not have.
    names = rows.list_columns(path)
    own = {
        theirs: ours
        for theirs, ours in (columns or {}).items()
        if theirs in names or set(theirs.split('+')) <= names
    }
    table = rows.read_table(path, own, count, '6ND', needed).rows
    targets = []
    for number, row in enumerate(table, 1):
        values = {name: parse_value(row, name, f'{path}: row {number}') for name in needed}
        for name in needed:
            if not math.isfinite(values[name]):
                raise UserError(f'{path}: row {number}: {name} is missing; give every target one')
        name = str(row.get('name') or f'row {number}')
        more = {
            column: parse_value(row, column, f'{path}: row {number}')
            for column in ('unique_tokens', 'params_total')
            if column in row
        }
        targets.append(Target(name, **values, **more))
    return targets


def is_same_run(runs: Runs, params: float, tokens: float) -> np.ndarray:
    """Return whether each of `runs` has these params and tokens, up to rounding; bool, [runs]."""
    same_params = np.abs(runs.params / params - 1) < SAME_RUN_TOLERANCE
    return same_params & (np.abs(runs.tokens / tokens - 1) < SAME_RUN_TOLERANCE)


def read_runs(
    paths: str | Sequence[str],
    *,
    columns: dict[str, str] | None = None,
    count: str = '',
    flops: str = '',
    drop_highest: int = 0,
    loss_unit: str = '',
    keep_untuned: bool = False,
    where: str = '',
    checkpoints: str = '',
    for_fitting: bool = True,
) -> Runs:
    """Read and clean one or several tables of runs.

    Args:
      paths: what `table_sources.read_source` reads. The rows of several are numbered one after the
        other.
      columns: {name in the file, or a sum of names: name here}.
      count: which parameters are N: '' (the column params, or the total of gpt_jax records), or the
        column params_COUNT of gpt_jax records: total, non_embedding, without_positions, active.
      flops: '' (the column flops if there is one, else 6ND), '6ND', 'column'; 'with_attention' and
        'causal' are the columns flops_with_attention and flops_causal of gpt_jax records. Where
        most runs have the column, those that lack it are left out: two ways of counting in one fit
        would distort its law.
      drop_highest: number of the highest losses to leave out.
      loss_unit: one of `loss_units.UNITS`; '': by the name of the column, else nats.
      keep_untuned: whether runs that differ from a better one in hyperparameters only are kept.
      where: 'COLUMN=VALUE,...', the rows to fit, by the file's own columns; '': all.
      checkpoints: which rows of a run with several are fitted: one of
        `run_groups.CHECKPOINT_CHOICES`; 'separate': every row is a run.
      for_fitting: False if the runs are only looked up to score a forecast: then one is enough,
        losses may be equal, and FLOPs, which are unused, are 6ND.

    Raises:
      UserError: the file does not exist, a column is missing, a cell is not a number or is an
        impossible value, losses per token are of different tokenizers, half of the runs or more
        lack FLOPs that others have, or there are fewer than two runs.
    """
    flops = flops if for_fitting else '6ND'
    path = ', '.join(list_paths(paths))
    table = rows.read_table(paths, columns or {}, count, flops, loss_unit=loss_unit)
    unit = loss_unit or loss_units.find_unit(table.loss_column)
    fitted, left_out, unread = separate_rows(table, unit)
    notes = [*table.notes, *unread]
    if 'loss' not in (columns or {}).values():
        _check_tokenizations(path, [table.rows[row['row'] - 1] for row in fitted])
    runs = _make_runs(path, table, fitted, left_out, flops, unit)
    median = float(np.median(runs.loss)) if len(runs) else math.nan
    notes.append(
        loss_units.describe_unit(table.loss_column, unit, is_given=bool(loss_unit), median=median)
    )
    if where:
        unselected = select_rows.find_unselected([table.given[i - 1] for i in runs.rows], where)
        runs = runs.exclude(unselected)
    runs = _exclude_without_flops(path, runs, flops)
    if len(runs):
        checkpoints = checkpoints if for_fitting else 'last'
        runs, more = _select_rows(runs, table, checkpoints, keep_untuned)
        notes += more
    notes.append(_compare_flops(runs))
    notes.append(_describe_reruns(runs))
    runs = dataclasses.replace(runs, notes=[note for note in notes if note])
    if drop_highest:
        highest = np.argsort(-runs.loss, kind='stable')[:drop_highest]
        reason = f'one of the {drop_highest} highest losses (--drop_highest)'
        runs = runs.exclude({int(i): reason for i in highest})
    if not for_fitting:
        if not len(runs):
            raise UserError(
                f'{path}: {len(table.rows)} rows and no finished run; {_summarize_reasons(runs)}'
            )
        return runs
    if len(runs) < 2:
        raise UserError(
            f'{path}: {len(runs)} of {len(table.rows)} rows can be fitted, and a law needs more; '
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


def _make_runs(
    path: str,
    table: RunTable,
    fitted: list[Row],
    left_out: list[dict[str, Any]],
    flops: str,
    unit: str,
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
        files=[table.places[row['row'] - 1].rpartition(':')[0] for row in fitted],
        clusters=np.arange(len(fitted)),
        curves=[row['curve'] for row in fitted],
        left_out=left_out,
        provenance={
            'file': path,
            'sha256': table.sha256,
            'count': table.params_count or 'as given',
            'flops': (flops or 'column') if has_flops else '6ND',
            'loss_unit': unit,
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


def _list_sizes(runs: Runs) -> np.ndarray:
    """Return params, tokens, unique tokens and total params (0 where unknown), [runs, 4]."""
    zeros = np.zeros(len(runs))
    more = [runs.extra.get(name, zeros) for name in ('unique_tokens', 'params_total')]
    return np.nan_to_num(np.stack([runs.params, runs.tokens, *more], axis=1))


def _select_rows(
    runs: Runs, table: RunTable, checkpoints: str, keep_untuned: bool
) -> tuple[Runs, list[str]]:
    """Label the clusters, and leave out untuned runs and early checkpoints; return notes on it."""
    given, sizes = [table.rows[number - 1] for number in runs.rows], _list_sizes(runs)
    groups = run_groups.group_rows(given, sizes, are_runs=checkpoints == 'separate')
    runs = dataclasses.replace(runs, clusters=groups.clusters)
    notes, reasons = [], {}
    last = np.flatnonzero(groups.is_last)
    if not keep_untuned:
        found = tuned_runs.find_untuned([given[i] for i in last], sizes[last], runs.loss[last])
        untuned = {int(groups.runs[last[i]]): reason for i, reason in found.items()}
        labels = enumerate(groups.runs.tolist())
        reasons = {index: untuned[run] for index, run in labels if run in untuned}
        if untuned:
            notes.append(
                f'{len(untuned)} of {np.unique(groups.runs).size} runs are left out because '
                'another run of the same N and D has better hyperparameters (--keep_untuned keeps '
                'them)'
            )
    if groups.evidence:
        tuned = np.array([index not in reasons for index in range(len(runs))])
        early = run_groups.find_early(groups, runs.tokens, tuned, checkpoints)
        curves = (
            _make_curves(runs, groups) if runs.provenance['loss_unit'] == 'nats' else runs.curves
        )
        runs = dataclasses.replace(runs, curves=curves)
        reasons = early | reasons
        notes.append(run_groups.describe_checkpoints(groups, reasons))
    return runs.exclude(reasons), notes


def _describe_reruns(runs: Runs) -> str:
    """Return a sentence if runs were repeated, but too few to tell the noise; else ''."""
    repeated = len(runs) - np.unique(np.stack([runs.clusters, runs.tokens]), axis=1).shape[1]
    if not 0 < repeated < MIN_NOISE_FREEDOM:
        return ''
    rows, words = ('row repeats', 'its') if repeated == 1 else ('rows repeat', 'their')
    return (
        f'{repeated} {rows} another but for {words} loss: too few for a level of noise, for which '
        f'{MIN_NOISE_FREEDOM} are needed'
    )


def _make_curves(runs: Runs, groups: run_groups.RunGroups) -> list[Curve]:
    """Return the curve of each row; the last row of a run that has none gets its checkpoints."""
    points: dict[int, Curve] = {}
    for run, tokens, loss in zip(groups.runs.tolist(), runs.tokens, runs.loss, strict=True):
        points.setdefault(run, []).append((float(tokens), float(loss)))
    return [
        curve or (sorted(points[run]) if is_last and len(points[run]) > 1 else [])
        for curve, run, is_last in zip(
            runs.curves, groups.runs.tolist(), groups.is_last, strict=True
        )
    ]


def _compare_flops(runs: Runs) -> str:
    """Return a sentence if the column flops is far from 6ND, else ''."""
    if runs.provenance['flops'] != 'column' or not len(runs):
        return ''
    ratio = float(np.median(runs.flops / (6 * runs.params * runs.tokens)))
    if abs(ratio - 1) <= FLOPS_TOLERANCE:
        return ''
    sentence = f'flops: the median is {ratio:.3g} times 6 x params x tokens'
    for size, unit in FLOPS_UNITS.items():
        if abs(ratio * size - 1) <= FLOPS_TOLERANCE:
            return f'{sentence}: the column seems to be in {unit}; --flops=6ND does not use it'
        if abs(ratio / size - 1) <= FLOPS_TOLERANCE:
            return (
                f'{sentence}: params or tokens seem to be in units (product {size:.0e}), not counts'
            )
    return (
        f'{sentence}: attention or embeddings count otherwise, or other units; --flops=6ND does '
        'not use the column'
    )


def _summarize_reasons(runs: Runs) -> str:
    reasons = [f'row {row["row"]}: {row["reason"]}' for row in runs.left_out]
    more = [f'and {len(reasons) - 3} more'] if len(reasons) > 3 else []
    return '; '.join(reasons[:3] + more) or 'give more runs'
