"""Which law over parameters and tokens do these runs follow? A fit that really finds its optimum.

The fit minimizes the sum over runs of Huber_delta(log L_predicted - log L_measured) from many starts, in logarithms of
A, B and E, with an analytic gradient, scaled so that the optimizer's tolerances mean something, and polished. The mean
instead of the sum stops the optimizer at once (Besiroglu et al. 2024). The laws themselves are in forms.py.
"""

import dataclasses
from typing import Any

import numpy as np
from scipy import optimize

from gpt_jax.errors import UserError
from gpt_jax.scaling.forms import LAWS, Data, Law
from gpt_jax.scaling.runs import Runs

HUBER_DELTA = 1e-3  # Hoffmann et al. 2022, appendix D.2
SCALE = 1e4  # brings the objective of a good fit near 1
SAME_OPTIMUM = 1e-4  # relative: a start that ends this close to the best has reached it


@dataclasses.dataclass(frozen=True)
class Surface:
    """One fitted law.

    Attributes:
      law: its name, a key of LAWS.
      constants: by name, in full precision; E in the loss's units, A and B in theirs.
      objective: the unscaled sum of Huber terms at the optimum.
      delta: where the Huber loss turned from squared to linear.
      starts, starts_reached: searches begun, and how many ended at this objective.
      points: the number of runs fitted.
    """

    law: str
    constants: dict[str, float]
    objective: float
    delta: float
    starts: int
    starts_reached: int
    points: int

    def predict(self, params: Any, tokens: Any, unique_tokens: Any = None) -> np.ndarray:
        """The loss at N and D (broadcast against each other)."""
        n, d = np.broadcast_arrays(np.log(np.asarray(params, float)), np.log(np.asarray(tokens, float)))
        u = d if unique_tokens is None else np.minimum(d, np.log(np.asarray(unique_tokens, float)))
        theta = LAWS[self.law].pack(self.constants)
        flat = Data(n.ravel(), d.ravel(), np.broadcast_to(u, n.shape).ravel(), n.ravel())
        return np.exp(LAWS[self.law].predict(theta, flat)[0]).reshape(n.shape)


def data(runs: Runs) -> Data:
    """The logarithms of the runs' columns; where no unique tokens are given, all are."""
    d = np.log(runs.tokens)
    unique = runs.more.get('unique_tokens', np.full(len(runs), np.nan))
    return Data(np.log(runs.params), d, np.where(np.isnan(unique), d, np.minimum(d, np.log(unique))), np.log(runs.loss))


def objective(theta: np.ndarray, law: Law, given: Data, weights: np.ndarray, delta: float) -> tuple[float, np.ndarray]:
    """The scaled, weighted sum of Huber terms and its gradient."""
    predicted, gradient = law.predict(theta, given)
    residual = predicted - given.log_loss
    clipped = np.clip(residual, -delta, delta)
    terms = clipped * (residual - clipped / 2)  # r^2 / 2 inside, delta (|r| - delta / 2) outside
    return SCALE * float(weights @ terms), SCALE * (gradient @ (weights * clipped))


