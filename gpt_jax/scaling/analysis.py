"""What do these runs say? The whole of `fit`: clean, fit, hold the largest out, put the approaches side by side.

Everything comes back as one JSON-able dict, so that the table, --json and the figures show the same numbers.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from gpt_jax.errors import UserError
from gpt_jax.scaling import approaches, confidence, laws, optimal, surface
from gpt_jax.scaling.runs import Runs, seed_noise

OUTLIER_SIGMAS = 8.0  # robust standard deviations; digitized figures have honest tails at 5
OUTLIER_LEAST = 0.08  # of the log loss: a run this close to the law is kept however well the others agree
OUTLIER_SHARE = 0.2  # of the runs: if more would go, the law is wrong and not the runs
TRIES = 12  # starts of the fits beside the main one


def outliers(law: str, runs: Runs, *, delta: float, constants: dict[str, float] | None = None) -> Runs:
    """Leaves out the runs whose loss is far from the law that the others follow, each with its reason."""
    while True:
        given = surface.data(runs)
        found = surface.fit(law, given, delta=delta, constants=constants, tries=TRIES)
        residual = given.log_loss - np.log(found.predict(runs.params, runs.tokens, np.exp(given.u)))
        sigma = 1.4826 * float(np.median(np.abs(residual - np.median(residual))))
        far = np.abs(residual) > max(OUTLIER_SIGMAS * sigma, OUTLIER_LEAST)
        if not far.any() or far.sum() > OUTLIER_SHARE * len(runs):
            return runs
        worst = np.abs(residual) >= 0.5 * np.abs(residual).max()  # the worst first: they pull the others along
        runs = runs.without({
            int(i): f'outlier: the loss is {100 * math.expm1(residual[i]):+.1f}% off the law of the other runs'
            for i in np.flatnonzero(far & worst)
        })  # fmt: skip


def fit(
    runs: Runs, *, law: str = 'chinchilla', delta: float = surface.HUBER_DELTA, draws: int = 1000, seed: int = 0,
    holdout: str = '', at_flops: tuple[float, ...] = (), constants: dict[str, float] | None = None,
    keep_outliers: bool = False, which: tuple[str, ...] = ('3',), starts: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Fits a law over parameters and tokens, with everything that says how far it can be believed.

    Args:
      law: a key of surface.LAWS.
      draws: bootstrap resamples; 0 for none.
      holdout: a condition such as 'flops>=1e21'; the largest by FLOPs where empty.
      at_flops: budgets to split.
      constants: of the base law that 'repeated' holds fixed.
      which: of the approaches '1', '2', '3'.
      starts: of the main fit; None: all that the law has.

    Returns:
      data: the file, its SHA-256, the conventions of N and C, the number of runs fitted.
      left_out: row, name and reason of each row that is not.
      seed_noise: standard deviation of log loss between seeds and its degrees of freedom, or None.
      fit: the fields of surface.Surface. intervals: per constant, the fields of confidence.Interval.
      profiles: per constant, what confidence.profile returns.
      residuals: per run, params, tokens, flops, loss, name and log_residual (measured over law).
      held_out: what held_out returns.
      approaches: per approach a, b (N* ~ C^a, D* ~ C^b), n_coefficient, d_coefficient, cost (C = k N^p D), a_interval,
        band (N* along compute: flops, params_low, params_high), at (per budget flops, params, tokens, tokens_per_param,
        loss, params_low, params_high), note; of approach 2 also minima (approaches.Minimum) and akima; of approach 1
        also envelope (indices into residuals).
      disagreements: sentences on approaches that differ beyond their intervals.

    Raises:
      UserError: the runs cannot carry the law.
    """
    noise, freedom = seed_noise(runs)
    if freedom:
        delta = max(delta, noise)  # what the seed moves is noise, and noise counts squared
    if not keep_outliers:
        runs = outliers(law, runs, delta=delta, constants=constants)
    given = surface.data(runs)
    found = surface.fit(law, given, delta=delta, constants=constants, tries=starts)
    resamples, words = confidence.counts(runs, draws, seed)
    drawn = confidence.bootstrap(found, given, resamples) if draws else []
    result: dict[str, Any] = {
        'data': runs.about | {'runs': len(runs)},
        'left_out': runs.left_out,
        'seed_noise': {'log_loss_sd': noise, 'degrees_of_freedom': freedom} if freedom else None,
        'fit': dataclasses.asdict(found),
        'intervals': _intervals(found, drawn, words),
        'profiles': _profiles(found, given),
        'residuals': _residuals(found, runs),
        'held_out': held_out(law, runs, holdout, delta=delta, constants=constants),
    }
    if law != 'kaplan':
        result['approaches'], result['disagreements'] = side_by_side(runs, found, drawn, words, at_flops, which, seed)
    return result


def _intervals(found: surface.Surface, drawn: list[dict[str, float]], words: str) -> dict[str, Any]:
    if not drawn:
        return {}
    return {
        name: dataclasses.asdict(confidence.interval([one[name] for one in drawn], words)) for name in found.constants
    }


