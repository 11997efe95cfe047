"""Plan of an isoFLOP sweep: sizes around the N* of each budget of training FLOPs.

The sizes go from N* / span to N* x span, evenly in log N. A minimum is valid only inside the sweep,
so even if N* is wrong by a factor f, the size with the lowest loss must not be at the edge:
span^(1 - 1 / (sizes - 1)) > f. A span of 3 with 5 sizes tolerates a factor of 2.3; a wider span is
no better, since a curve far from its minimum is not a parabola (isoflop.py). Existing runs are kept
as they are.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import analysis, compute_optimal, isoflop, outliers, parametric_fit
from gpt_jax.scaling.compute_optimal import ComputeCost, ComputeSplit
from gpt_jax.scaling.plan import planner, shapes, trial_rows
from gpt_jax.scaling.plan.shapes import Shape, ShapeFamily
from gpt_jax.scaling.plan.trial_rows import PreviousRuns, TrialRules
from gpt_jax.scaling.runs import Runs

# The expected optimum N* of a budget before it is run: published, or fitted to existing runs.
#
# A published law is for another text and tokenizer, so its N* may be wrong by some factor.
# Therefore, a sweep begins with its small budgets, whose results refine N* at the large ones. The
# first usable estimate from existing runs is taken: the line through the minima of approach 2; the
# parametric law; the minima, or else the best runs, with N* ~ C^0.5.

MAX_FACTOR = 3.0  # a law is unusable if its optimum is this factor outside the sizes of its runs


class OptimumGuess(NamedTuple):
    """The expected N* at any budget.

    Attributes:
      split: N* and D* over compute.
      words: the source, in words.
      passed_over: why each source of higher precedence is unusable.
    """

    split: ComputeSplit
    words: str
    passed_over: list[str]


def guess_from_literature() -> OptimumGuess:
    """Return the optimum of the published law."""
    split = compute_optimal.compute_split(planner.PUBLISHED_LAW)
    return OptimumGuess(split, 'Besiroglu et al. 2024', [])


def guess_from_runs(runs: Runs) -> OptimumGuess:
    """Return the optimum from the first source that the runs support."""
    passed_over: list[str] = []
    cost = compute_optimal.fit_cost(runs)
    for fit_source in (_fit_minima, _fit_parametric):
        try:
            split, words = fit_source(runs, cost)
            _check_plausible(split, runs)
        except UserError as error:
            passed_over.append(' '.join(str(error).split()))
        else:
            return OptimumGuess(split, words, passed_over)
    split, words = _assume_half_power(runs, cost)
    return OptimumGuess(split, words, passed_over)


def _fit_minima(runs: Runs, cost: ComputeCost) -> tuple[ComputeSplit, str]:
    minima = isoflop.find_minima(runs)
    split = isoflop.fit_isoflop_minima(minima, cost)
    inside = sum(not minimum.note for minimum in minima)
    return split, f'approach 2, the line through {inside} minima, N* ~ C^{split.a:.3f}'


def _fit_parametric(runs: Runs, cost: ComputeCost) -> tuple[ComputeSplit, str]:
    clean, delta, _ = outliers.clean_runs('chinchilla', runs)
    law = parametric_fit.fit_parametric_law(
        'chinchilla',
        parametric_fit.to_log_data(clean),
        delta=delta,
        tries=analysis.SECONDARY_STARTS,
    )
    split = compute_optimal.compute_split(law.constants, cost)
    return split, f'the parametric law through {len(clean)} runs, N* ~ C^{split.a:.3f}'


def _assume_half_power(runs: Runs, cost: ComputeCost) -> tuple[ComputeSplit, str]:
    """Assume a slope of 0.5 through the mean of the valid minima, or else of the best runs."""
    inside = [minimum for minimum in isoflop.find_minima(runs, least=0) if not minimum.note]
    if inside:
        points = [(minimum.flops, minimum.params) for minimum in inside]
    else:
        labels = isoflop.budget_per_run(runs)
        order = np.argsort(labels, kind='stable')
        steps = np.diff(np.log(labels[order]))
        is_new_budget = steps > np.log1p(isoflop.SAME_BUDGET_TOLERANCE)
        groups = np.split(order, np.flatnonzero(is_new_budget) + 1)
        best = [group[np.argmin(runs.loss[group])] for group in groups]
        points = [(float(runs.flops[i]), float(runs.params[i])) for i in best]
    log_flops, log_params = np.log(points).mean(axis=0)
    n = math.exp(log_params - 0.5 * log_flops)
    source = 'the minima' if inside else 'the best runs'
    words = f'{source} of budgets done ({len(points)}), N* ~ C^0.5 assumed'
    return ComputeSplit(0.5, 1 - 0.5 * cost.p, n, n**-cost.p / cost.k), words


def _check_plausible(split: ComputeSplit, runs: Runs) -> None:
    """Raise UserError if a split cannot be extrapolated."""
    n, _ = split.at(np.array([runs.flops.min(), runs.flops.max()]))
    if not (split.a > 0 and split.b > 0):
        raise UserError(f'N* ~ C^{split.a:.3g}: an exponent that no optimum has')
    low, high = runs.params.min() / MAX_FACTOR, runs.params.max() * MAX_FACTOR
    if not ((n > low) & (n < high)).all():
        raise UserError(
            f'N* from {n.min():.3g} to {n.max():.3g} at the compute of the runs: far outside '
            'their sizes'
        )


TOLERATED_FACTOR = 2.0  # N* may be off by this factor with the minimum still inside
SAME_BUDGET = 0.01  # relative: a budget this close to that of some runs is the same
ADDED_SIZES = 2  # beyond an edge: a single one could be the edge again


class _Sweep(NamedTuple):
    """The settings that all budgets share."""

    sizes: int
    span: float
    family: ShapeFamily
    rules: TrialRules
    common_batch: int | None


def plan_isoflop(
    budgets: tuple[float, ...],
    *,
    sizes: int,
    span: float,
    family: ShapeFamily,
    rules: TrialRules,
    hardware: Mapping[str, Any],
    price: float | None,
) -> dict[str, Any]:
    """Plan the isoFLOP sweep over budgets of training FLOPs.

    Args:
      budgets: training FLOPs.
      sizes: number of sizes per budget.
      span: the factor from N* to the largest size, and from the smallest size to N*.
      family: what the shapes share.
      rules: how trials are trained; its previous runs refine N* at the other budgets.
      hardware: peak, utilization and devices, as in `planner.plan_run`.
      price: price of one device for an hour, or None.

    Returns:
      A JSON-able dict: 'source' and 'passed_over' (of N*), 'split', 'frame' (the family), 'batch'
      (None if it depends on the budget), 'span', 'rules' (sentences), 'notes', 'budgets' (each with
      flops, params, tokens, source, note and 'trials', rows of numbers with the 'trial' itself),
      and 'total' and 'new' (trials, flops, hours, cost).

    Raises:
      UserError: the budgets, sizes or span do not make curves, or the previous runs lack a column
        that is needed to continue their sweep.
    """
    ordered = sorted(budgets)
    _check(ordered, sizes, span, rules)
    previous = rules.previous
    guess = guess_from_runs(previous.runs) if previous else guess_from_literature()
    curves = isoflop.find_minima(previous.runs, least=0) if previous else []
    sweep = _Sweep(sizes, span, family, rules, _find_common_batch(ordered, family, rules))
    planned = [_plan_budget(budget, guess, curves, sweep) for budget in ordered]
    rows = [row for budget in planned for row in budget['trials']]
    for row in rows:
        row['hours'] = row['flops_with_attention'] / math.prod(hardware.values()) / 3600
    _check_unique_names(rows)
    new_rows = [row for row in rows if row['new']]
    return {
        'source': guess.words,
        'passed_over': guess.passed_over,
        'split': guess.split._asdict(),
        'frame': family.to_dict(),
        'batch': sweep.common_batch,
        'span': span,
        'rules': trial_rows.describe_rules(rules),
        'notes': _collect_notes(ordered, sizes, span, rules),
        'budgets': planned,
        'total': _sum_costs(rows, hardware['devices'], price),
        'new': _sum_costs(new_rows, hardware['devices'], price),
    }


def _find_common_batch(budgets: list[float], family: ShapeFamily, rules: TrialRules) -> int | None:
    """Return the batch that all runs, or else all budgets, share; None if there is none."""
    batches = {rules.batch_size(budget, family.context) for budget in budgets}
    shared = trial_rows.get_shared_value(rules.previous, 'batch') if rules.previous else None
    return shared or (batches.pop() if len(batches) == 1 else None)


def _check(budgets: list[float], sizes: int, span: float, rules: TrialRules) -> None:
    if not span > 1:
        raise UserError(f'--span: must be above 1, got {span:g}; it is the largest size over N*')
    if sizes < isoflop.MIN_SIZES_PER_CURVE:
        raise UserError(f'--sizes: must be at least {isoflop.MIN_SIZES_PER_CURVE}, got {sizes}')
    if len(budgets) < 2 and not rules.previous:
        raise UserError(
            '--isoflop: one budget gives one minimum and no line; give two or more budgets, or '
            '--runs with the others'
        )
    for low, high in itertools.pairwise(budgets):
        if high / low <= 1 + isoflop.SAME_BUDGET_TOLERANCE:
            raise UserError(
                f'--isoflop: a fit cannot tell budgets {low:g} and {high:g} apart; give budgets '
                f'more than {100 * isoflop.SAME_BUDGET_TOLERANCE:g}% apart'
            )


def _plan_budget(
    budget: float, guess: OptimumGuess, curves: list[isoflop.IsoflopMinimum], sweep: _Sweep
) -> dict[str, Any]:
    """Plan one budget: its centre, the existing trials, and those still missing."""
    family, previous = sweep.family, sweep.rules.previous
    existing = _find_runs(budget, previous)
    curve = next((curve for curve in curves if existing & {*curve.used, *curve.others}), None)
    minimum = curve if curve is not None and not curve.note else None
    guessed_params, guessed_tokens = (float(value) for value in guess.split.at(budget))
    params = minimum.params if minimum else guessed_params
    batch = sweep.rules.batch_size(budget, family.context)
    old_rows: list[dict[str, Any]] = []
    if previous:
        old_rows = [
            trial_rows.make_existing_row(previous, i, budget, batch, sweep.common_batch, family)
            for i in sorted(existing)
        ]
    old_rows.sort(key=lambda row: row['params'])
    if not old_rows:
        missing, note = _spread_around(params, budget, sweep)
    elif curve is None:
        missing, note = _fill_up(params, old_rows, sweep)
    else:
        missing, note = _extend_edge(curve, old_rows, family)
    present = {(row['layers'], row['width']) for row in old_rows}
    missing = [shape for shape in missing if (shape.layers, shape.width) not in present]
    new_rows = trial_rows.make_new_rows(missing, budget, sweep.common_batch, family, sweep.rules)
    return {
        'flops': budget,
        'params': params,
        'tokens': minimum.tokens if minimum else guessed_tokens,
        'source': 'its own minimum' if minimum else guess.words,
        'note': note,
        'trials': sorted([*old_rows, *new_rows], key=lambda row: row['params']),
    }


def _find_runs(budget: float, previous: PreviousRuns | None) -> set[int]:
    """Return the indices of the runs of this budget.

    Raises:
      UserError: some runs have a budget that is close to this one but not the same.
    """
    if previous is None:
        return set()
    labels = isoflop.budget_per_run(previous.runs)
    tolerance = isoflop.SAME_BUDGET_TOLERANCE
    near = np.abs(np.log(labels / budget)) <= np.log1p(tolerance)
    if near.any():
        near_budget = float(np.exp(np.log(labels[near]).mean()))
        if abs(math.log(near_budget / budget)) > SAME_BUDGET:
            raise UserError(
                f'--isoflop={budget:g}: {previous.file} has runs of {near_budget:.4g} FLOPs; give '
                f'that budget, or one more than {100 * tolerance:g}% away'
            )
    return {int(i) for i in np.flatnonzero(near)}


def _spread_around(params: float, budget: float, sweep: _Sweep) -> tuple[list[Shape], str]:
    """Choose shapes for a budget without runs, and write a note."""
    span, family = sweep.span, sweep.family
    spread = shapes.spread_shapes(params, span, sweep.sizes, family)
    if len(spread) < isoflop.MIN_SIZES_PER_CURVE:
        raise UserError(
            f'--isoflop={budget:g}: {len(spread)} shapes of whole layers from '
            f'{params / span:.3g} to {params * span:.3g} parameters ({family.counted}); give a '
            'smaller --head_dim or --vocab, or a wider --span'
        )
    few = len(spread) < sweep.sizes
    return spread, f'only {len(spread)} shapes of whole layers' if few else ''


def _fill_up(
    params: float, old_rows: list[dict[str, Any]], sweep: _Sweep
) -> tuple[list[Shape], str]:
    """Choose sizes of a new curve that have no run nearby, if the runs are too few for a curve."""
    family = sweep.family
    half_step = math.log(sweep.span) / (sweep.sizes - 1)

    def is_far(shape: Shape) -> bool:
        size = family.count_size(shape)
        return all(abs(math.log(size / row['params'])) > half_step for row in old_rows)

    spread = shapes.spread_shapes(params, sweep.span, sweep.sizes, family)
    added = [shape for shape in spread if is_far(shape)]
    return added, f'{len(old_rows)} runs are too few for a curve: {len(added)} sizes added'


def _extend_edge(
    curve: isoflop.IsoflopMinimum, old_rows: list[dict[str, Any]], family: ShapeFamily
) -> tuple[list[Shape], str]:
    """Choose sizes beyond the edge, with the spacing of the others, if the minimum is there."""
    lowest = min(old_rows, key=lambda row: row['loss'])['params']
    first, last = old_rows[0]['params'], old_rows[-1]['params']
    if not curve.note or lowest not in (first, last):
        return [], curve.note
    steps = max(1, len({row['params'] for row in old_rows}) - 1)
    ratio = (last / first) ** (1 / steps)
    upwards = lowest == last
    added = shapes.shapes_beyond(lowest, ratio if upwards else 1 / ratio, ADDED_SIZES, family)
    which = 'larger' if upwards else 'smaller'
    outcome = f'there is no {which} shape; a smaller --head_dim allows more'
    if added:
        outcome = f'{len(added)} {which} added'
    return added, f'{curve.note}: {outcome}'


def _check_unique_names(rows: list[dict[str, Any]]) -> None:
    names = [row['name'] for row in rows]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f'{name}: two trials have this name; rename the existing run')


def _sum_costs(rows: list[dict[str, Any]], devices: float, price: float | None) -> dict[str, Any]:
    hours = sum(row['hours'] for row in rows)
    return {
        'trials': len(rows),
        'flops': sum(row['flops'] for row in rows),
        'hours': hours,
        'cost': hours * devices * price if price else None,
    }


def _collect_notes(budgets: list[float], sizes: int, span: float, rules: TrialRules) -> list[str]:
    notes = []
    if span ** (1 - 1 / (sizes - 1)) < TOLERATED_FACTOR:
        notes.append(
            f'--span={span:g}: with {sizes} sizes, an N* off by {TOLERATED_FACTOR:g} puts the '
            'minimum on the edge'
        )
    if rules.previous:
        labels = isoflop.budget_per_run(rules.previous.runs)
        distances = np.abs(np.log(labels[:, None] / np.array(budgets))).min(1)
        others = int((distances > np.log1p(isoflop.SAME_BUDGET_TOLERANCE)).sum())
        if others:
            notes.append(f'{others} runs of other budgets refine N* but are not in the config')
    return notes
