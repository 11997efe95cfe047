"""Laws in which N and D act on each other, and experts: gradients, recovery, limits, refusals."""

import numpy as np
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import law_posterior, parametric_fit, rollouts
from gpt_jax.scaling.coupled_forms import COUPLED_FORMS, expand_by_experts
from gpt_jax.scaling.law_forms import LAW_FORMS, LogData, has_optimal_split
from tests.scaling import synthetic


def make_data(rng, theta=None, law='', count=60):
    """Runs of random sizes, lengths and experts; their loss by the law, if there is one."""
    n, d = rng.uniform(16, 21.5, count), rng.uniform(19, 25, count)
    total = n + np.log1p(rng.choice([0, 2, 10, 60], count))
    data = LogData(n, d, d, n, total)
    return data if theta is None else data._replace(log_loss=LAW_FORMS[law].predict(theta, data)[0])


def draw_theta(law, rng):
    """Random constants, with terms of the size of the irreducible loss at 1e8 on 2e9 tokens."""
    e, (alpha, beta) = np.log(rng.uniform(1.2, 2.2)), rng.uniform(0.22, 0.5, 2)
    a, b = np.log(rng.uniform(0.3, 1.0, 2)) + np.array([alpha, beta]) * np.log([1e8, 2e9])
    if law == 'skaling':
        return np.array([e, a, b, alpha, beta, np.log(rng.uniform(0.3, 0.9))])
    if law == 'interaction':
        return np.array([e, a, b, alpha, beta, rng.uniform(-0.4, 1)])
    if law == 'kaplan_offset':
        ratio = alpha / beta
        return np.array([e, ratio * np.log(1e8) - 1, np.log(2e9) - 1, ratio, beta])
    if law == 'farseer':
        level = beta * np.log(2e9) - rng.uniform(0, 1)
        slope = rng.uniform(-0.03, 0.03)
        floor = [e - 0.3, -rng.uniform(0.02, 0.08), rng.uniform(0.05, 0.15)]
        return np.array([*floor, level, slope * beta * 21, 0.1, beta, slope, 0.1])
    return np.array([e, a, b, alpha, beta, 0.2, 0.02, 0.02, 0.001, np.log(rng.uniform(30, 200))])


