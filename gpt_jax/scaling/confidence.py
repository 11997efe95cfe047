"""How sure are a law's constants? The bootstrap over runs and seeds, and the profile of the objective.

The bootstrap draws the runs anew and fits again; where configurations were run with several seeds it draws the
configurations, and the seeds within each. The profile holds one constant at a value, fits the others, and asks how much
worse the best fit becomes: a constant that can go anywhere at no cost is not identified, whatever its bootstrap says.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from scipy import optimize

from gpt_jax.scaling import forms, surface
from gpt_jax.scaling.runs import Runs

LEVEL = 0.95
FLAT = 1.005  # a profile that stays below this multiple of the optimum over a factor of WIDE identifies nothing
WIDE = 2.0


@dataclasses.dataclass(frozen=True)
class Interval:
    """A central interval, and what it was made of."""

    low: float
    high: float
    level: float
    resampled: str
    draws: int


def seed_noise(runs: Runs) -> tuple[float, int]:
    """(the standard deviation of log loss between runs that differ in nothing but the seed, its degrees of freedom).

    NaN and 0 where no configuration was run twice.
    """
    groups: dict[tuple[float, ...], list[float]] = {}
    unique = runs.more.get('unique_tokens', np.full(len(runs), math.nan))
    for n, d, u, loss in zip(runs.params, runs.tokens, unique, runs.loss, strict=True):
        groups.setdefault((n, d, -1.0 if math.isnan(u) else u), []).append(math.log(loss))
    repeated = [np.array(group) for group in groups.values() if len(group) > 1]
    freedom = sum(len(group) - 1 for group in repeated)
    if not freedom:
        return math.nan, 0
    return math.sqrt(sum(float(((group - group.mean()) ** 2).sum()) for group in repeated) / freedom), freedom


def counts(runs: Runs, draws: int, seed: int) -> tuple[np.ndarray, str]:
    """(how often each run is in each resample [draws, runs], what was resampled in words)."""
    random = np.random.default_rng(seed)
    unique = runs.more.get('unique_tokens', np.zeros(len(runs)))
    keys = np.stack([runs.params, runs.tokens, np.nan_to_num(unique)], axis=1)
    _, group = np.unique(keys, axis=0, return_inverse=True)
    group = group.reshape(-1)
    members = [np.flatnonzero(group == g) for g in range(group.max() + 1)]
    made = np.zeros((draws, len(runs)))
    repeated = any(len(one) > 1 for one in members)
    for draw in made:
        for g in random.integers(len(members), size=len(members)):
            np.add.at(draw, random.choice(members[g], size=len(members[g])), 1)
    words = 'configurations, and the seeds within each, with replacement' if repeated else 'runs, with replacement'
    return made, words


def bootstrap(
    found: surface.Surface, given: forms.Data, resamples: np.ndarray, *, held: bool = False
) -> list[dict[str, float]]:
    """The constants refitted to each resample, from the optimum of all runs; each search is begun again once.

    Resamples of too few distinct runs to carry the law are left out.

    Args:
      held: of 'repeated', whether its base law was given and not fitted.
    """
    law = surface.joint() if found.law == 'repeated' and not held else surface.rule_of(found.law, found.constants)
    theta = law.pack(found.constants)
    made = []
    for weights in resamples:
        if np.count_nonzero(weights) <= len(theta):
            continue
        once = surface.search(theta, law, given, weights, found.delta, tolerance=1e-9)
        made.append(law.unpack(surface.search(once.x, law, given, weights, found.delta, tolerance=1e-9).x))
    return made


def interval(values: Any, resampled: str) -> Interval:
    """The central interval of the draws of one number."""
    values = np.asarray(values, float)
    low, high = np.quantile(values[np.isfinite(values)], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high), LEVEL, resampled, len(values))


def profile(found: surface.Surface, given: forms.Data, name: str, *, points: int = 13) -> dict[str, Any]:
    """The objective along one constant, the others fitted; 'identified' False where it is flat or has several humps.

    Returns:
      'values', 'objective' (both [points]), 'identified' and 'note'.
    """
    law = surface.rule_of(found.law, found.constants)
    best = found.constants[name]
    values = best * np.geomspace(1 / WIDE, WIDE, points)
    weights = np.ones(len(given.n))
    theta = law.pack(found.constants)
    objectives = np.full(points, math.nan)
    for order in (range(points // 2, points), range(points // 2, -1, -1)):
        start = theta
        for index in order:
            start, value = _held_at(law, given, weights, found, name, float(values[index]), start)
            objectives[index] = value
    lowest = float(np.nanmin(objectives))
    flat = bool((objectives <= FLAT * lowest).mean() > 0.5)
    inner = objectives[1:-1]
    humps = int(((inner > objectives[:-2] * FLAT) & (inner > objectives[2:] * FLAT)).sum())
    note = ''
    if flat:
        note = f'not identified: {name} can change by a factor and the fit stays within {100 * (FLAT - 1):.1g}%'
    elif humps:
        note = f'not identified: the profile of {name} has {humps + 1} minima'
    return {'values': values.tolist(), 'objective': objectives.tolist(), 'identified': not note, 'note': note}


def _held_at(
    law: forms.Law, given: forms.Data, weights: np.ndarray, found: surface.Surface, name: str, value: float,
    start: np.ndarray,
) -> tuple[np.ndarray, float]:  # fmt: skip
    """(theta, unscaled objective) of the best fit with one constant held."""
    index = list(found.constants).index(name) - (len(found.constants) - len(start))
    logs = law.pack(found.constants | {name: value})[index]
    others = [i for i in range(len(start)) if i != index]

    def at(free: np.ndarray) -> tuple[float, np.ndarray]:
        theta = start.copy()
        theta[others], theta[index] = free, logs
        total, gradient = surface.objective(theta, law, given, weights, found.delta)
        return total, gradient[others]

    bounds = [law.bounds[i] for i in others]
    begin = start[others]
    for _ in range(3):
        result = optimize.minimize(at, begin, jac=True, method='L-BFGS-B', bounds=bounds, options={'maxiter': 2000})
        begin = result.x
    theta = start.copy()
    theta[others], theta[index] = result.x, logs
    return theta, float(result.fun / surface.SCALE)
