"""Bootstrap intervals over runs and seeds, for the constants of a law and other statistics.

The constants of a law over N and D are refitted to weighted runs: configurations are drawn, and
the seeds within each (`draw_resamples`). A statistic of points (x, loss) is recomputed on drawn
points (`bootstrap_statistic`), which must have enough distinct x. The two are separate functions
because they draw random numbers differently. Whether the runs identify a constant at all is decided
in profiles.py.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import law_forms, parametric_fit, power_law
from gpt_jax.scaling.runs import MIN_NOISE_FREEDOM, Runs

CONFIDENCE_LEVEL = 0.95
DRAWS, MIN_DRAWS = 1000, 200  # by default, and with very many runs
DRAWN_RUNS = 2_000_000  # of all draws together
MIN_RUNS = 5  # with fewer, a resample is mostly repeats of two or three runs
RESAMPLED_WORDS = 'runs, with replacement; a resample of fewer than {} sizes is drawn again'


@dataclasses.dataclass(frozen=True)
class Interval:
    """A central interval.

    Attributes:
      low, high: its ends.
      level: the share of the draws inside.
      resampled: the units that were resampled, in words.
      draws: number of draws.
    """

    low: float
    high: float
    level: float
    resampled: str
    draws: int


def estimate_seed_noise(runs: Runs) -> tuple[float, int]:
    """Return the standard deviation of log loss between seeds, and its degrees of freedom.

    It is pooled over the configurations (clusters) with several finished runs; NaN and 0 if these
    have fewer than MIN_NOISE_FREEDOM degrees of freedom, from which no level can be told.
    """
    groups: dict[tuple[float, float], list[float]] = {}
    for cluster, tokens, loss in zip(runs.clusters, runs.tokens, runs.loss, strict=True):
        groups.setdefault((cluster, tokens), []).append(math.log(loss))
    longest: dict[float, float] = {}
    for cluster, tokens in groups:
        longest[cluster] = max(tokens, longest.get(cluster, 0.0))
    repeated = [np.array(groups[key]) for key in longest.items() if len(groups[key]) > 1]
    freedom = sum(len(group) - 1 for group in repeated)
    if freedom < MIN_NOISE_FREEDOM:
        return math.nan, 0
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in repeated)
    return math.sqrt(squares / freedom), freedom


def choose_draws(runs: int) -> int:
    """Return the default number of resamples: fewer for many runs, whose draws take long."""
    return min(DRAWS, max(MIN_DRAWS, DRAWN_RUNS // runs))


def draw_resamples(runs: Runs, draws: int, seed: int) -> tuple[np.ndarray, str]:
    """Draw resamples of clusters, and of the seeds within each.

    The checkpoints of a run are drawn together.

    Args:
      runs: the runs.
      draws: number of resamples.
      seed: seed of the random numbers.

    Returns:
      How often each run occurs in each resample, [draws, runs]; and the units resampled, in words.
    """
    random = np.random.default_rng(seed)
    order = np.argsort(runs.clusters, kind='stable')
    members = np.split(order, np.flatnonzero(np.diff(runs.clusters[order])) + 1)
    are_checkpoints = [np.unique(runs.tokens[indices]).size > 1 for indices in members]
    first, sizes = np.array([(indices[0], len(indices)) for indices in members]).T
    weights = np.zeros((draws, len(runs)))
    for weights_of_draw in weights:
        drawn = random.integers(len(members), size=len(members))
        single = sizes[drawn] == 1
        chosen = [first[drawn[single]]]
        for g in drawn[~single]:
            indices = members[g]
            chosen.append(indices if are_checkpoints[g] else random.choice(indices, len(indices)))
        weights_of_draw += np.bincount(np.concatenate(chosen), minlength=len(runs))
    if any(are_checkpoints):
        return weights, 'whole runs with their checkpoints, with replacement'
    if len(members) < len(runs):
        return weights, 'configurations, and the seeds within each, with replacement'
    return weights, 'runs, with replacement'


def draw_indices(random: np.random.Generator, labels: np.ndarray, least: int) -> np.ndarray:
    """Draw indices with replacement until `least` distinct labels are among them, [runs]."""
    while True:
        indices = random.integers(len(labels), size=len(labels))
        if np.unique(labels[indices]).size >= least:
            return indices


def refit_resamples(
    law: parametric_fit.ParametricLaw,
    data: law_forms.LogData,
    resamples: np.ndarray,
    *,
    fixed_base: bool = False,
) -> list[dict[str, float]]:
    """Refit the constants to each resample, from the optimum of all runs.

    Resamples with too few distinct runs for the law are left out.

    Args:
      law: the law fitted to all runs.
      data: the runs, in logarithms.
      resamples: weights of the runs, [draws, runs].
      fixed_base: for 'repeated', whether the base law was given instead of fitted.
    """
    form = (
        parametric_fit.free_repeated_form()
        if law.law == 'repeated' and not fixed_base
        else parametric_fit.get_law_form(law.law, law.constants)
    )
    start, refits = form.pack(law.constants), []
    form, data = parametric_fit.with_residual(form, data, law.residual)
    for weights in resamples:
        drawn = weights > 0
        if np.count_nonzero(drawn) > len(start):
            search, part = parametric_fit.find_search(law.law, fixed_base), data.take(drawn)
            theta, _ = search(start, form, part, law.delta, weights[drawn])
            refits.append(form.unpack(theta))
    return refits


def bootstrap_statistic(
    x: Any,
    loss: Any,
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray],
    *,
    draws: int,
    seed: int,
    sizes: int,
) -> np.ndarray:
    """Compute the values of `statistic` on resampled runs.

    Args:
      x: the scaled variable, [runs].
      loss: the loss, [runs].
      statistic: (x, loss) of the resampled runs, sorted by run -> vector [outputs].
      draws: number of resamples.
      seed: seed of the random numbers.
      sizes: the minimum number of distinct x that the statistic needs.

    Returns:
      [draws, outputs].

    Raises:
      UserError: the runs have fewer than `sizes` distinct x, so that no resample would have enough.
    """
    x, loss = power_law.check_points(x, loss)
    if np.unique(x).size < sizes:
        raise UserError(f'bootstrap: needs at least {sizes} sizes, got {np.unique(x).size}')
    random = np.random.default_rng(seed)
    # Few runs have few distinct resamples (126 for 5 runs), so most draws repeat an earlier one.
    computed: dict[tuple[int, ...], np.ndarray] = {}
    values: list[np.ndarray] = []
    for _ in range(draws):
        indices = np.sort(draw_indices(random, x, sizes))
        key = tuple(indices.tolist())
        if key not in computed:
            computed[key] = np.atleast_1d(statistic(x[indices], loss[indices]))
        values.append(computed[key])
    return np.array(values)


def compute_interval(values: Any, resampled: str) -> Interval:
    """Compute the central interval of the draws of one number, without the non-finite ones."""
    values = np.asarray(values, float)
    low_end = (1 - CONFIDENCE_LEVEL) / 2
    ends = [low_end, (1 + CONFIDENCE_LEVEL) / 2]
    low, high = np.quantile(values[np.isfinite(values)], ends)
    return Interval(float(low), float(high), CONFIDENCE_LEVEL, resampled, len(values))


def summarize_draws(values: np.ndarray, *, runs: int, seed: int, sizes: int) -> dict[str, Any]:
    """Return the interval of one output of `bootstrap_statistic`, [draws], for JSON.

    Args:
      values: the draws.
      runs: number of runs.
      seed: seed of the random numbers.
      sizes: as in `bootstrap_statistic`.
    """
    few = f'{runs} runs are too few to rely on this interval'
    interval = compute_interval(values, RESAMPLED_WORDS.format(sizes))
    note = '' if runs >= MIN_RUNS else few
    return dataclasses.asdict(interval) | {'runs': runs, 'seed': seed, 'note': note}
