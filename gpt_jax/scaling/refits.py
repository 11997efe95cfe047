"""Joint uncertainty of a law's constants: refits to resampled or to redrawn losses.

With `MANY` clusters of runs or more, whole clusters are resampled with replacement, which assumes
nothing about the noise. With fewer, a resample lacks what determines the law, so the losses are
redrawn instead: the fitted law plus normal noise. Its variance is that of the residuals, divided by
their degrees of freedom, and it is itself uncertain, so each draw has another (from the scaled
inverse chi-square distribution, which gives intervals the width of Student's t). Without degrees of
freedom there is no interval.

Runs that differ in their seed alone are independent, and the noise is theirs, unless the noise
rejects the law (`lack_of_fit.py`): then it is that of the clusters' means about the law, which all
runs of a cluster share.
"""

from typing import NamedTuple

import numpy as np

from gpt_jax.scaling import bootstrap, lack_of_fit, parametric_fit
from gpt_jax.scaling.law_forms import LawForm, LogData
from gpt_jax.scaling.parametric_fit import ParametricLaw, Search
from gpt_jax.scaling.runs import Runs

MANY = 30  # clusters
MIN_CHECKPOINTED = 10  # runs with several rows each


class Refits(NamedTuple):
    """Draws of the constants of a law.

    Attributes:
      constants: of each draw; empty if there is no interval.
      noise: log of a new run's loss over the law, one per draw, [draws].
      words: what was drawn, in words; or why there is no interval.
      failed: number of draws that could not be refitted.
    """

    constants: list[dict[str, float]]
    noise: np.ndarray
    words: str
    failed: int


def draw_refits(
    runs: Runs, law: ParametricLaw, draws: int, seed: int, *, fixed_base: bool = False
) -> Refits:
    """Draw the constants of a fitted law.

    Args:
      runs: the runs that the law was fitted to.
      law: the law.
      draws: number of draws.
      seed: seed of the random numbers.
      fixed_base: for 'repeated', whether the base law was given instead of fitted.
    """
    data = parametric_fit.to_log_data(runs)
    form = get_refit_form(law, fixed_base=fixed_base)
    residual = data.log_loss - form.predict(form.pack(law.constants), data)[0]
    constants = len(form.pack(law.constants))
    clusters = int(np.unique(runs.clusters).size)
    if not draws:
        return Refits([], np.zeros(0), 'no intervals: --draws=0', 0)
    if clusters <= constants:
        words = (
            f'no interval: {constants} constants take all degrees of freedom of {clusters} '
            f'configurations; give at least {constants + 1}'
        )
        return Refits([], np.zeros(0), words, 0)
    if clusters < MIN_CHECKPOINTED and runs.get_checkpoint_clusters() is not None:
        words = (
            f'no interval: {clusters} runs with several rows each are too few to tell the noise of '
            f'a run from the shape of its curve; give at least {MIN_CHECKPOINTED}'
        )
        return Refits([], np.zeros(0), words, 0)
    random = np.random.default_rng(seed)
    if clusters >= MANY:
        resamples, words = bootstrap.draw_resamples(runs, draws, seed)
        noise = random.choice(residual, size=draws) * (clusters / (clusters - constants)) ** 0.5
        drawn = bootstrap.refit_resamples(law, data, resamples, fixed_base=fixed_base)
        return Refits(drawn, noise, words, draws - len(drawn))
    scale, freedom, is_shared = _estimate_noise(runs, residual, constants)
    scales = scale * np.sqrt(freedom / random.chisquare(freedom, draws))
    labels = np.unique(runs.clusters, return_inverse=True)[1]
    units = labels if is_shared else np.arange(len(runs))
    shifts = scales[:, None] * random.standard_normal((draws, units.max() + 1))
    losses = data.log_loss - residual + shifts[:, units]
    search = parametric_fit.find_search(law.law, fixed_base)
    drawn = _refit_losses(law, form, data, losses, search)
    words = (
        f'losses redrawn about the law, with noise of {100 * scale:.2g}% known from {freedom} '
        f'degree{"" if freedom == 1 else "s"} of freedom'
    )
    return Refits(drawn, scales * random.standard_normal(draws), words, 0)


def get_refit_form(law: ParametricLaw, *, fixed_base: bool = False) -> LawForm:
    """Return the form whose constants a refit changes."""
    if law.law == 'repeated' and not fixed_base:
        return parametric_fit.free_repeated_form()
    return parametric_fit.get_law_form(law.law, law.constants)


def _estimate_noise(runs: Runs, residual: np.ndarray, constants: int) -> tuple[float, int, bool]:
    """Return the noise, its degrees of freedom, and whether the runs of a cluster share it."""
    labels, counts = np.unique(runs.clusters, return_inverse=True, return_counts=True)[1:]
    means = np.bincount(labels, residual) / counts
    freedom = len(counts) - constants
    between = float(means @ means) / freedom
    test = lack_of_fit.test_lack_of_fit(runs, residual, constants)
    is_shared = len(counts) < len(runs) and (test is None or test['rejected'])
    if is_shared or len(counts) == len(runs):
        return between**0.5, freedom, is_shared
    freedom = len(runs) - constants
    return float(residual @ residual / freedom) ** 0.5, freedom, False


def _refit_losses(
    law: ParametricLaw, form: LawForm, data: LogData, losses: np.ndarray, search: Search
) -> list[dict[str, float]]:
    """Refit the law to each row of log losses, [draws, runs]."""
    start, drawn = form.pack(law.constants), []
    for log_loss in losses:
        redrawn = data._replace(log_loss=log_loss)
        own_form, redrawn = parametric_fit.with_residual(form, redrawn, law.residual)
        theta, _ = search(start, own_form, redrawn, law.delta)
        drawn.append(form.unpack(theta))
    return drawn