def _profiles(found: surface.Surface, given: surface.Data) -> dict[str, Any]:
    names = {'chinchilla': ('alpha', 'beta', 'E'), 'repeated': ('R_D', 'R_N')}.get(found.law, ())
    return {name: confidence.profile(found, given, name) for name in names}


def _residuals(found: surface.Surface, runs: Runs) -> dict[str, Any]:
    given = surface.data(runs)
    residual = given.log_loss - np.log(found.predict(runs.params, runs.tokens, np.exp(given.u)))
    return {
        'params': runs.params.tolist(),
        'tokens': runs.tokens.tolist(),
        'flops': runs.flops.tolist(),
        'loss': runs.loss.tolist(),
        'name': runs.names,
        'log_residual': residual.tolist(),
    }


def held_out(
    law: str, runs: Runs, condition: str, *, delta: float, constants: dict[str, float] | None
) -> dict[str, Any]:
    """Fits without the top of the data and predicts it: mean, bias and worst error, in nats and percent."""
    top = chosen(runs, condition)
    rest, there = runs.take(~top), runs.take(top)
    try:
        found = surface.fit(law, surface.data(rest), delta=delta, constants=constants, tries=TRIES)
    except UserError as reason:
        return {'condition': condition or 'the largest by FLOPs', 'runs': int(top.sum()), 'note': str(reason)}
    predicted = found.predict(there.params, there.tokens, np.exp(surface.data(there).u))
    error = predicted - there.loss
    percent = 100 * error / there.loss
    return {
        'condition': condition or 'the largest by FLOPs',
        'runs': len(there),
        'fitted_runs': len(rest),
        'constants': found.constants,
        'mean_absolute_nats': float(np.abs(error).mean()),
        'bias_nats': float(error.mean()),
        'worst_nats': float(error[np.argmax(np.abs(error))]),
        'mean_absolute_percent': float(np.abs(percent).mean()),
        'bias_percent': float(percent.mean()),
        'worst_percent': float(percent[np.argmax(np.abs(percent))]),
        'note': '',
    }


def chosen(runs: Runs, condition: str) -> np.ndarray:
    """The runs that a condition such as 'flops>=1e21' means; those of the largest FLOPs where it is empty.

    Raises:
      UserError: it is no such condition, or it leaves nothing to fit or nothing to predict.
    """
    if not condition:
        return runs.flops >= runs.flops.max() * (1 - 1e-6)
    comparisons = {'>=': np.greater_equal, '<=': np.less_equal, '>': np.greater, '<': np.less}
    sign = next((sign for sign in comparisons if sign in condition), '>=')
    name, _, value = condition.partition(sign)
    columns = {'params': runs.params, 'tokens': runs.tokens, 'loss': runs.loss, 'flops': runs.flops, **runs.more}
    try:
        mask = comparisons[sign](columns[name.strip()], float(value))
    except (KeyError, ValueError):
        raise UserError(
            f"--holdout={condition}: wants COLUMN>=NUMBER, 'flops>=1e21' say; columns: {', '.join(columns)}"
        ) from None
    if mask.all() or not mask.any():
        raise UserError(
            f'--holdout={condition}: {int(mask.sum())} of {len(mask)} runs; it must leave some on each side'
        )
    return mask


def side_by_side(
    runs: Runs, found: surface.Surface, drawn: list[dict[str, float]], words: str, at_flops: tuple[float, ...],
    which: tuple[str, ...], seed: int,
) -> tuple[dict[str, Any], list[str]]:  # fmt: skip
    """The compute-optimal split by each approach, with intervals; and where they disagree beyond these."""
    cost = optimal.cost(runs)
    made: dict[str, Any] = {}
    resamples, _ = confidence.counts(runs, 200, seed)
    for number in which:
        try:
            made[number] = _approach(number, runs, found, drawn, words, at_flops, cost, resamples, seed)
        except UserError as error:
            made[number] = {'note': str(error)}
    return made, _disagreements(made)


