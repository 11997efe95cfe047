"""Which size is best at a budget, read off the runs themselves? Hoffmann et al. 2022's approaches 1 and 2.

1, the envelope: at each compute, the run that nothing cheaper beats; a line through log N over log C of these.
2, isoFLOP curves: the runs of one budget, loss over log N, and the minimum of each curve; a line through the minima.

A curve is not symmetric: the loss rises as a power of N on one side and of D on the other, so a parabola through a wide
range puts its minimum elsewhere, and not by the same shift at each budget. Here the minimum is that of a parabola
through the few points around the lowest, and, beside it, of an Akima interpolation. A minimum on the edge of a sweep is
no minimum; it is said, and does not count in the line.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from scipy import interpolate

from gpt_jax.errors import UserError
from gpt_jax.scaling import optimal
from gpt_jax.scaling.confidence import seed_noise
from gpt_jax.scaling.runs import Runs

SAME_BUDGET = 0.1  # runs whose FLOPs differ by less than this factor less one are of one budget, if none is given
FEWEST_SIZES = 4  # of an isoFLOP curve: three carry a parabola, and nothing then says how well
WINDOW = np.log(6.0)  # points within this factor of the lowest one's size make the parabola
DRAWS = 1000  # of the loss noise, per curve (Porian et al. 2024)
BINS_PER_DECADE = 8  # of compute, for the envelope


@dataclasses.dataclass(frozen=True)
class Minimum:
    """The lowest point of one isoFLOP curve.

    Attributes:
      flops: the budget. params, tokens, loss: at the minimum.
      akima_params: the same of the Akima interpolation. spread: standard deviation of log params over the noise draws.
      used: the runs (indices) in the window; others: the budget's runs outside it.
      note: why it does not count, or ''.
      curve: (b0, b1, b2) of log loss = b0 + b1 x + b2 x^2, x = log N less `centre`: the parabola of the window.
    """

    flops: float
    params: float
    tokens: float
    loss: float
    akima_params: float
    spread: float
    used: list[int]
    others: list[int]
    note: str
    curve: tuple[float, float, float]
    centre: float


def budgets(runs: Runs) -> list[tuple[float, np.ndarray]]:
    """(FLOPs, indices of the runs) of each budget with enough sizes: by the column budget, or by equal FLOPs."""
    labels = np.log(budget(runs))
    order = np.argsort(labels, kind='stable')
    groups: list[list[int]] = []
    for index in order:
        if groups and labels[index] - labels[groups[-1][0]] <= np.log1p(SAME_BUDGET):
            groups[-1].append(int(index))
        else:
            groups.append([int(index)])
    found = [(float(np.exp(np.mean(np.log(runs.flops[group])))), np.array(group)) for group in groups]
    return [(flops, group) for flops, group in found if np.unique(runs.params[group]).size >= FEWEST_SIZES]


def budget(runs: Runs) -> np.ndarray:
    """The FLOPs that each run was planned for, [runs]: the column budget, or what it took.

    What the runs of one budget took must be one number, to SAME_BUDGET: another count of parameters or FLOPs than the
    budgets were planned in makes them no isoFLOP curves, and the column says nothing.
    """
    given = runs.more.get('budget')
    if given is None or np.isnan(given).any():
        return runs.flops
    spread = [np.ptp(np.log(runs.flops[group])) for group in _equal(given)]
    return given if max(spread) <= np.log1p(SAME_BUDGET) else runs.flops


def _equal(given: np.ndarray) -> list[np.ndarray]:
    """The runs of each budget, equal but for rounding, by budget."""
    labels = np.round(np.log(given), 6)
    return [np.flatnonzero(labels == one) for one in np.unique(labels)]


def minima(runs: Runs, *, seed: int = 0, least: int = 2) -> list[Minimum]:
    """The minimum of every isoFLOP curve.

    Raises:
      UserError: fewer than `least` budgets with enough sizes.
    """
    found = budgets(runs)
    if len(found) < least:
        raise UserError(
            f'approach 2: {len(found)} budgets with {FEWEST_SIZES} sizes or more; it takes at least two. A column '
            f'budget says which runs belong together; without it, or where the count makes their FLOPs differ by more '
            f'than {100 * SAME_BUDGET:g}%, FLOPs within that do'
        )
    curves = [_curve(runs, group) for _, group in found]
    noise, freedom = seed_noise(runs)
    if not freedom:
        noise = _scatter(curves)
    random = np.random.default_rng(seed)
    return [
        _minimum(runs, flops, group, curve, noise, random) for (flops, group), curve in zip(found, curves, strict=True)
    ]


class _Curve(NamedTuple):
    """One budget's log loss y over log size x (ascending), and the parabola through the window around the lowest."""

    x: np.ndarray
    y: np.ndarray
    lowest: int
    window: np.ndarray
    parabola: np.ndarray


def _curve(runs: Runs, group: np.ndarray) -> _Curve:
    sizes = np.unique(runs.params[group])
    x = np.log(sizes)
    y = np.array([np.log(runs.loss[group][runs.params[group] == size]).mean() for size in sizes])
    lowest = int(np.argmin(y))
    window = _window(x, lowest)
    return _Curve(x, y, lowest, window, np.polyfit(x[window] - x[lowest], y[window], 2))