def search(
    start: np.ndarray, law: Law, given: Data, weights: np.ndarray, delta: float, *, tolerance: float = 1e-10
) -> Any:
    """One search; scipy's result, with the scaled objective in `fun` and theta in `x`."""
    options = {'maxiter': 1000, 'maxfun': 4000, 'ftol': tolerance, 'gtol': 1e-8, 'maxcor': 20}
    shear = np.eye(len(start))
    for level, exponent, letter in law.shear:
        shear[level, exponent] = getattr(given, letter).mean()

    def at(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = objective(shear @ x, law, given, weights, delta)
        return value, shear.T @ gradient

    found = optimize.minimize(
        at, np.linalg.solve(shear, start), jac=True, method='L-BFGS-B', bounds=law.bounds, options=options
    )
    found.x = shear @ found.x
    return found


def polish(best: Any, law: Law, given: Data, weights: np.ndarray, delta: float) -> Any:
    """Searches again from where a search ended, as long as that helps: L-BFGS forgets, and a new start does not."""
    for _ in range(20):
        again = search(best.x, law, given, weights, delta, tolerance=1e-14)
        gain, best = best.fun - again.fun, again if again.fun < best.fun else best
        if gain <= 1e-12 * abs(best.fun):
            break
    return best


def fit(
    law: str, given: Data, *, delta: float = HUBER_DELTA, weights: np.ndarray | None = None,
    tries: int | None = None, constants: dict[str, float] | None = None,
) -> Surface:  # fmt: skip
    """Fits a law.

    Args:
      law: a key of LAWS.
      weights: of the runs, [runs]; all 1 by default.
      tries: search only from so many of the law's starts, the best ones; None searches from all of them.
      constants: of the base law, which 'repeated' holds fixed, as its authors do; without them all is fitted together.

    Raises:
      UserError: fewer runs, sizes or token counts than the law has constants to fit.
    """
    rule = _jointly(given, delta) if law == 'repeated' and constants is None else rule_of(law, constants)
    _enough(law, given, len(rule.bounds))
    weights = np.ones(len(given.n)) if weights is None else weights
    begun = rule.starts(given)
    if tries is not None:
        begun = sorted(begun, key=lambda start: objective(start, rule, given, weights, delta)[0])[:tries]
    found = [search(start, rule, given, weights, delta) for start in begun]
    best = polish(min(found, key=lambda one: one.fun), rule, given, weights, delta)
    close = best.fun * (1 + SAME_OPTIMUM) + 1e-9 * len(given.n)
    return Surface(
        law=law,
        constants=rule.unpack(best.x),
        objective=best.fun / SCALE,
        delta=delta,
        starts=len(begun),
        starts_reached=sum(one.fun <= close for one in found),
        points=len(given.n),
    )


def _enough(law: str, given: Data, constants: int) -> None:
    sizes, lengths = np.unique(given.n).size, np.unique(given.d).size
    if len(given.n) <= constants or sizes < 3 or lengths < 3:
        raise UserError(
            f'{law}: {len(given.n)} runs of {sizes} sizes and {lengths} token counts cannot carry {constants} '
            'constants; give runs that vary both, or --law=power'
        )


def rule_of(law: str, constants: dict[str, float] | None) -> Law:
    """The law as it is fitted: 'repeated' over a base law with these constants, the others as they are."""
    return _held(LAWS[law], constants) if law == 'repeated' and constants is not None else LAWS[law]


def _jointly(given: Data, delta: float) -> Law:
    """`repeated` with its base law fitted too, from where the runs that repeat nothing put it.

    Raises:
      UserError: too few of the runs repeat nothing.
    """
    law, once = joint(), given.d - given.u < 1e-6
    try:
        base = fit('chinchilla', Data(*(column[once] for column in given)), delta=delta, tries=12)
    except UserError as error:
        raise UserError(
            f'repeated: {once.sum()} runs repeat nothing: {error}; or --base=... holds a law fixed'
        ) from None
    start = LAWS['chinchilla'].pack(base.constants)

    def starts(given: Data) -> list[np.ndarray]:
        made = [np.concatenate([start, halves]) for halves in law.starts(given)]
        ones = np.ones(len(given.n))
        return sorted(made, key=lambda theta: objective(theta, law, given, ones, delta)[0])[:6]

    return law._replace(starts=starts)


def joint() -> Law:
    """`repeated` with all seven constants free."""
    law = LAWS['repeated']

    def predict(theta: np.ndarray, given: Data) -> tuple[np.ndarray, np.ndarray]:
        # The optimal size for the unique tokens moves with the base: its five slopes are taken by differences.
        loss, by_halves = law.predict(theta, given)
        steps = 1e-6 * np.eye(len(theta))[:5]
        by_base = [(law.predict(theta + step, given)[0] - law.predict(theta - step, given)[0]) / 2e-6 for step in steps]
        return loss, np.concatenate([by_base, by_halves])

    return law._replace(predict=predict, shear=LAWS['chinchilla'].shear)


def _held(law: Law, constants: dict[str, float]) -> Law:
    """`law` with its base held at `constants`: only the two half-lives are fitted."""
    base = LAWS['chinchilla'].pack(constants)
    whole = constants | {'R_D': 1.0, 'R_N': 1.0}

    def predict(theta: np.ndarray, given: Data) -> tuple[np.ndarray, np.ndarray]:
        return law.predict(np.concatenate([base, theta]), given)

    return Law(
        predict=predict,
        starts=law.starts,
        bounds=law.bounds[5:],
        shear=(),
        pack=lambda named: law.pack(whole | named)[5:],
        unpack=lambda theta: law.unpack(np.concatenate([base, theta])),
    )
