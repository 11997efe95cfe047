"""Simulated runs whose law is known: truths, designs and draws.

A truth is the mean loss of a run with N parameters and D tokens; a design is the runs that somebody
makes and the run at ten times their largest compute that is forecast. A draw multiplies each run's
loss by exp(noise x normal): the same factor for all checkpoints of a run, which have another, of
CHECKPOINT_SHARE as much noise, each.

    from experiments.forecast_coverage import worlds
    draw = worlds.draw_runs('isoflop', 'chinchilla', noise=0.003, replicate=0)
"""

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize

FORECAST_FACTOR = 10  # compute of the forecast run over that of the largest run
TOKENS_PER_PARAM = 20
CHECKPOINTS, CHECKPOINT_SHARE = 8, 0.25
REPEAT_WORTH = (
    15.39  # R_D* of Muennighoff et al. 2023: repetitions after which data are worth little
)
CHINCHILLA = {'E': 1.8172, 'A': 482.01, 'B': 2085.43, 'alpha': 0.3478, 'beta': 0.3658}
NOISES = (0.003, 0.01)
SAVING = 1.5  # compute multiplier of the better of two recipes

Loss = Callable[[Any, Any], np.ndarray]


def compute_chinchilla(n: Any, d: Any) -> np.ndarray:
    """Hoffmann et al. 2022, with the constants of Besiroglu et al. 2024."""
    c = CHINCHILLA
    return c['E'] + c['A'] / np.power(n, c['alpha']) + c['B'] / np.power(d, c['beta'])


def compute_skaling(n: Any, d: Any) -> np.ndarray:
    """E + A (N^-a + R D^-b)^k (arXiv 2608.07222) with k = 0.6, where N and D limit each other."""
    return 1.75 + 560.0 * (np.power(n, -0.58) + 9.0 * np.power(d, -0.61)) ** 0.6


def compute_broken(n: Any, d: Any) -> np.ndarray:
    """Chinchilla's law whose exponent of N grows from 0.25 to 0.40 about 2e8 parameters.

    The smooth break is that of Caballero et al. 2022; it is 0.5 wide in log N.
    """
    bend = (1 + np.power(np.asarray(n) / 2e8, 2.0)) ** (-0.15 / 2)
    return 1.8172 + 77.0 * np.power(n, -0.25) * bend + 2085.43 / np.power(d, 0.3658)


def compute_interaction(n: Any, d: Any) -> np.ndarray:
    """Chinchilla's law and a term that falls with N and D alike, of 2 to 4% of the loss."""
    return compute_chinchilla(n, d) + 1.5e5 / np.power(n, 0.348) / np.power(d, 0.366)


TRUTHS: dict[str, Loss] = {
    'chinchilla': compute_chinchilla,
    'skaling': compute_skaling,
    'broken': compute_broken,
    'interaction': compute_interaction,
}


class Design(NamedTuple):
    """The runs to make, and the one to forecast.

    Attributes:
      params, tokens: float64, [rows].
      run: the run of each row: int, [rows]; checkpoints share it.
      target: (N, D) of the run that is forecast.
      over: 'N and D' if the runs vary both; 'N' if N determines D.
      columns: further columns of the table, each [rows].
    """

    params: np.ndarray
    tokens: np.ndarray
    run: np.ndarray
    target: tuple[float, float]
    over: str
    columns: dict[str, np.ndarray]

    @property
    def flops(self) -> float:
        """Compute of the forecast, 6ND."""
        return FORECAST_FACTOR * 6 * float((self.params * self.tokens).max())


def _make_design(
    params: Any, tokens: Any, *, run: Any = None, over: str = 'N and D', **columns: Any
) -> Design:
    n, d = np.asarray(params, float), np.asarray(tokens, float)
    size = float(np.sqrt(FORECAST_FACTOR * (n * d).max() / TOKENS_PER_PARAM))
    labels = np.arange(n.size) if run is None else np.asarray(run)
    return Design(n, d, labels, (size, TOKENS_PER_PARAM * size), over, columns)


def _make_layout(sizes: int, ratios: tuple[float, ...]) -> Design:
    """Each size at each number of tokens per parameter."""
    n = np.repeat(np.geomspace(5e7, 5e8, sizes), len(ratios))
    return _make_design(n, n * np.tile(ratios, sizes))


def _make_isoflop(reruns: int = 0) -> Design:
    """Five budgets with five sizes each; the first `reruns` rows are made twice."""
    budgets = np.repeat(np.geomspace(1e18, 1e20, 5), 5)
    sizes = np.tile(np.geomspace(0.25, 4, 5), 5) * np.sqrt(budgets / 6 / TOKENS_PER_PARAM)
    rows = np.concatenate([np.arange(budgets.size), 12 + np.arange(reruns)])
    n, c = sizes[rows], budgets[rows]
    return _make_design(n, c / 6 / n, budget=c)


