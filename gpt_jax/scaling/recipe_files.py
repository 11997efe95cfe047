"""Tables of runs of several recipes, read with the same conventions or refused.

A compute multiplier is a ratio of costs, so both must be counted alike. FLOPs that the files record
come before 6 x params x tokens: the column flops, or else the column of gpt_jax records that all
files have. A file that counts otherwise than another is refused, or 6ND is counted in both if the
difference is a constant factor.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import rows
from gpt_jax.scaling.loss_units import label_unit
from gpt_jax.scaling.runs import Runs, read_runs

# FLOPs of gpt_jax records, the most complete first.
RECORD_COLUMNS = ('flops_with_attention', 'flops_causal', 'flops_6N')
SAME_FACTOR = 0.02  # relative: FLOPs over 6ND that vary by less are a constant factor
RECOMPUTED = 8 / 6  # FLOPs with and without the second forward pass of recomputed activations
OTHER_UNIT = 300.0  # a ratio of two files' FLOPs over 6ND that only units can explain
COST_UNITS = {'flops': 'FLOPs', 'seconds': 'seconds'}


def read_recipes(
    paths: Sequence[str],
    *,
    columns: dict[str, str],
    flops: str = '',
    by: str = 'flops',
    **options: Any,
) -> tuple[list[Runs], list[str]]:
    """Read a table for each recipe.

    Args:
      paths: a file for each recipe.
      columns: as in `read_runs`; a column that only some files have is renamed in those.
      flops: as in `read_runs`.
      by: the cost, 'flops' or 'seconds'; with seconds, the column of that name is required.
      options: further arguments of `read_runs`.

    Returns:
      The runs of each file, and what was read in another way than expected, a sentence each.

    Raises:
      UserError: as `read_runs`, or the files differ in their conventions.
    """
    names = [rows.list_columns(path) for path in paths]
    renamed = [_select_columns(columns, own, names) for own in names]
    sources = [''] * len(paths)
    if not flops and by == 'flops':
        sources = _find_flops(paths, names, renamed)
    recipes = []
    for path, own, source in zip(paths, renamed, sources, strict=True):
        more = {source: 'flops'} if source not in ('', 'flops') else {}
        runs = read_runs(path, columns=own | more, flops=flops, **options)
        if more:
            runs = dataclasses.replace(runs, provenance=runs.provenance | {'flops': source})
        recipes.append(runs)
    _check_units(recipes)
    if by == 'seconds':
        return [_require_seconds(runs) for runs in recipes], []
    return _equalize_flops(recipes, is_forced=flops == 'column')


def get_cost(runs: Runs, by: str) -> np.ndarray:
    """Return the cost of each run, 'flops' or 'seconds'."""
    return runs.flops if by == 'flops' else runs.extra['seconds']


def describe_conventions(recipes: Sequence[Runs], by: str) -> dict[str, str]:
    """Return the conventions of the loss, the cost and the parameters, in words."""

    def join(key: str) -> str:
        return ' and '.join(dict.fromkeys(runs.provenance[key] for runs in recipes))

    return {
        'loss': label_unit(recipes[0].provenance['loss_unit']),
        'cost': 'seconds of the runs' if by == 'seconds' else f'FLOPs by {join("flops")}',
        'parameters': join('count'),
    }


def _select_columns(
    columns: dict[str, str], own: set[str], names: list[set[str]]
) -> dict[str, str]:
    """Return the columns to rename in a file: those that it has, or that no file has."""

    def has(columns_there: set[str], theirs: str) -> bool:
        parts = {part.strip() for part in theirs.split('+')}
        return theirs in columns_there or parts <= columns_there

    return {
        theirs: ours
        for theirs, ours in columns.items()
        if has(own, theirs) or not any(has(there, theirs) for there in names)
    }


def _find_flops(
    paths: Sequence[str], names: list[set[str]], renamed: list[dict[str, str]]
) -> list[str]:
    """Return the column of FLOPs of each file, '' for none."""
    has_column = [
        any(name.lower() == 'flops' for name in own - set(columns)) or 'flops' in columns.values()
        for own, columns in zip(names, renamed, strict=True)
    ]
    recorded = [[name for name in RECORD_COLUMNS if name in own] for own in names]
    if any(has_column):
        for path, is_named, own in zip(paths, has_column, recorded, strict=True):
            if own and not is_named:
                other = paths[has_column.index(True)]
                raise UserError(
                    f'{other} has a column flops and {path} has {", ".join(own)}: say which of '
                    f'them counts alike, such as --columns={own[0]}=flops, or use --flops=6ND'
                )
        return ['flops' if is_named else '' for is_named in has_column]
    giving = [set(own) for own in recorded if own]
    common = [name for name in RECORD_COLUMNS if giving and all(name in own for own in giving)]
    if giving and not common:
        shown = '; '.join(
            f'{path}: {", ".join(own)}' for path, own in zip(paths, recorded, strict=True) if own
        )
        raise UserError(
            f'the files record FLOPs by different conventions ({shown}); use --flops=6ND'
        )
    return [common[0] if own else '' for own in recorded]


def _check_units(recipes: list[Runs]) -> None:
    units = [label_unit(runs.provenance['loss_unit']) for runs in recipes]
    for runs, unit in zip(recipes, units, strict=True):
        if unit != units[0]:
            first = recipes[0].provenance['file']
            raise UserError(
                f'{first} has losses in {units[0]} and {runs.provenance["file"]} in {unit}: give '
                'both in one unit, by --columns=THEIRS=loss or --loss_unit'
            )


def _require_seconds(runs: Runs) -> Runs:
    """Leave out the runs without seconds.

    Raises:
      UserError: half of the runs or more have none.
    """
    seconds = runs.extra.get('seconds', np.full(len(runs), np.nan))
    missing = np.flatnonzero(~(seconds > 0))
    if 2 * missing.size >= len(runs):
        raise UserError(
            f'{runs.provenance["file"]}: --by=seconds: column seconds is missing in '
            f'{missing.size} of {len(runs)} runs; --columns=THEIRS=seconds renames one'
        )
    return runs.exclude({int(i): 'seconds is missing' for i in missing})


def _equalize_flops(recipes: list[Runs], *, is_forced: bool) -> tuple[list[Runs], list[str]]:
    """Return the recipes with FLOPs counted alike, and a note on what was recomputed.

    Raises:
      UserError: they count differently.
    """
    counted = [runs for runs in recipes if runs.provenance['flops'] != '6ND']
    derived = [runs for runs in recipes if runs.provenance['flops'] == '6ND']
    factors = [runs.flops / (6 * runs.params * runs.tokens) for runs in counted]
    medians = [float(np.median(factor)) for factor in factors]
    is_constant = [
        bool((abs(factor / median - 1) < SAME_FACTOR).all())
        for factor, median in zip(factors, medians, strict=True)
    ]
    if derived:
        _check_counts(derived, counted)
    if counted and derived:
        other = derived[0].provenance['file']
        for runs, median, is_factor in zip(counted, medians, is_constant, strict=True):
            if not is_factor or median < 1 - SAME_FACTOR:
                raise UserError(
                    f'{runs.provenance["file"]} records FLOPs ({median:.3g} times 6 x params x '
                    f'tokens in the median) and {other} does not: give {other} a column flops, or '
                    'use --flops=6ND for both'
                )
        _check_counts(recipes, [])
        notes = [
            f'{runs.provenance["file"]} counts {6 * median:.3g} FLOPs per parameter and token and '
            f'{other} records none: 6 are counted in all files'
            for runs, median in zip(counted, medians, strict=True)
            if abs(median - 1) > SAME_FACTOR
        ]
        return [_count_6nd(runs) for runs in recipes], notes
    for runs, median, is_factor in zip(counted, medians, is_constant, strict=True):
        ratio = max(median / medians[0], medians[0] / median)
        is_recomputed = is_factor and is_constant[0] and abs(ratio / RECOMPUTED - 1) < SAME_FACTOR
        if not is_forced and (ratio > OTHER_UNIT or is_recomputed):
            raise UserError(
                f'{counted[0].provenance["file"]} counts {6 * medians[0]:.3g} FLOPs per parameter '
                f'and token and {runs.provenance["file"]} {6 * median:.3g}: use --flops=6ND, or '
                '--flops=column if this is no difference in counting'
            )
    return recipes, []


def _check_counts(recipes: list[Runs], others: list[Runs]) -> None:
    """Raise UserError if 6ND would be of parameters that are counted differently."""
    first = recipes[0].provenance
    for runs in [*recipes[1:], *others]:
        if runs.provenance['count'] != first['count']:
            raise UserError(
                f'{first["file"]} counts parameters {first["count"]} and '
                f'{runs.provenance["file"]} {runs.provenance["count"]}, so that 6 x params x '
                'tokens differs: choose one by --count, or give both a column flops'
            )


def _count_6nd(runs: Runs) -> Runs:
    return dataclasses.replace(
        runs, flops=6 * runs.params * runs.tokens, provenance=runs.provenance | {'flops': '6ND'}
    )
