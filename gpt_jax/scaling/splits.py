"""How is compute best split, by each approach, and do they agree? Exponents, coefficients, N*, their intervals."""

import dataclasses
import itertools
import math
from typing import Any

import numpy as np

from gpt_jax.errors import UserError
from gpt_jax.scaling import approaches, confidence, optimal, slices, surface
from gpt_jax.scaling.runs import Runs

SAME_SIZE = 0.02  # relative: N* this close are one, however narrow their intervals


def side_by_side(
    runs: Runs, found: surface.Surface, drawn: list[dict[str, float]], words: str, at_flops: tuple[float, ...],
    which: tuple[str, ...], seed: int,
) -> tuple[dict[str, Any], list[str]]:  # fmt: skip
    """The compute-optimal split by each approach, with intervals; and where they disagree beyond these."""
    cost = optimal.cost(runs)
    made: dict[str, Any] = {}
    resamples, _ = confidence.counts(runs, 200, seed)
    for number in which:
        try:
            made[number] = _approach(number, runs, found, drawn, words, at_flops, cost, resamples, seed)
        except UserError as error:
            made[number] = {'note': str(error)}
    return made, _disagreements(made)


def _approach(
    number: str, runs: Runs, found: surface.Surface, drawn: list[dict[str, float]], words: str,
    at_flops: tuple[float, ...], cost: optimal.Cost, resamples: np.ndarray, seed: int,
) -> dict[str, Any]:  # fmt: skip
    extra: dict[str, Any] = {}
    if number == '3':
        split = optimal.split(found.constants, cost)
        splits = [optimal.split(one, cost) for one in drawn]
    elif number == '2':
        sliced, between = slices.isoflop(runs)
        found_minima = approaches.minima(sliced, seed=seed)
        split = approaches.isoflop(found_minima, cost)
        other = approaches.isoflop(found_minima, cost, akima=True)
        splits = _redrawn_minima(found_minima, cost, seed)
        words = 'the minima, by the spread of their noise draws'
        words += '; the curves are read between runs' if between else ''
        extra = {
            'minima': [dataclasses.asdict(one) for one in found_minima],
            'points': {'params': sliced.params.tolist(), 'loss': sliced.loss.tolist(), 'between_runs': between},
            'akima': {'a': other.a, 'b': other.b, 'at': _at(other, found, at_flops)},
        }
    else:
        split = approaches.frontier(runs, cost)
        splits = []
        for weights in resamples:
            some = runs.take(np.repeat(np.arange(len(runs)), weights.astype(int)))
            try:
                splits.append(approaches.frontier(some, cost))
            except UserError:
                continue
        extra = {'envelope': [int(i) for i in approaches.envelope(runs)]}
    return {
        'a': split.a,
        'b': split.b,
        'n_coefficient': split.n_coefficient,
        'd_coefficient': split.d_coefficient,
        'cost': cost._asdict(),
        'a_interval': dataclasses.asdict(confidence.interval([one.a for one in splits], words)) if splits else None,
        'at': _at(split, found, at_flops, splits),
        'band': _band(runs, splits),
        'note': '',
        **extra,
    }


def _band(runs: Runs, splits: list[optimal.Split]) -> dict[str, list[float]] | None:
    """The interval of N* along compute, up to ten times the largest of the runs."""
    if not splits:
        return None
    grid = np.geomspace(runs.flops.min(), runs.flops.max() * 10, 40)
    low, high = np.quantile([one.at(grid)[0] for one in splits], [0.025, 0.975], axis=0)
    return {'flops': grid.tolist(), 'params_low': low.tolist(), 'params_high': high.tolist()}


def _redrawn_minima(found: list[approaches.Minimum], cost: optimal.Cost, seed: int) -> list[optimal.Split]:
    random = np.random.default_rng(seed)
    made = []
    for _ in range(400):
        moved = [
            dataclasses.replace(one, params=one.params * math.exp(one.spread * random.standard_normal()))
            for one in found
        ]
        made.append(approaches.isoflop(moved, cost))
    return made


def _at(
    split: optimal.Split, found: surface.Surface, budgets: tuple[float, ...], splits: list[optimal.Split] | None = None
) -> list[dict[str, Any]]:
    made = []
    for flops in budgets:
        one: dict[str, Any] = optimal.point(split, found, flops)
        if splits:
            low, high = np.quantile([float(each.at(flops)[0]) for each in splits], [0.025, 0.975])
            one |= {'params_low': float(low), 'params_high': float(high)}
        made.append(one)
    return made


def _disagreements(made: dict[str, Any]) -> list[str]:
    """One line for each pair of approaches and each number whose intervals do not meet: a, N* and D* of a budget."""
    said = []
    known = {number: one for number, one in made.items() if one.get('a_interval')}
    for first, second in itertools.combinations(sorted(known), 2):
        one, other = known[first], known[second]
        pair = f'approaches {first} and {second} disagree on'
        if _apart(one['a_interval'], other['a_interval'], 'low', 'high'):
            said.append(f'{pair} the exponent a beyond their intervals: {one["a"]:.3f} and {other["a"]:.3f}')
        for at, there in zip(one['at'], other['at'], strict=True):
            far = abs(math.log(at['params'] / there['params'])) > SAME_SIZE
            if far and 'params_low' in at and 'params_low' in there and _apart(at, there, 'params_low', 'params_high'):
                # At one budget D* = C / (k N^p): its intervals are apart where those of N* are.
                said.append(
                    f'{pair} N* and D* at {at["flops"]:.3g} FLOPs beyond their intervals: N* {at["params"]:.3g} and '
                    f'{there["params"]:.3g}, D* {at["tokens"]:.3g} and {there["tokens"]:.3g}'
                )
    return said


def _apart(one: dict[str, Any], other: dict[str, Any], low: str, high: str) -> bool:
    return bool(one[high] < other[low] or other[high] < one[low])
