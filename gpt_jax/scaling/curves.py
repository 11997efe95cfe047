"""Forecasts of curves: many tables of (x, loss), such as the checkpoints of several runs.

Of each curve, the first points are fitted and the others forecast: those that a column says, or
those with x above 1/2, 1/4 and 1/8 of the largest x.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import broken_law, curve_posterior, power_law, rows
from gpt_jax.scaling.ladder_forecast import choose_law

LAWS = ('auto', 'power', 'broken', 'ladder')
FACTORS = (2, 4, 8)
TRAIN_WORDS, TEST_WORDS = (
    ('1', '1.0', 'true', 'train', 'fit'),
    ('0', '0.0', 'false', 'test', 'target'),
)
KNOTS = 12  # x of a forecast at which the distribution is evaluated; between them, interpolated
TAIL = 0.025
COLUMNS = {'N': 'params', 'D': 'tokens', 'C': 'flops'}

Forecast = Callable[[np.ndarray], np.ndarray]  # x [points] -> (loss, low, high) [points, 3]


class Curve(NamedTuple):
    """A curve.

    Attributes:
      name: of its group.
      x, loss: its points, [points].
      is_fitted: whether a point is fitted or forecast, [points]; None: the table does not say.
    """

    name: str
    x: np.ndarray
    loss: np.ndarray
    is_fitted: np.ndarray | None


class CurveScore(NamedTuple):
    """How good the forecasts of one curve by one law are.

    Attributes:
      law, name, factor: the law, the curve, and the largest x over the largest that was fitted.
      fitted, points: numbers of points fitted and forecast.
      rms: root mean square of log(forecast / measured).
      inside: share of the points inside their 95% interval; NaN without intervals.
      width: mean of log(high / low).
    """

    law: str
    name: str
    factor: float
    fitted: int
    points: int
    rms: float
    inside: float
    width: float


def read_curves(
    path: str, *, over: str, group: tuple[str, ...], split: str, columns: dict[str, str]
) -> list[Curve]:
    """Read the curves of a table.

    Args:
      path: a file that `table_formats.parse_table` reads.
      over: the variable, 'N', 'D' or 'C'.
      group: columns whose values together name a curve, by the file's own names.
      split: the column that says which points are fitted (1, train) or forecast (0, test), or ''.
      columns: {name in the file: name here}.

    Raises:
      UserError: a column is missing, or a cell is not a number above zero.
    """
    name = COLUMNS[over]
    table = rows.read_table(path, columns, '', '', (name, 'loss'))
    for column in (*group, *([split] if split else [])):
        if not any(column in row for row in table.given):
            names = ', '.join(dict.fromkeys(key for row in table.given for key in row))
            raise UserError(f'{path}: no column {column!r}; the columns are: {names}')
    points: dict[str, list[tuple[float, float, bool]]] = {}
    for number, (row, given) in enumerate(zip(table.rows, table.given, strict=True), 1):
        where = f'{path}: row {number}'
        x, loss = (
            rows.parse_number(row.get(key), f'{where}: {key}', is_count=key != 'loss')
            for key in (name, 'loss')
        )
        if not (x > 0 and loss > 0 and math.isfinite(x * loss)):
            raise UserError(f'{where}: {name} and loss must be above zero, got {x:g} and {loss:g}')
        is_fitted = _parse_split(str(given.get(split)).lower(), where, split) if split else True
        key = ' '.join(str(given.get(column)) for column in group) or path
        points.setdefault(key, []).append((x, loss, is_fitted))
    curves = []
    for key, triples in points.items():
        xs, losses, fitted = (np.array(column) for column in zip(*triples, strict=True))
        curves.append(Curve(key, xs, losses, fitted if split else None))
    return curves


def _parse_split(word: str, where: str, split: str) -> bool:
    if word not in TRAIN_WORDS + TEST_WORDS:
        raise UserError(f'{where}: {split} must be 1 (fitted) or 0 (forecast), got {word!r}')
    return word in TRAIN_WORDS


def fit_curve(law: str, x: np.ndarray, loss: np.ndarray) -> Forecast:
    """Fit a law to points; only 'auto' has intervals.

    Args:
      law: one of LAWS; 'ladder' is the rule of ladder_forecast.py.
      x, loss: [points].

    Raises:
      UserError: the points cannot determine the law.
    """
    if law == 'auto':
        posterior = curve_posterior.fit_curve_posterior(x, loss)

        def forecast(new: np.ndarray) -> np.ndarray:
            z = np.log(new)
            knots = np.unique(z)
            if len(knots) > KNOTS:
                knots = np.linspace(z.min(), z.max(), KNOTS)
            quantiles = np.log(
                [
                    posterior.predict(math.exp(knot)).compute_quantiles(0.5, TAIL, 1 - TAIL)
                    for knot in knots
                ]
            )
            return np.exp(np.stack([np.interp(z, knots, column) for column in quantiles.T], axis=1))

        return forecast
    predict: Callable[[np.ndarray], Any]
    if law == 'broken':
        broken = broken_law.fit_broken_law(x, loss)
        predict = lambda new: broken_law.predict_loss(broken, new)
    else:
        power = (
            choose_law(x, loss)
            if law == 'ladder'
            else power_law.fit_power_law(x, loss, with_irreducible=True)
        )
        predict = lambda new: power_law.predict_loss(power, new)
    return lambda new: np.stack([predict(new), *[np.full(len(new), np.nan)] * 2], axis=1)


def score_curves(
    curves: Iterable[Curve], laws: Iterable[str], note: Callable[[str], None] = lambda _: None
) -> list[CurveScore]:
    """Forecast the held-out points of every curve by every law.

    A law that the fitted points of a curve cannot determine has no score there.
    """
    scores = []
    for curve in curves:
        for is_fitted in _split_curve(curve):
            for law in laws:
                note(f'{curve.name}: {law}')
                x, loss = curve.x[is_fitted], curve.loss[is_fitted]
                try:
                    forecast = fit_curve(law, x, loss)
                except UserError:
                    continue
                reached = curve.loss[~is_fitted]
                predicted, low, high = forecast(curve.x[~is_fitted]).T
                inside = np.where(np.isnan(low), np.nan, (low <= reached) & (reached <= high))
                scores.append(
                    CurveScore(
                        law,
                        curve.name,
                        float(curve.x.max() / x.max()),
                        len(x),
                        len(reached),
                        float(np.sqrt(np.mean(np.log(predicted / reached) ** 2))),
                        float(inside.mean()),
                        float(np.log(high / low).mean()),
                    )
                )
    return scores


def _split_curve(curve: Curve) -> list[np.ndarray]:
    """Return masks of the points to fit, [points], each leaving some to forecast."""
    largest = curve.x.max()
    masks = (
        [curve.x <= largest / factor for factor in FACTORS]
        if curve.is_fitted is None
        else [curve.is_fitted]
    )
    return [mask for mask in masks if mask.any() and not mask.all()]


def summarize_scores(scores: list[CurveScore]) -> list[dict[str, Any]]:
    """Return for each law: law, curves, rms and its median and worst, inside, width (means)."""
    summary = []
    for law in dict.fromkeys(score.law for score in scores):
        own = [score for score in scores if score.law == law]
        rms = np.array([score.rms for score in own])
        points = np.array([score.points for score in own])
        summary.append(
            {
                'law': law,
                'curves': len(own),
                'rms': float(rms.mean()),
                'median_rms': float(np.median(rms)),
                'worst_rms': float(rms.max()),
                'inside': float(np.mean([score.inside for score in own])),
                'inside_points': float(np.average([s.inside for s in own], weights=points)),
                'width': float(np.mean([score.width for score in own])),
            }
        )
    return summary
