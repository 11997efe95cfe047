"""Forecasts of curves of one variable, by our laws and the estimators M1 to M4.

python experiments/forecast_backtests/curves.py FILE.csv ... --output=curves.jsonl

Each file has the columns Domain, Task, Model (a curve), `Seen Examples` (or seen_examples), Loss
(or loss) and Training: 1 is fitted, 0 is forecast. Prints the mean over the curves of the root mean
square of log(forecast / measured), and for law auto the share of points inside their 95% interval.

M1 to M4 are those of Alabdulmohsin et al. 2022, each by least squares on logarithms:

    M1  L = beta x^c                M3  L = beta (1/x + gamma)^-c
    M2  L - E = beta x^c            M4  (L - E) / (L0 - L)^alpha = beta x^c

M1 and M3 are solved; M2 and M4 by the authors' alternation, with other numbers of steps.
"""

import argparse
import math
import sys
from pathlib import Path

import numpy as np
from scipy import optimize

sys.path.insert(0, str(Path(__file__).parents[2]))

from gpt_jax.core import files
from gpt_jax.scaling import curves
from gpt_jax.scaling.curves import CurveScore, Forecast
from gpt_jax.scaling.report.terminal import format_curve_scores

LAWS = ('auto', 'power', 'broken', 'ladder')
MARGIN = 1e-3  # of E below the lowest loss, and of L0 above the highest
GRID = 60
TURNS, NEWTON_STEPS = 1000, 20  # of M2 and M4


def solve(columns: list[np.ndarray], target: np.ndarray, *, positive: bool = False):
    """Return the coefficients of a linear regression and the sum of its squared residuals."""
    design = np.stack(columns, axis=1)
    if positive:
        coefficients, norm = optimize.nnls(design, target)
        return coefficients, norm**2
    coefficients, *_ = np.linalg.lstsq(design, target, rcond=None)
    return coefficients, float(((design @ coefficients - target) ** 2).sum())


def fit_m1(x: np.ndarray, loss: np.ndarray, floor: float = 0.0) -> Forecast:
    ones, z = np.ones_like(x), np.log(x)
    (log_beta, c), _ = solve([ones, z], np.log(loss - floor))
    return lambda new: floor + np.exp(log_beta + c * np.log(new))


def fit_m2(x: np.ndarray, loss: np.ndarray) -> Forecast:
    floor, *_ = alternate(x, loss, with_top=False)
    return fit_m1(x, loss, floor)


def fit_m3(x: np.ndarray, loss: np.ndarray) -> Forecast:
    ones, scale = np.ones_like(x), x.max()

    def solve_given(log_gamma: float):
        return solve([ones, np.log(scale / x + math.exp(log_gamma))], np.log(loss))

    log_gamma = minimize(lambda value: solve_given(value)[1], -12.0, 6.0)
    log_beta, c = solve_given(log_gamma)[0]
    return lambda new: np.exp(log_beta + c * np.log(scale / new + math.exp(log_gamma)))


def fit_m4(x: np.ndarray, loss: np.ndarray) -> Forecast:
    floor, top, log_beta, c, alpha = alternate(x, loss, with_top=True)

    def predict(new: np.ndarray) -> np.ndarray:
        targets = log_beta - c * np.log(new)
        grid = np.linspace(floor + 1e-9, top - 1e-9, 10_001)
        rising = np.log(grid - floor) - alpha * np.log(top - grid)
        return np.interp(targets, rising, grid)

    return predict


def alternate(x: np.ndarray, loss: np.ndarray, *, with_top: bool) -> tuple[float, ...]:
    """Fit M2, or M4 with `with_top`: (E, L0, log beta, c, alpha), by turns.

    As the authors do: a regression given E and L0, damped Newton steps for E and L0 given the rest,
    from E just below the lowest loss and L0 = 1, which is also the L0 in the regression.
    """
    ones, z = np.ones_like(x), np.log(x)
    floor, top = loss.min() - MARGIN, max(1.0, loss.max() + MARGIN)
    columns = [ones, -z, *([np.log(top - loss)] if with_top else [])]
    last = math.inf
    for _ in range(TURNS):
        coefficients, _ = solve(columns, np.log(loss - floor), positive=with_top)
        log_beta, c, alpha = [*coefficients, 0.0][:3]
        for _ in range(NEWTON_STEPS):
            residual = np.log(loss - floor) - alpha * np.log(top - loss) - log_beta + c * z
            curvature = ((1 - residual) / (loss - floor) ** 2).mean()
            floor += 0.1 * (residual / (loss - floor)).mean() / curvature
            floor = min(max(floor, 0.0), loss.min() - MARGIN)
            curvature = alpha * ((alpha + residual) / (top - loss) ** 2).mean()
            if with_top and abs(curvature) > 1e-5:
                top += 0.1 * alpha * (residual / (top - loss)).mean() / curvature
                top = max(top, loss.max() + MARGIN)
        if abs(math.exp(log_beta) - last) < 1e-10:
            break
        last = math.exp(log_beta)
    return floor, top, log_beta, c, alpha


def minimize(function, low: float, high: float) -> float:
    """Minimize a function of one variable with several minima: a grid, then Brent's method."""
    grid = np.linspace(low, high, GRID)
    best = int(np.argmin([function(value) for value in grid]))
    bounds = grid[max(best - 1, 0)], grid[min(best + 1, GRID - 1)]
    return float(optimize.minimize_scalar(function, bounds=bounds, method='bounded').x)


ESTIMATORS = {'M1': fit_m1, 'M2': fit_m2, 'M3': fit_m3, 'M4': fit_m4}


def score_estimators(read: list[curves.Curve]) -> list[CurveScore]:
    scores = []
    for name, fit in ESTIMATORS.items():
        for curve in read:
            fitted = curve.is_fitted
            x, reached = curve.x[fitted], curve.loss[~fitted]
            error = np.log(fit(x, curve.loss[fitted])(curve.x[~fitted]) / reached)
            rms = float(np.sqrt((error**2).mean()))
            factor, counts = float(curve.x.max() / x.max()), (len(x), len(reached))
            scores.append(CurveScore(name, curve.name, factor, *counts, rms, math.nan, math.nan))
    return scores


if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('files', nargs='+', metavar='FILE.csv')
    parser.add_argument('--output', metavar='PATH', help='the score of every curve')
    flags = parser.parse_args()
    rows = []
    for path in flags.files:
        header = Path(path).read_text().splitlines()[0]
        columns = {'Seen Examples': 'tokens', 'Loss': 'loss'}
        if 'Seen Examples' not in header:
            columns = {'seen_examples': 'tokens'}
        read = curves.read_curves(
            path, over='D', group=('Domain', 'Task', 'Model'), split='Training', columns=columns
        )
        scores = [*curves.score_curves(read, LAWS), *score_estimators(read)]
        print(f'\n{path}: {len(read)} curves')
        print('\n'.join(format_curve_scores(curves.summarize_scores(scores))))
        rows += [{'file': Path(path).stem, **score._asdict()} for score in scores]
    if flags.output:
        files.write_jsonl(Path(flags.output), rows)
