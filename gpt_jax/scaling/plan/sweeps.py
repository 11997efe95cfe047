"""Which sweep finds the optimum? Sizes around the N* of each budget, trained on exactly that; what is there stays.

The sizes go from N* / span to N* x span, evenly in log N. A minimum counts only inside the sweep, so a N* wrong by a
factor f must leave the lowest size off the edge: span^(1 - 1 / (sizes - 1)) > f. A span of 3 with 5 sizes bears 2.3; a
wider one is no better, since a curve far from its minimum is no parabola (approaches.py).
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gpt_jax.errors import UserError
from gpt_jax.scaling import approaches
from gpt_jax.scaling.plan import centres, past, shapes, trials
from gpt_jax.scaling.plan.past import Past
from gpt_jax.scaling.plan.planner import Shape
from gpt_jax.scaling.plan.trials import Rules

WRONG = 2.0  # the factor by which N* may be off and the minimum is still inside
EXACT = 0.01  # relative: a budget this close to one of the runs is that one
BEYOND = 2  # sizes added beyond an edge: one alone could be the edge again


def isoflop(
    given: tuple[float, ...], *, sizes: int, span: float, frame: shapes.Frame, rules: Rules,
    hardware: Mapping[str, Any], price: float | None,
) -> dict[str, Any]:  # fmt: skip
    """The isoFLOP sweep over budgets of training FLOPs.

    Args:
      sizes: per budget. span: the factor from N* to the smallest and the largest of them.
      rules: with the past runs, on which the centres of the other budgets are recentred.
      hardware: peak, utilization, devices, as planner.plan has them. price: of one device for an hour, or None.

    Returns:
      A JSON-able dict: 'source' and 'passed_over' (of N*), 'frame', 'batch' (None where it goes with the budget),
      'rules' (sentences), 'notes', 'budgets' (flops, params, tokens, source, note and its 'trials', rows of numbers
      each with the 'trial' itself), and 'total' and 'new' (trials, flops, hours, cost).

    Raises:
      UserError: the budgets, sizes or span make no curves, or the runs lack a column that keeping them takes.
    """
    budgets = sorted(given)
    _check(budgets, sizes, span, rules)
    source = centres.recentred(rules.past.runs) if rules.past else centres.published()
    curves = approaches.minima(rules.past.runs, least=0) if rules.past else []
    common = _common(budgets, frame, rules)
    made = [
        _budget(budget, source, curves, sizes=sizes, span=span, frame=frame, rules=rules, common=common)
        for budget in budgets
    ]
    rows = [row for one in made for row in one['trials']]
    for row in rows:
        row['hours'] = row['flops_with_attention'] / math.prod(hardware.values()) / 3600
    _unique(rows)
    return {
        'source': source.words,
        'passed_over': source.passed_over,
        'split': source.split._asdict(),
        'frame': frame._asdict(),
        'batch': common,
        'span': span,
        'rules': trials.words(rules),
        'notes': _notes(budgets, sizes, span, rules),
        'budgets': made,
        'total': _sum(rows, hardware['devices'], price),
        'new': _sum([row for row in rows if row['new']], hardware['devices'], price),
    }


def _common(budgets: list[float], frame: shapes.Frame, rules: Rules) -> int | None:
    """The batch of the config, which a trial of another batch replaces: the runs', or what all budgets have."""
    found = {rules.batch_of(budget, frame.context) for budget in budgets}
    return (past.own(rules.past, 'batch') if rules.past else None) or (found.pop() if len(found) == 1 else None)


def _check(budgets: list[float], sizes: int, span: float, rules: Rules) -> None:
    if not span > 1:
        raise UserError(f'--span={span:g}: the factor from N* to the largest size; above 1, 3 say')
    if sizes < approaches.FEWEST_SIZES:
        raise UserError(f'--sizes={sizes}: an isoFLOP curve takes at least {approaches.FEWEST_SIZES}')
    if len(budgets) < 2 and not rules.past:
        raise UserError('--isoflop: one budget is one minimum and no line; give two or more, or --runs with the others')
    for one, other in itertools.pairwise(budgets):
        if other / one <= 1 + approaches.SAME_BUDGET:
            raise UserError(
                f'--isoflop: {one:g} and {other:g} are one budget to a fit; give them more than '
                f'{100 * approaches.SAME_BUDGET:g}% apart'
            )


