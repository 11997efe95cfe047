"""How much compute does recipe B save? The FLOPs that A needs for a loss, over those that B needs: the multiplier.

Each recipe's loss is fitted over compute, L(C) = E + K C^-gamma, through those of its runs that nothing cheaper beats.
At a loss l recipe A needs C_A(l) = (K / (l - E))^(1 / gamma), and the multiplier is C_A(l) / C_B(l).
"""

import math
from typing import Any

import numpy as np

from gpt_jax.errors import UserError
from gpt_jax.scaling import confidence, laws, outliers
from gpt_jax.scaling.runs import Runs

POINTS = 25


def envelope(runs: Runs) -> np.ndarray:
    """Indices of the runs that no run of at most their compute beats, by compute."""
    kept: list[int] = []
    for index in np.lexsort((runs.loss, runs.flops)):
        if not kept or runs.loss[index] < runs.loss[kept[-1]]:
            kept.append(int(index))
    return np.array(kept, int)


def compute_for(law: laws.PowerLaw, loss: Any) -> np.ndarray:
    """The FLOPs that the law needs for a loss; infinite at its irreducible loss and below."""
    above = np.asarray(loss, float) - law.irreducible
    with np.errstate(divide='ignore', invalid='ignore'):
        return np.where(above > 0, (law.amplitude / np.where(above > 0, above, 1)) ** (1 / law.exponent), math.inf)


def compare(a: Runs, b: Runs, *, draws: int = 500, seed: int = 0) -> dict[str, Any]:
    """The multiplier along the losses that both recipes reached, with its interval.

    Returns:
      loss: a grid; multiplier, low, high: along it, with the level and what was resampled; laws: per recipe E, K, gamma
      of its envelope; envelopes: per recipe flops and loss; warning: why this extrapolates, or nothing; left_out: per
      recipe the rows that were not used.

    Raises:
      UserError: a recipe has too few sizes on its envelope.
    """
    clean = {name: _cleaned(runs) for name, runs in (('A', a), ('B', b))}
    kept = {name: runs.take(envelope(runs)) for name, runs in clean.items()}
    for name, runs in kept.items():
        if len(runs) < 3:
            raise UserError(f'{name}: {len(runs)} runs on the envelope of loss over compute; a law takes at least 3')
    fitted = {name: _law(runs.flops, runs.loss, tries=4) for name, runs in kept.items()}
    low = max(float(runs.loss.min()) for runs in kept.values())
    high = min(float(runs.loss.max()) for runs in kept.values())
    overlap = low < high
    grid = np.geomspace(low, high, POINTS) if overlap else np.array([min(low, high), max(low, high)])
    random = np.random.default_rng(seed)
    drawn = []
    for _ in range(draws):
        both = {}
        for name, runs in kept.items():
            while True:
                picked = random.integers(len(runs), size=len(runs))
                if np.unique(picked).size >= min(3, len(runs)):
                    break
            both[name] = _law(runs.flops[picked], runs.loss[picked], tries=2)
        drawn.append(compute_for(both['A'], grid) / compute_for(both['B'], grid))
    bands = [confidence.interval(column, 'the runs on each envelope, with replacement') for column in np.array(drawn).T]
    multiplier = compute_for(fitted['A'], grid) / compute_for(fitted['B'], grid)
    return {
        'loss': grid.tolist(),
        'multiplier': multiplier.tolist(),
        'low': [one.low for one in bands],
        'high': [one.high for one in bands],
        'level': confidence.LEVEL,
        'resampled': bands[0].resampled,
        'laws': {
            name: {'E': law.irreducible, 'K': law.amplitude, 'gamma': law.exponent} for name, law in fitted.items()
        },
        'envelopes': {name: {'flops': runs.flops.tolist(), 'loss': runs.loss.tolist()} for name, runs in kept.items()},
        'warning': '' if overlap else _apart(clean['A'], clean['B']),
        'left_out': [runs.left_out for runs in clean.values()],
    }


def _cleaned(runs: Runs) -> Runs:
    """Without what the law over parameters and tokens shows to be outliers; as it is where none can be fitted."""
    try:
        return outliers.cleaned('chinchilla', runs)[0]
    except UserError:
        return runs


def _apart(a: Runs, b: Runs) -> str:
    return f'the recipes share no loss (A ends at {a.loss.min():.4g}, B at {b.loss.min():.4g}): this extrapolates'


def _law(flops: np.ndarray, loss: np.ndarray, tries: int) -> laws.PowerLaw:
    return laws.fit(flops, loss, with_irreducible=np.unique(flops).size > 3, tries=tries)
