"""Curves of one variable: the broken law, the posterior over curves, tables of curves."""

import csv

import numpy as np
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import broken_law, curve_posterior, curves
from gpt_jax.scaling.law_terms import LogData

BREAKS = [
    {'E': 0.3, 'A': 2.0, 'c0': 0.02, 'c1': 0.4, 'd': 1e8, 'f': 0.7},
    {'E': 1.2, 'A': 900.0, 'c0': 0.45, 'c1': -0.2, 'd': 4e7, 'f': 1.0},
]


def compute_loss(constants, x):
    c = constants
    return c['E'] + c['A'] * x ** -c['c0'] * (1 + (x / c['d']) ** (1 / c['f'])) ** (
        -c['c1'] * c['f']
    )


@pytest.mark.parametrize('truth', BREAKS, ids=['steeper', 'flatter'])
def test_broken_law_is_recovered(truth):
    x = np.geomspace(1e6, 1e10, 20)
    law = broken_law.fit_broken_law(x, compute_loss(truth, x))
    assert law.constants == pytest.approx(truth, rel=1e-4)
    assert broken_law.predict_loss(law, 1e11) == pytest.approx(compute_loss(truth, 1e11), rel=1e-6)


def test_gradients_equal_finite_differences():
    z = np.linspace(-4, 3, 9)
    broken = np.array([0.1, 0.05, 0.4, -1.0, -0.3, -0.8])
    data = LogData(z, z, z, z)
    cases = [
        (broken, lambda theta: broken_law.predict_broken(theta, data)),
        (
            np.array([0.1, -3.0, -0.9, -1.0, -0.3, -0.8]),
            lambda t: curve_posterior.predict_curve(t, z),
        ),
        (np.array([0.1, -1.2, -0.8]), lambda t: curve_posterior.predict_curve(t, z)),
    ]
    for theta, predict in cases:
        for row, step in zip(predict(theta)[1], 1e-6 * np.eye(len(theta)), strict=True):
            difference = (predict(theta + step)[0] - predict(theta - step)[0]) / 2e-6
            np.testing.assert_allclose(row, difference, rtol=1e-5, atol=1e-9)


def test_too_few_sizes_are_refused():
    x = np.geomspace(1, 9, 6)
    with pytest.raises(UserError, match='6 sizes cannot determine 6 constants'):
        broken_law.fit_broken_law(x, 1 / x)
    with pytest.raises(UserError, match='at least 5 distinct x on a curve, got 4'):
        curve_posterior.fit_curve_posterior(x[:4], 1 / x[:4])


def test_intervals_of_curves_contain_new_points():
    """Curves with a break, twice as far as their data; 20 of them, of known noise."""
    rng = np.random.default_rng(0)
    inside, errors, widths = [], [], []
    for _ in range(20):
        c = {
            'E': rng.uniform(0.1, 0.6),
            'A': 1.0,
            'c0': rng.uniform(0, 0.05),
            'c1': rng.uniform(0.2, 0.6),
            'd': 10 ** rng.uniform(7, 8),
            'f': rng.uniform(0.5, 1.2),
        }
        x = np.geomspace(4e6, 1e9, 25)
        noisy = lambda x, c=c: compute_loss(c, x) * np.exp(0.01 * rng.standard_normal(np.shape(x)))
        posterior = curve_posterior.fit_curve_posterior(x, noisy(x))
        loss, low, high = posterior.predict(2e9).compute_quantiles(0.5, 0.025, 0.975)
        inside.append(low <= noisy(2e9) <= high)
        errors.append(abs(np.log(loss / compute_loss(c, 2e9))))
        widths.append(np.log(high / low))
    assert sum(inside) >= 18
    assert np.median(errors) < 0.015
    assert np.median(widths) < 0.15


def test_units_of_x_do_not_matter():
    x = np.geomspace(1e6, 1e9, 12)
    loss = compute_loss(BREAKS[0], x)
    one = curve_posterior.fit_curve_posterior(x, loss).predict(4e9)
    other = curve_posterior.fit_curve_posterior(x / 1e6, loss).predict(4e3)
    quantiles = [p.compute_quantiles(0.025, 0.5, 0.975) for p in (one, other)]
    np.testing.assert_allclose(*quantiles, rtol=1e-6)


def write_table(path, rows):
    with open(path, 'w', newline='') as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def make_rows():
    x = np.geomspace(1e6, 1e9, 16)
    return [
        {'task': task, 'Seen Examples': value, 'Loss': loss, 'Training': int(value < 3e8)}
        for task, truth in zip('ab', BREAKS, strict=True)
        for value, loss in zip(x, compute_loss(truth, x), strict=True)
    ]


def read(path, **changed):
    options = {'over': 'D', 'group': ('task',), 'split': 'Training'}
    columns = {'Seen Examples': 'tokens', 'Loss': 'loss'}
    return curves.read_curves(path, **(options | {'columns': columns} | changed))


def test_curves_of_a_table_are_scored(tmp_path):
    found = read(write_table(tmp_path / 'curves.csv', make_rows()))
    assert [curve.name for curve in found] == ['a', 'b']
    assert [int((~curve.is_fitted).sum()) for curve in found] == [3, 3]
    rows = curves.summarize_scores(curves.score_curves(found, ('auto', 'broken', 'power')))
    by_law = {row['law']: row for row in rows}
    assert by_law['broken']['rms'] < 1e-3  # the law is true
    assert by_law['auto']['rms'] < by_law['power']['rms']
    assert by_law['auto']['inside'] == 1
    assert by_law['auto']['curves'] == 2
    assert np.isnan(by_law['power']['inside'])


def test_without_a_split_the_largest_x_are_forecast(tmp_path):
    found = read(write_table(tmp_path / 'curves.csv', make_rows()), split='', group=())
    assert len(found) == 1
    scores = curves.score_curves(found, ('power',))
    assert [score.factor > factor * 0.99 for score, factor in zip(scores, (2, 4, 8), strict=True)]
    assert [score.fitted + score.points for score in scores] == [32, 32, 32]


@pytest.mark.parametrize(
    ('column', 'value', 'message'),
    [
        ('Training', 'maybe', r"row 2: Training must be 1 .* got 'maybe'"),
        ('Loss', '-1', 'row 2: tokens and loss must be above zero'),
        ('Loss', 'x', "row 2: loss is 'x', not a number"),
    ],
)
def test_cells_that_cannot_be_read_are_named(tmp_path, column, value, message):
    rows = make_rows()
    rows[1][column] = value
    with pytest.raises(UserError, match=message):
        read(write_table(tmp_path / 'curves.csv', rows))


def test_missing_columns_are_named(tmp_path):
    path = write_table(tmp_path / 'curves.csv', make_rows())
    with pytest.raises(UserError, match=r"no column 'model'; the columns are: task, Seen Examples"):
        read(path, group=('model',))
