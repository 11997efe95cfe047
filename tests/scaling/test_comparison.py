"""The compute multiplier of two known recipes is recovered."""

import numpy as np
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import comparison
from tests.scaling import synthetic


def recipe(saves: float, low=1e17, high=1e21, noise=0.0, seed=0):
    """Runs of L = 1.7 + 200 (saves C)^-0.12, each with a worse run at the same compute."""
    flops = np.repeat(np.geomspace(low, high, 9), 2)
    loss = 1.7 + 200 * (saves * flops) ** -0.12
    loss *= np.exp(noise * np.random.default_rng(seed).standard_normal(flops.size))
    loss[1::2] *= 1.05
    params = np.sqrt(flops / 120)
    return synthetic.runs(params, flops / (6 * params), loss)


def test_multiplier_is_recovered_at_every_loss():
    result = comparison.compare_recipes(recipe(1.0), recipe(2.5), draws=10)
    assert result['warning'] == ''
    assert result['multiplier'] == pytest.approx([2.5] * len(result['loss']), rel=0.02)
    assert all(
        low <= 2.55 and high >= 2.45
        for low, high in zip(result['low'], result['high'], strict=True)
    )


def test_noise_widens_the_interval():
    result = comparison.compare_recipes(
        recipe(1.0, noise=0.004, seed=1), recipe(2.5, noise=0.004, seed=2), draws=40
    )
    middle = len(result['loss']) // 2
    assert result['low'][middle] < 2.5 < result['high'][middle]


def test_recipes_without_a_shared_loss_get_a_warning():
    result = comparison.compare_recipes(recipe(1.0, 1e15, 1e16), recipe(1.0, 1e19, 1e21), draws=2)
    assert 'this extrapolates' in result['warning']


def test_too_few_runs_are_rejected():
    few = recipe(1.0).take(np.arange(2))
    with pytest.raises(UserError, match='A: needs at least 3 runs on the envelope'):
        comparison.compare_recipes(few, recipe(1.0))


def test_outlier_does_not_change_the_multiplier():
    """A run of A with 0.7 times its loss is left out, and the multiplier is as without it."""
    n, d = np.meshgrid(np.geomspace(1e8, 3e10, 7), np.geomspace(1e9, 1e12, 6), indexing='ij')
    a = synthetic.runs(n.ravel(), d.ravel(), synthetic.loss(n.ravel(), d.ravel()))
    b = synthetic.runs(n.ravel(), d.ravel() / 2, synthetic.loss(n.ravel(), d.ravel()))
    clean = comparison.compare_recipes(a, b, draws=2)
    a.loss[20] *= 0.7
    result = comparison.compare_recipes(a, b, draws=2)
    assert [one['row'] for one in result['left_out'][0]] == [21]
    assert 'outlier' in result['left_out'][0][0]['reason']
    assert np.interp(3.0, clean['loss'], clean['multiplier']) == pytest.approx(
        np.interp(3.0, result['loss'], result['multiplier']), rel=0.1
    )
