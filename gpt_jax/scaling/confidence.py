"""How sure are a law's constants? The bootstrap over runs and seeds.

The runs are drawn anew and fitted again; where configurations were run with several seeds the configurations are drawn,
and the seeds within each. Whether the runs identify a constant at all is profiles.py's question.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from gpt_jax.scaling import forms, surface
from gpt_jax.scaling.runs import Runs

LEVEL = 0.95


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
