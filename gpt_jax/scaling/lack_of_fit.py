"""Test of a law against the noise between seeds (lack of fit).

Chi-square per degree of freedom is the variance of the configurations' means about the law, in
units of the noise between their seeds; 1 is expected of a true law. As that noise is estimated too,
the ratio has an F distribution (Draper & Smith 1998, section 2.1).
"""

from typing import Any

import numpy as np
from scipy import stats

from gpt_jax.scaling.runs import MIN_NOISE_FREEDOM, Runs

REJECTED = 0.01  # probability of such a ratio, or a larger one, if the law is true


def test_lack_of_fit(runs: Runs, residual: np.ndarray, constants: int) -> dict[str, Any] | None:
    """Compare the residuals of a law with the noise between seeds.

    Args:
      runs: the fitted runs. Runs of a cluster with equal token counts are seeds.
      residual: log of measured over predicted loss, [runs].
      constants: number of fitted constants.

    Returns:
      chi_square_per_dof, degrees_of_freedom (of the configurations), noise_sd (of log loss) and
      noise_degrees_of_freedom, p_value, rejected. None with too few seeds to tell the noise, or no
      more configurations than constants.
    """
    keys = np.stack([runs.clusters, runs.tokens], axis=1)
    labels, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)[1:]
    labels = labels.reshape(-1)
    freedom, noise_freedom = len(counts) - constants, len(runs) - len(counts)
    if noise_freedom < MIN_NOISE_FREEDOM or freedom < 1:
        return None
    means = np.bincount(labels, residual) / counts
    noise = float(((residual - means[labels]) ** 2).sum()) / noise_freedom
    if noise <= 0:
        return None
    ratio = float(counts @ means**2) / freedom / noise
    p_value = float(stats.f.sf(ratio, freedom, noise_freedom))
    return {
        'chi_square_per_dof': ratio,
        'degrees_of_freedom': freedom,
        'noise_sd': noise**0.5,
        'noise_degrees_of_freedom': noise_freedom,
        'p_value': p_value,
        'rejected': p_value < REJECTED,
    }