def _budget(
    budget: float, source: centres.Source, curves: list[approaches.Minimum], *, sizes: int, span: float,
    frame: shapes.Frame, rules: Rules, common: int | None,
) -> dict[str, Any]:  # fmt: skip
    """One budget's centre, the trials that it has and those that it still wants."""
    there = _there(budget, rules.past)
    curve = next((one for one in curves if there & {*one.used, *one.others}), None)
    inside = curve is not None and not curve.note
    params = curve.params if curve and inside else float(source.split.at(budget)[0])
    batch = rules.batch_of(budget, frame.context)
    kept = [trials.kept(rules.past, i, budget, batch, common, frame) for i in sorted(there)] if rules.past else []
    kept.sort(key=lambda row: row['params'])
    if not kept:
        wanted, note = _around(params, budget, sizes, span, frame)
    elif curve is None:
        wanted, note = _filled(params, kept, sizes, span, frame)
    else:
        wanted, note = _at_the_edge(curve, kept, frame)
    found = {(row['layers'], row['width']) for row in kept}
    wanted = [shape for shape in wanted if (shape.layers, shape.width) not in found]
    new = trials.new(wanted, budget, common, frame, rules)
    return {
        'flops': budget,
        'params': params,
        'tokens': curve.tokens if curve and inside else float(source.split.at(budget)[1]),
        'source': 'its own minimum' if inside else source.words,
        'note': note,
        'trials': sorted([*kept, *new], key=lambda row: row['params']),
    }


def _there(budget: float, given: Past | None) -> set[int]:
    """The runs (indices) of this budget.

    Raises:
      UserError: their budget is near this one, and is another.
    """
    if given is None:
        return set()
    labels = approaches.budget(given.runs)
    near = np.abs(np.log(labels / budget)) <= np.log1p(approaches.SAME_BUDGET)
    if near.any():
        theirs = float(np.exp(np.log(labels[near]).mean()))
        if abs(math.log(theirs / budget)) > EXACT:
            raise UserError(
                f'--isoflop={budget:g}: {given.file} has runs of {theirs:.4g} FLOPs; give that budget, or one more '
                f'than {100 * approaches.SAME_BUDGET:g}% away'
            )
    return {int(i) for i in np.flatnonzero(near)}


def _around(params: float, budget: float, sizes: int, span: float, frame: shapes.Frame) -> tuple[list[Shape], str]:
    found = shapes.spread(params, span, sizes, frame)
    if len(found) < approaches.FEWEST_SIZES:
        raise UserError(
            f'--isoflop={budget:g}: {len(found)} shapes of whole layers from {params / span:.3g} to '
            f'{params * span:.3g} parameters ({frame.counted}); a smaller --head-dim or --vocab, or a wider --span'
        )
    return found, f'only {len(found)} shapes of whole layers' if len(found) < sizes else ''


def _filled(
    params: float, kept: list[dict[str, Any]], sizes: int, span: float, frame: shapes.Frame
) -> tuple[list[Shape], str]:
    """A budget with too few sizes for a curve gets those of a new one that it has nothing near to."""
    half = math.log(span) / (sizes - 1)
    far = [
        shape
        for shape in shapes.spread(params, span, sizes, frame)
        if all(abs(math.log(shapes.size(shape, frame) / row['params'])) > half for row in kept)
    ]
    return far, f'{len(kept)} runs are too few for a curve: {len(far)} sizes added'


def _at_the_edge(curve: approaches.Minimum, kept: list[dict[str, Any]], frame: shapes.Frame) -> tuple[list[Shape], str]:
    """Nothing where the minimum is inside; else sizes beyond the edge it is on, spaced as the others are."""
    lowest = min(kept, key=lambda row: row['loss'])['params']
    edges = kept[0]['params'], kept[-1]['params']
    if not curve.note or lowest not in edges:
        return [], curve.note
    ratio = (edges[1] / edges[0]) ** (1 / max(1, len({row['params'] for row in kept}) - 1))
    found = shapes.beyond(lowest, ratio if lowest == edges[1] else 1 / ratio, BEYOND, frame)
    which = 'larger' if lowest == edges[1] else 'smaller'
    done = f'{len(found)} {which} added' if found else f'there is no {which} shape; a smaller --head-dim has some'
    return found, f'{curve.note}: {done}'


def _unique(rows: list[dict[str, Any]]) -> None:
    names = [row['name'] for row in rows]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f'{name}: two trials of this name; rename the run that has it')


def _sum(rows: list[dict[str, Any]], devices: float, price: float | None) -> dict[str, Any]:
    hours = sum(row['hours'] for row in rows)
    return {
        'trials': len(rows),
        'flops': sum(row['flops'] for row in rows),
        'hours': hours,
        'cost': hours * devices * price if price else None,
    }


def _notes(budgets: list[float], sizes: int, span: float, rules: Rules) -> list[str]:
    notes = []
    if span ** (1 - 1 / (sizes - 1)) < WRONG:
        notes.append(f'--span={span:g}: with {sizes} sizes a N* off by {WRONG:g} puts the minimum on the edge')
    if rules.past:
        labels = approaches.budget(rules.past.runs)
        apart = np.abs(np.log(labels[:, None] / np.array(budgets))).min(1)
        others = int((apart > np.log1p(approaches.SAME_BUDGET)).sum())
        if others:
            notes.append(f'{others} runs of other budgets move the centres and are not in the config')
    return notes