def _make_seeds() -> Design:
    """Four sizes at three token counts with three seeds each."""
    n, d, seed = (
        a.ravel() for a in np.meshgrid(np.geomspace(5e7, 5e8, 4), [1e9, 4e9, 16e9], range(3))
    )
    return _make_design(n, d, seed=seed)


def _make_checkpoints() -> Design:
    """Seven runs of four sizes with eight checkpoints each, as if each were cooled down."""
    n, end = np.repeat(np.geomspace(5e7, 5e8, 4), 2)[:7], np.tile([10, 40], 4)[:7]
    share = np.arange(1, CHECKPOINTS + 1) / CHECKPOINTS
    run = np.repeat(np.arange(n.size), CHECKPOINTS)
    return _make_design(n[run], np.ravel((n * end)[:, None] * share), run=run)


def _make_ladder(sizes: int, *, tokens: float = 0.0) -> Design:
    """Sizes at 20 tokens per parameter, or at one token count; the next rung is forecast."""
    n = np.geomspace(2e7, 6e8, sizes)
    if not tokens:
        return _make_design(n, TOKENS_PER_PARAM * n, over='N')
    design = _make_design(n, np.full(sizes, tokens), over='N')
    return design._replace(target=(FORECAST_FACTOR * float(n.max()), tokens))


def _make_repeated() -> Design:
    """Twelve runs, of which the longest of three sizes repeat 2.5e9 tokens, up to eight times."""
    layout = _make_layout(4, (5, 20, 40))
    unique = np.minimum(layout.tokens, np.where(np.arange(12) % 3 == 2, 2.5e9, np.inf))
    return layout._replace(columns={'unique_tokens': unique})


DESIGNS: dict[str, Design] = {
    'six': _make_layout(3, (10, 40)),
    'eight': _make_layout(4, (10, 40)),
    'twelve': _make_layout(4, (5, 20, 80)),
    'isoflop': _make_isoflop(),
    'isoflop_rerun': _make_isoflop(reruns=1),
    'seeds': _make_seeds(),
    'checkpoints': _make_checkpoints(),
    'repeated': _make_repeated(),
    'ladder4': _make_ladder(4),
    'ladder6': _make_ladder(6),
    'ladder8': _make_ladder(8),
    'flat4': _make_ladder(4, tokens=4e9),
    'flat6': _make_ladder(6, tokens=4e9),
    'flat8': _make_ladder(8, tokens=4e9),
}


class Draw(NamedTuple):
    """Runs with their losses.

    Attributes:
      columns: the table: params, tokens, loss and others, each [rows].
      reached: loss of the run that is forecast, its noise included.
    """

    columns: dict[str, np.ndarray]
    reached: float


def draw_runs(
    design: str, truth: str, *, noise: float, replicate: int, saving: float = 1.0
) -> Draw:
    """Draw the losses of a design.

    Args:
      design: a key of DESIGNS.
      truth: a key of TRUTHS.
      noise: standard deviation of a run's log loss.
      replicate: number of the draw; equal arguments give equal losses.
      saving: compute multiplier: all losses are those of `saving` times the compute at equal D/N.
    """
    made, loss = DESIGNS[design], TRUTHS[truth]
    key = zlib.crc32(f'{design} {truth} {noise} {saving}'.encode())
    random = np.random.default_rng([key, replicate])
    error = random.standard_normal(made.run.max() + 1)[made.run]
    if np.unique(made.run).size < made.run.size:
        error = error + CHECKPOINT_SHARE * random.standard_normal(error.size)
    scale = np.sqrt(saving)
    unique = made.columns.get('unique_tokens', made.tokens)
    reached = loss(*(scale * np.array(made.target))) * np.exp(noise * random.standard_normal())
    losses = loss(scale * made.params, scale * compute_effective_tokens(made.tokens, unique))
    table = {'run_id': made.run, 'params': made.params, 'tokens': made.tokens}
    if np.unique(made.run).size == made.run.size:
        del table['run_id']
    return Draw(table | made.columns | {'loss': losses * np.exp(noise * error)}, float(reached))


def compute_effective_tokens(tokens: np.ndarray, unique: np.ndarray) -> np.ndarray:
    """Return the unique tokens that are worth as much (Muennighoff et al. 2023, eq. 5)."""
    repeats = tokens / unique - 1
    return unique * (1 + REPEAT_WORTH * -np.expm1(-repeats / REPEAT_WORTH))


def find_optimal_params(truth: str, flops: float) -> float:
    """Return the size with the lowest loss among those with 6ND = `flops`."""
    loss = TRUTHS[truth]
    found = optimize.minimize_scalar(
        lambda log_n: float(loss(np.exp(log_n), flops / 6 / np.exp(log_n))),
        bounds=(np.log(1e6), np.log(1e13)),
        method='bounded',
        options={'xatol': 1e-9},
    )
    return float(np.exp(found.x))