def _scatter(curves: list[_Curve]) -> float:
    """The standard deviation of the points about their parabolas, of all curves together."""
    left = [c.y[c.window] - np.polyval(c.parabola, c.x[c.window] - c.x[c.lowest]) for c in curves]
    freedom = sum(max(0, len(one) - 3) for one in left)
    return float(np.sqrt(sum((one**2).sum() for one in left) / max(1, freedom)))


def _minimum(
    runs: Runs, flops: float, group: np.ndarray, curve: _Curve, noise: float, random: np.random.Generator
) -> Minimum:
    x, y, lowest, window, parabola = curve
    z = x[window] - x[lowest]
    where = _vertex(parabola, z) + x[lowest]
    drawn = [_vertex(np.polyfit(z, y[window] + noise * random.standard_normal(z.size), 2), z) for _ in range(DRAWS)]
    note = ''
    if lowest in (0, len(x) - 1):
        note = f'the {"smallest" if lowest == 0 else "largest"} size is the best: the minimum is not inside the sweep'
    elif parabola[0] <= 0:
        note = 'the curve has no minimum: it bends downward'
    sizes = np.unique(runs.params[group])
    inside = np.isin(runs.params[group], sizes[window])
    per_token = float(np.exp(np.interp(where, x, _log_cost(runs, group, sizes))))
    return Minimum(
        flops=flops,
        params=float(np.exp(where)),
        tokens=flops / per_token,
        loss=float(np.exp(np.polyval(parabola, where - x[lowest]))),
        akima_params=float(np.exp(_akima(x, y))),
        spread=max(float(np.std(drawn)), 1e-6),
        used=[int(i) for i in group[inside]],
        others=[int(i) for i in group[~inside]],
        note=note,
        curve=(float(parabola[2]), float(parabola[1]), float(parabola[0])),
        centre=float(x[lowest]),
    )


def _log_cost(runs: Runs, group: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """log of the FLOPs per token of each size."""
    per_token = np.log(runs.flops[group] / runs.tokens[group])
    return np.array([per_token[runs.params[group] == size].mean() for size in sizes])


def _window(x: np.ndarray, lowest: int) -> np.ndarray:
    """The points around the lowest: at least two on each side where there are, all within WINDOW of it."""
    near = np.abs(x - x[lowest]) <= WINDOW / 2
    near[max(0, lowest - 1) : lowest + 2] = True
    if near.sum() < FEWEST_SIZES:
        near[np.argsort(np.abs(x - x[lowest]), kind='stable')[:FEWEST_SIZES]] = True
    return near


def _vertex(curve: np.ndarray, x: np.ndarray) -> float:
    """Where the parabola is lowest within the range of x."""
    if curve[0] <= 0:
        return float(x[np.argmin(np.polyval(curve, x))])
    return float(np.clip(-curve[1] / (2 * curve[0]), x.min(), x.max()))


def _akima(x: np.ndarray, y: np.ndarray) -> float:
    grid = np.linspace(x.min(), x.max(), 4001)
    return float(grid[np.argmin(interpolate.Akima1DInterpolator(x, y)(grid))])


def isoflop(found: list[Minimum], cost: optimal.Cost, *, akima: bool = False) -> optimal.Split:
    """The line through the minima that count, each by the inverse variance of its draws.

    Raises:
      UserError: fewer than two of them count.
    """
    good = [one for one in found if not one.note]
    if len(good) < 2:
        raise UserError(
            f'approach 2: {len(good)} of {len(found)} curves have their minimum inside the sweep; '
            + '; '.join(f'{one.flops:.3g} FLOPs: {one.note}' for one in found if one.note)
        )
    spread = np.array([one.spread for one in good])
    weights = 1 / (spread**2 + np.median(spread) ** 2)  # no single curve decides alone
    params = [one.akima_params if akima else one.params for one in good]
    return optimal.from_line(np.log([one.flops for one in good]), np.log(params), weights, cost)


def envelope(runs: Runs) -> np.ndarray:
    """Indices of the runs on the envelope: in each bin of compute the lowest, if nothing cheaper beats it."""
    best = [int(members[np.argmin(runs.loss[members])]) for members in _bins(runs)]
    kept: list[int] = []
    for index in sorted(best, key=lambda i: runs.flops[i]):
        if not kept or runs.loss[index] < runs.loss[kept[-1]]:
            kept.append(index)
    return np.array(kept, int)


def _bins(runs: Runs) -> list[np.ndarray]:
    """The runs by compute: those of one budget where the column says so, else bins that begin at a run.

    Bins with edges of their own would cut through the runs of a budget and take a beaten one from either side.
    """
    given = runs.more.get('budget')
    if given is not None and not np.isnan(given).any():
        return _equal(given)
    made: list[list[int]] = []
    for index in np.argsort(runs.flops, kind='stable'):
        if made and runs.flops[index] < runs.flops[made[-1][0]] * 10 ** (1 / BINS_PER_DECADE):
            made[-1].append(int(index))
        else:
            made.append([int(index)])
    return [np.array(one) for one in made]


def frontier(runs: Runs, cost: optimal.Cost) -> optimal.Split:
    """The line through the envelope.

    Raises:
      UserError: fewer than three runs on it.
    """
    kept = envelope(runs)
    if len(kept) < 3:
        raise UserError(f'approach 1: {len(kept)} runs on the envelope; it takes at least three bins of compute')
    return optimal.from_line(np.log(runs.flops[kept]), np.log(runs.params[kept]), np.ones(len(kept)), cost)
