"""Outliers: runs far from the law of the others, which all commands leave out alike."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpt_jax.scaling import bootstrap, parametric_fit, power_law, refits
from gpt_jax.scaling.robust_fit import HUBER_DELTA
from gpt_jax.scaling.runs import Runs

# Wide enough to keep all 240 points digitized from Hoffmann et al. 2022 (figure 4), two of which
# are 5% off their law.
OUTLIER_SIGMAS = 8.0  # robust standard deviations
MIN_OUTLIER_RESIDUAL = 0.08  # of log loss: a run this close to the law is not an outlier
MAX_OUTLIER_SHARE = 0.2  # of the runs: if more are far off, the law is wrong, not the runs
TRIES = 12  # starts of each fit
FEW_DELTA = 0.05  # Huber delta for few configurations: almost least squares


def drop_outliers(
    law: str, runs: Runs, *, delta: float, constants: dict[str, float] | None = None
) -> Runs:
    """Leave out the runs whose loss is far from the law of the others, each with its reason.

    Args:
      law: a key of LAW_FORMS.
      runs: all runs.
      delta: residual at which the Huber loss turns from quadratic to linear.
      constants: constants of the base law, which 'repeated' then holds fixed.
    """

    def residual(subset: Runs) -> np.ndarray:
        data = parametric_fit.to_log_data(subset)
        fitted = parametric_fit.fit_parametric_law(
            law, data, delta=delta, constants=constants, tries=TRIES
        )
        return data.log_loss - fitted.predict_data(data)

    return _drop_far(runs, residual)


def drop_power_law_outliers(over: str, runs: Runs, *, irreducible: bool, delta: float) -> Runs:
    """Leave out runs far from a law over one variable, 'N', 'D' or 'C'."""

    def residual(subset: Runs) -> np.ndarray:
        x = subset.variable(over)
        fitted = power_law.fit_power_law(x, subset.loss, with_irreducible=irreducible, delta=delta)
        return np.log(subset.loss) - np.log(power_law.predict_loss(fitted, x))

    return _drop_far(runs, residual)


def _drop_far(runs: Runs, residual_of: Callable[[Runs], np.ndarray]) -> Runs:
    while True:
        residual = residual_of(runs)
        sigma = 1.4826 * float(np.median(np.abs(residual - np.median(residual))))
        far = np.abs(residual) > max(OUTLIER_SIGMAS * sigma, MIN_OUTLIER_RESIDUAL)
        if not far.any() or far.sum() > MAX_OUTLIER_SHARE * len(runs):
            return runs
        # The worst first, because they pull the law away from the others.
        worst = np.abs(residual) >= 0.5 * np.abs(residual).max()
        percent = {int(i): 100 * math.expm1(residual[i]) for i in np.flatnonzero(far & worst)}
        runs = runs.exclude(
            {
                i: f'outlier: the loss is {value:+.1f}% off the law of the other runs'
                for i, value in percent.items()
            }
        )


def clean_runs(
    law: str,
    runs: Runs,
    *,
    delta: float | None = None,
    constants: dict[str, float] | None = None,
    keep_outliers: bool = False,
) -> tuple[Runs, float, dict[str, Any] | None]:
    """Return the runs, the Huber delta and the seed noise that all commands use.

    Differences between seeds are noise, which must count quadratically, so delta is at least as
    large as that noise. Few configurations cannot afford the precision that a small delta costs
    (with normal noise, intervals a quarter wider), so theirs is FEW_DELTA.

    Args:
      law: a key of LAW_FORMS.
      runs: all runs.
      delta: residual at which the Huber loss turns from quadratic to linear; None: HUBER_DELTA, or
        FEW_DELTA for fewer than `refits.MANY` configurations.
      constants: constants of the base law, which 'repeated' then holds fixed.
      keep_outliers: whether outliers are kept.

    Returns:
      The runs without outliers, the Huber delta to use, and the noise between seeds, if known.
    """
    if not keep_outliers:
        runs = drop_outliers(law, runs, delta=delta or HUBER_DELTA, constants=constants)
    if delta is None:
        is_few = np.unique(runs.clusters).size < refits.MANY
        delta = FEW_DELTA if is_few else HUBER_DELTA
    noise, freedom = bootstrap.estimate_seed_noise(runs)
    if not freedom:
        return runs, delta, None
    return runs, max(delta, noise), {'log_loss_sd': noise, 'degrees_of_freedom': freedom}
