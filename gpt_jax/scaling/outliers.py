"""Which runs do not follow the law that the others follow? Left out by every command alike, each with its reason."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpt_jax.scaling import confidence, laws, surface
from gpt_jax.scaling.runs import Runs

# So wide that the 240 points others fitted of Hoffmann et al. 2022 (figure 4) all stay: two lie 5% off their law.
SIGMAS = 8.0  # robust standard deviations
LEAST = 0.08  # of the log loss: a run this close to the law is kept however well the others agree
SHARE = 0.2  # of the runs: if more would go, the law is wrong and not the runs
TRIES = 12  # starts of each fit


def beyond(law: str, runs: Runs, *, delta: float, constants: dict[str, float] | None = None) -> Runs:
    """Leaves out the runs whose loss is far from the law that the others follow, each with its reason."""

    def residual(some: Runs) -> np.ndarray:
        given = surface.data(some)
        found = surface.fit(law, given, delta=delta, constants=constants, tries=TRIES)
        return given.log_loss - np.log(found.predict(some.params, some.tokens, np.exp(given.u)))

    return _without_far(runs, residual)


def along(over: str, runs: Runs, *, irreducible: bool, delta: float) -> Runs:
    """The same by a law over one variable, N, D or C."""

    def residual(some: Runs) -> np.ndarray:
        found = laws.fit(some.along(over), some.loss, with_irreducible=irreducible, delta=delta)
        return np.log(some.loss) - np.log(laws.predict(found, some.along(over)))

    return _without_far(runs, residual)


def _without_far(runs: Runs, residual_of: Callable[[Runs], np.ndarray]) -> Runs:
    while True:
        residual = residual_of(runs)
        sigma = 1.4826 * float(np.median(np.abs(residual - np.median(residual))))
        far = np.abs(residual) > max(SIGMAS * sigma, LEAST)
        if not far.any() or far.sum() > SHARE * len(runs):
            return runs
        worst = np.abs(residual) >= 0.5 * np.abs(residual).max()  # the worst first: they pull the others along
        runs = runs.without({
            int(i): f'outlier: the loss is {100 * math.expm1(residual[i]):+.1f}% off the law of the other runs'
            for i in np.flatnonzero(far & worst)
        })  # fmt: skip


def cleaned(
    law: str, runs: Runs, *, delta: float = surface.HUBER_DELTA, constants: dict[str, float] | None = None,
    keep_outliers: bool = False,
) -> tuple[Runs, float, dict[str, Any] | None]:  # fmt: skip
    """The runs as every command fits them: (without outliers, the Huber delta to use, the noise between seeds).

    What the seed moves is noise, and noise counts squared: delta is at least the noise between seeds.
    """
    if not keep_outliers:
        runs = beyond(law, runs, delta=delta, constants=constants)
    noise, freedom = confidence.seed_noise(runs)
    if not freedom:
        return runs, delta, None
    return runs, max(delta, noise), {'log_loss_sd': noise, 'degrees_of_freedom': freedom}