@pytest.mark.parametrize('law', list(COUPLED_FORMS))
def test_gradients_equal_finite_differences(law):
    rng = np.random.default_rng(0)
    form, data, theta = LAW_FORMS[law], make_data(rng), draw_theta(law, rng)
    _, gradient = form.predict(theta, data)
    assert gradient.shape == (len(theta), len(data.n)) == (len(form.bounds), 60)
    for row, step in zip(gradient, 1e-6 * np.eye(len(theta)), strict=True):
        up, down = (form.predict(theta + s, data)[0] for s in (step, -step))
        np.testing.assert_allclose(row, (up - down) / 2e-6, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('law', list(COUPLED_FORMS))
def test_pack_and_unpack_are_inverse(law):
    form, theta = LAW_FORMS[law], draw_theta(law, np.random.default_rng(1))
    np.testing.assert_allclose(form.pack(form.unpack(theta)), theta, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('law', list(COUPLED_FORMS))
def test_laws_of_random_constants_are_found(law):
    rng = np.random.default_rng(2)
    theta = draw_theta(law, rng)
    data = make_data(rng, theta, law)
    fitted = parametric_fit.fit_parametric_law(law, data, tries=6)
    assert fitted.objective < 1e-9
    # At ten times the largest N and D.
    further = data._replace(n=data.n + 2.3, d=data.d + 2.3, total=data.total + 2.3)
    truth, _ = LAW_FORMS[law].predict(theta, further)
    np.testing.assert_allclose(fitted.predict_data(further), truth, atol=1e-4)


def test_published_formulas_are_what_is_computed():
    n, d = 3e8, 2e10
    data = LogData(*np.log([[n], [d], [d], [2.0]]), np.log([8 * n]))

    def loss(law, **constants):
        return parametric_fit.from_constants(law, constants).predict(n, d, None, 8 * n)

    assert loss('skaling', E=1.7, A=20.0, R=3.0, alpha=0.5, beta=0.4, k=0.6) == pytest.approx(
        1.7 + 20 * (n**-0.5 + 3 * d**-0.4) ** 0.6
    )
    assert loss('interaction', E=1.7, A=90.0, B=80.0, alpha=0.3, beta=0.2, G=0.4) == pytest.approx(
        1.7 + 90 / n**0.3 + 80 / d**0.2 + 0.4 * 90 / n**0.3 * 80 / d**0.2
    )
    farseer = {'a3': -0.5, 'gamma': 0.05, 'b3': 2.0, 'a2': 20.0, 'beta': -0.1, 'b2': 2.0}
    farseer |= {'a1': 0.1, 'alpha': 0.05, 'b1': -1.5}
    exponent = np.exp(0.1 * n**0.05 - 1.5)
    assert loss('farseer', **farseer) == pytest.approx(
        np.exp(-0.5 * n**0.05 + 2) + np.exp(20 * n**-0.1 + 2) * d**-exponent
    )
    assert loss('kaplan_offset', E=1.0, Nc=1e13, Dc=2e13, alphaN=0.08, alphaD=0.1) == pytest.approx(
        1 + ((1e13 / n) ** 0.8 + 2e13 / d) ** 0.1
    )
    log_s = float(expand_by_experts(data, np.log(50.0))[0][0])
    assert log_s == pytest.approx(-np.log(1 / (8 - 1 + 1 / (1 - 1 / 50)) + 1 / 50))
    c = {'E': 1.5, 'A': 200.0, 'B': 300.0, 'alpha': 0.3, 'beta': 0.28, 'delta': -0.4}
    c |= {'gamma': -0.01, 'omega': 0.02, 'zeta': 0.003, 'M': 50.0}
    by_n = 200 * np.exp(-0.4 * log_s) / n ** (0.3 - 0.01 * log_s)
    by_d = 300 * np.exp(0.02 * log_s) / d ** (0.28 + 0.003 * log_s)
    assert loss('experts', **c) == pytest.approx(1.5 + by_n + by_d)


def test_skaling_is_the_law_of_the_posterior_and_dense_experts_are_chinchilla():
    rng = np.random.default_rng(3)
    data, theta = make_data(rng), draw_theta('skaling', rng)
    loss, gradient = LAW_FORMS['skaling'].predict(theta, data)
    expected, slope = law_posterior.predict_law(theta, np.stack([data.n, data.d], axis=1))
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    np.testing.assert_allclose(gradient, slope.T, atol=1e-10)
    theta = draw_theta('experts', rng)
    dense, _ = LAW_FORMS['experts'].predict(theta, data._replace(total=data.n))
    plain, _ = LAW_FORMS['chinchilla'].predict(theta[:5], data)
    np.testing.assert_allclose(dense, plain, rtol=1e-12)


def test_experts_need_the_column_of_all_parameters():
    data = parametric_fit.to_log_data(synthetic.grid())
    with pytest.raises(UserError, match=r'params_total must be larger .*--count=active'):
        parametric_fit.fit_parametric_law('experts', data)


def test_only_sums_of_a_term_in_n_and_one_in_d_have_an_optimal_split():
    with_split = {
        law
        for law, form in LAW_FORMS.items()
        if has_optimal_split(form.unpack(np.full(len(form.bounds), 0.5)))
    }
    assert with_split == {'chinchilla', 'tied', 'repeated'}


def test_all_laws_are_those_that_the_columns_allow():
    grid = synthetic.grid(4, 4)
    assert set(rollouts.list_laws(grid)) == {'auto', *LAW_FORMS} - {'repeated', 'experts'}
    more = synthetic.runs(
        grid.params,
        grid.tokens,
        grid.loss,
        unique_tokens=grid.tokens / 2,
        params_total=8 * grid.params,
    )
    assert set(rollouts.list_laws(more)) == {'auto', *LAW_FORMS}