def _approach(
    number: str, runs: Runs, found: surface.Surface, drawn: list[dict[str, float]], words: str,
    at_flops: tuple[float, ...], cost: optimal.Cost, resamples: np.ndarray, seed: int,
) -> dict[str, Any]:  # fmt: skip
    extra: dict[str, Any] = {}
    if number == '3':
        split = optimal.split(found.constants, cost)
        splits = [optimal.split(one, cost) for one in drawn]
    elif number == '2':
        found_minima = approaches.minima(runs, seed=seed)
        split = approaches.isoflop(found_minima, cost)
        other = approaches.isoflop(found_minima, cost, akima=True)
        splits = _redrawn_minima(found_minima, cost, seed)
        words = 'the minima, by the spread of their noise draws'
        extra = {
            'minima': [approaches.as_dict(one) for one in found_minima],
            'akima': {'a': other.a, 'b': other.b, 'at': _at(other, found, at_flops)},
        }
    else:
        split = approaches.frontier(runs, cost)
        splits = []
        for weights in resamples:
            some = runs.take(np.repeat(np.arange(len(runs)), weights.astype(int)))
            try:
                splits.append(approaches.frontier(some, cost))
            except UserError:
                continue
        extra = {'envelope': [int(i) for i in approaches.envelope(runs)]}
    return {
        'a': split.a,
        'b': split.b,
        'n_coefficient': split.n_coefficient,
        'd_coefficient': split.d_coefficient,
        'cost': cost._asdict(),
        'a_interval': dataclasses.asdict(confidence.interval([one.a for one in splits], words)) if splits else None,
        'at': _at(split, found, at_flops, splits),
        'band': _band(runs, splits),
        'note': '',
        **extra,
    }


def _band(runs: Runs, splits: list[optimal.Split]) -> dict[str, list[float]] | None:
    """The interval of N* along compute, up to ten times the largest of the runs."""
    if not splits:
        return None
    grid = np.geomspace(runs.flops.min(), runs.flops.max() * 10, 40)
    low, high = np.quantile([one.at(grid)[0] for one in splits], [0.025, 0.975], axis=0)
    return {'flops': grid.tolist(), 'params_low': low.tolist(), 'params_high': high.tolist()}


def _redrawn_minima(found: list[approaches.Minimum], cost: optimal.Cost, seed: int) -> list[optimal.Split]:
    random = np.random.default_rng(seed)
    made = []
    for _ in range(400):
        moved = [
            dataclasses.replace(one, params=one.params * math.exp(one.spread * random.standard_normal()))
            for one in found
        ]
        made.append(approaches.isoflop(moved, cost))
    return made


def _at(
    split: optimal.Split, found: surface.Surface, budgets: tuple[float, ...], splits: list[optimal.Split] | None = None
) -> list[dict[str, Any]]:
    made = []
    for flops in budgets:
        n, d = (float(value) for value in split.at(flops))
        one: dict[str, Any] = {
            'flops': flops,
            'params': n,
            'tokens': d,
            'tokens_per_param': d / n,
            'loss': float(found.predict(n, d)),
        }
        if splits:
            low, high = np.quantile([float(each.at(flops)[0]) for each in splits], [0.025, 0.975])
            one |= {'params_low': float(low), 'params_high': float(high)}
        made.append(one)
    return made


def _disagreements(made: dict[str, Any]) -> list[str]:
    said = []
    known = {number: one for number, one in made.items() if one.get('a_interval')}
    numbers = sorted(known)
    for index, first in enumerate(numbers):
        for second in numbers[index + 1 :]:
            one, other = known[first]['a_interval'], known[second]['a_interval']
            if one['high'] < other['low'] or other['high'] < one['low']:
                said.append(
                    f'approaches {first} and {second} disagree on the exponent a beyond their intervals: '
                    f'{known[first]["a"]:.3f} and {known[second]["a"]:.3f}'
                )
    return said


def power(runs: Runs, over: str, *, irreducible: bool, delta: float) -> dict[str, Any]:
    """L(N), L(D) or L(C) with its leave-the-largest-out forecast, by forecast.py's rule and laws.py's fit."""
    from gpt_jax.scaling import forecast

    x = {'N': runs.params, 'D': runs.tokens, 'C': runs.flops}[over]
    law = laws.fit(x, runs.loss, with_irreducible=irreducible, delta=delta)
    result = {'data': runs.about | {'runs': len(runs)}, 'left_out': runs.left_out, 'law': dataclasses.asdict(law)}
    if np.unique(x).size >= forecast.FEWEST:
        result['forecast'] = forecast.leave_largest_out(x, runs.loss)
    return result


def downstream(runs: Runs) -> dict[str, Any]:
    """error = eps - k exp(-gamma loss) through the runs' errors (Gadre et al. 2024, equation 5), by least squares."""
    from scipy import optimize

    error = runs.more['error']
    known = np.isfinite(error)
    if known.sum() < 4:
        raise UserError(f'downstream law: {int(known.sum())} runs have an error; it takes at least 4')
    loss, error = runs.loss[known], error[known]

    def residual(theta: np.ndarray) -> np.ndarray:
        return theta[0] - np.exp(theta[1] - theta[2] * (loss - loss.mean())) - error

    tries = [
        optimize.least_squares(residual, [error.max() + 0.02, math.log(max(1e-3, np.ptp(error))), gamma])
        for gamma in (0.3, 1.0, 3.0)
    ]
    best = min(tries, key=lambda one: one.cost)
    eps, level, gamma = (float(value) for value in best.x)
    return {
        'eps': eps,
        'k': math.exp(level + gamma * float(loss.mean())),
        'gamma': gamma,
        'rms_error': float(np.sqrt(2 * best.cost / len(loss))),
        'runs': len(loss),
    }
