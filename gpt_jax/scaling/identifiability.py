"""What a set of runs cannot tell about loss over N and D, and the run that would cure it.

If the runs lie near one line in (log N, log D), only the loss along that line is measured. At one
budget, they show which size is best there, but not what more compute brings; at one number of
tokens per parameter, the reverse.
"""

import math
from typing import NamedTuple

import numpy as np

from gpt_jax.scaling.runs import Runs

MIN_SPREAD = math.log(1.5)  # range across the line, in log N or log D
MIN_POINTS = 3
REPEATED = 1.02  # token counts or sizes that differ by less count as one
CURE = 4.0  # times the compute, tokens or parameters of the runs' middle


class DesignGap(NamedTuple):
    """What the runs leave open.

    Attributes:
      kind: 'few', 'budget', 'size', 'length', 'ratio' or 'line'.
      reason: what is not identified, a clause.
      params, tokens: a run that would tell.
    """

    kind: str
    reason: str
    params: float
    tokens: float

    def describe(self) -> str:
        """Return the reason and the cure as a sentence without a full stop."""
        return (
            f'not identified: {self.reason}; a run of {self.params:.3g} parameters on '
            f'{self.tokens:.3g} tokens would tell'
        )


def find_design_gap(runs: Runs, target: tuple[float, float] | None = None) -> DesignGap | None:
    """Return what the runs leave open; None if they vary N and D independently.

    Args:
      runs: finished runs.
      target: N and D of a run to forecast; there is no gap if it is on the line of the runs.
    """
    points = np.log(np.stack([runs.params, runs.tokens], axis=1))
    distinct = np.unique(np.round(points / math.log(REPEATED)), axis=0)
    middle_n, middle_d = np.exp(np.median(points, axis=0))
    if len(distinct) < MIN_POINTS:
        words = '1 configuration' if len(distinct) == 1 else f'{len(distinct)} configurations'
        reason = f'{words} cannot show how the loss depends on parameters and tokens'
        return DesignGap('few', reason, CURE * middle_n, middle_d)
    centred = points - points.mean(axis=0)
    direction = np.linalg.svd(centred, full_matrices=False)[2]
    across = centred @ direction[1]
    if np.ptp(across) >= MIN_SPREAD:
        return None
    if target is not None:
        beyond = (np.log(target) - points.mean(axis=0)) @ direction[1]
        if across.min() - MIN_SPREAD <= beyond <= across.max() + MIN_SPREAD:
            return None
    along_n, along_d = direction[0]
    slope = math.degrees(math.atan2(along_d, along_n)) % 180  # 0: N alone, 90: D alone
    if slope < 10 or slope > 170:
        reason = 'all runs have about the same tokens, so what more tokens bring'
        return DesignGap('length', f'{reason} is open', middle_n, CURE * middle_d)
    if abs(slope - 90) < 10:
        reason = 'all runs have about the same size, so what more parameters bring'
        return DesignGap('size', f'{reason} is open', CURE * middle_n, middle_d)
    if abs(slope - 135) < 10:
        reason = (
            f'all runs have about {np.median(runs.flops):.3g} FLOPs, one budget, so what more '
            'compute brings'
        )
        return DesignGap('budget', f'{reason} is open', middle_n, CURE * middle_d)
    if abs(slope - 45) < 10:
        ratio = f'{np.median(runs.tokens / runs.params):.3g} tokens per parameter'
        reason = f'all runs have about {ratio}, so the best split between parameters and tokens'
        return DesignGap('ratio', f'{reason} is open', middle_n, CURE * middle_d)
    reason = 'tokens follow the size in all runs, so the best split between them'
    return DesignGap('line', f'{reason} is open', middle_n, CURE * middle_d)
