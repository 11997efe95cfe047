"""Laws over parameters and tokens: known and published laws are recovered."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import (
    compute_optimal,
    downstream,
    law_forms,
    outliers,
    parametric_fit,
    profiles,
    runs,
)
from tests.scaling import synthetic

CASES = Path(__file__).parents[3] / 'shared' / 'cases'


def case(name):
    if not (CASES / name).exists():
        pytest.skip(f'{name} is not available')
    return str(CASES / name)


@pytest.mark.parametrize('law', ['chinchilla', 'tied', 'kaplan', 'repeated'])
def test_gradients_equal_finite_differences(law):
    random = np.random.default_rng(0)
    n, d = random.uniform(12, 22, 30), random.uniform(16, 26, 30)
    given = law_forms.LogData(n, d, d - random.uniform(0.01, 2, 30), random.uniform(0.7, 1.2, 30))
    theta = {
        'chinchilla': [0.6, 6.0, 7.0, 0.34, 0.3],
        'tied': [0.6, 6.0, 7.0, 0.32],
        'kaplan': [20.0, 28.0, 0.8, 0.1],
        'repeated': [0.6, 6.0, 7.0, 0.34, 0.3, 2.7, 1.7],
    }[law]
    form, theta = law_forms.LAW_FORMS[law], np.array(theta)
    loss, gradient = form.predict(theta, given)
    assert loss.shape == n.shape
    # Of 'repeated' the gradient is by the half-lives alone.
    moved = range(len(theta)) if law != 'repeated' else (5, 6)
    for row, i in zip(gradient, moved, strict=True):
        step = np.zeros_like(theta)
        step[i] = 1e-6
        difference = (
            form.predict(theta + step, given)[0] - form.predict(theta - step, given)[0]
        ) / 2e-6
        np.testing.assert_allclose(row, difference, rtol=1e-4, atol=1e-7)


def test_pack_and_unpack_are_inverse():
    for law in ('chinchilla', 'tied', 'kaplan', 'repeated'):
        form = law_forms.LAW_FORMS[law]
        named = {
            'E': 1.5,
            'A': 300.0,
            'B': 900.0,
            'alpha': 0.3,
            'beta': 0.3,
            'R_D': 15.0,
            'R_N': 5.0,
            'Nc': 8.8e13,
            'Dc': 5.4e13,
            'alphaN': 0.076,
            'alphaD': 0.095,
        }
        back = form.unpack(form.pack(named))
        assert back == pytest.approx({name: named[name] for name in back}), law


def test_known_law_is_recovered():
    fitted = parametric_fit.fit_parametric_law(
        'chinchilla', parametric_fit.to_log_data(synthetic.grid()), tries=24
    )
    assert fitted.constants == pytest.approx(synthetic.TRUTH, rel=1e-3)
    assert fitted.objective < 1e-9


def test_tied_and_kaplan_laws_are_recovered():
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e6, 1e10, 9), np.geomspace(1e8, 1e12, 9)))
    tied = {'E': 1.7, 'A': 200.0, 'B': 300.0, 'alpha': 0.28, 'beta': 0.28}
    fitted = parametric_fit.fit_parametric_law(
        'tied', parametric_fit.to_log_data(synthetic.runs(n, d, synthetic.loss(n, d, tied)))
    )
    assert fitted.constants == pytest.approx(tied, rel=1e-3)
    kaplan = {'Nc': 6.4e13, 'Dc': 1.8e13, 'alphaN': 0.076, 'alphaD': 0.103}
    losses = (
        (kaplan['Nc'] / n) ** (kaplan['alphaN'] / kaplan['alphaD']) + kaplan['Dc'] / d
    ) ** kaplan['alphaD']
    fitted = parametric_fit.fit_parametric_law(
        'kaplan', parametric_fit.to_log_data(synthetic.runs(n, d, losses))
    )
    assert fitted.constants == pytest.approx(kaplan, rel=0.02)
    assert fitted.predict(n, d) == pytest.approx(losses, rel=1e-4)


@pytest.mark.parametrize('given', [True, False], ids=['base given', 'base fitted'])
def test_repeated_law_is_recovered(given):
    truth = synthetic.TRUTH | {'R_D': 15.4, 'R_N': 5.3}
    form = law_forms.LAW_FORMS['repeated']
    rows = []
    for n, unique, epochs in itertools.product(
        np.geomspace(1e7, 1e10, 6), np.geomspace(1e8, 1e11, 4), (1, 2, 4, 16, 64)
    ):
        rows.append((n, unique * epochs, unique))
    n, d, unique = np.array(rows).T
    log_loss, _ = form.predict(
        form.pack(truth), law_forms.LogData(np.log(n), np.log(d), np.log(unique), np.log(n))
    )
    made = synthetic.runs(n, d, np.exp(log_loss), unique_tokens=unique)
    fitted = parametric_fit.fit_parametric_law(
        'repeated', parametric_fit.to_log_data(made), constants=truth if given else None
    )
    assert fitted.constants['R_D'] == pytest.approx(15.4, rel=0.02)
    assert fitted.constants['R_N'] == pytest.approx(5.3, rel=0.02)
    assert fitted.constants['alpha'] == pytest.approx(truth['alpha'], rel=0.01)


def test_runs_of_many_epochs_off_the_law_do_not_bend_the_base_law():
    plain = synthetic.grid(4, 4, noise=0.003)
    n, unique = np.tile(np.geomspace(1e7, 1e9, 8), 6), np.repeat(np.geomspace(2e8, 2e9, 6), 8)
    worse = synthetic.loss(n, 20 * unique) * (n / 1e7) ** 0.04
    fitted = parametric_fit.fit_parametric_law(
        'repeated',
        parametric_fit.to_log_data(
            synthetic.runs(
                np.append(plain.params, n),
                np.append(plain.tokens, 300 * unique),
                np.append(plain.loss, worse),
                unique_tokens=np.append(plain.tokens, unique),
            )
        ),
    )
    loss = fitted.predict(1e11, 1e13)
    assert loss == pytest.approx(synthetic.loss(1e11, 1e13), rel=0.02)


def test_too_few_runs_are_rejected():
    with pytest.raises(UserError, match='cannot determine 5 constants'):
        parametric_fit.fit_parametric_law(
            'chinchilla', parametric_fit.to_log_data(synthetic.grid(2, 2))
        )


def test_synthetic_case():
    fitted = parametric_fit.fit_parametric_law(
        'chinchilla', parametric_fit.to_log_data(runs.read_runs(case('synth_exact_visible.csv')))
    )
    assert fitted.constants['E'] == pytest.approx(1.9, rel=1e-3)
    assert fitted.constants['alpha'] == pytest.approx(0.31, rel=1e-3)
    assert fitted.constants['beta'] == pytest.approx(0.34, rel=1e-3)
    assert fitted.constants['A'] == pytest.approx(300, rel=0.01)
    assert fitted.constants['B'] == pytest.approx(900, rel=0.01)


def test_table_of_gadre_et_al_is_reproduced():
    """With squares of the loss itself; A = a 6^-eta, since C = 6 N D."""
    fitted_rows = runs.read_runs(case('runs/gadre_rpj.csv'), where='split=fit')
    fitted = parametric_fit.fit_parametric_law(
        'tied', parametric_fit.to_log_data(fitted_rows), delta=np.inf, residual='loss'
    )
    eta = fitted.constants['alpha'] / 2
    assert eta == pytest.approx(0.13643, abs=1e-5)
    assert fitted.constants['A'] * 6**eta == pytest.approx(212.24, abs=0.01)
    assert fitted.constants['B'] * 6**eta == pytest.approx(366.69, abs=0.01)
    assert fitted.constants['E'] == pytest.approx(1.83665, abs=1e-5)
    targets = runs.read_runs(case('runs/gadre_rpj.csv'), where='split=target')
    error = fitted.predict(targets.params, targets.tokens) / targets.loss - 1
    assert np.abs(error) == pytest.approx(0.007, abs=0.0005)
    with_errors = runs.read_runs(case('runs/gadre_rpj.csv'), where='split=fit,fit_error_only')
    result = downstream.fit_downstream(with_errors, draws=0, seed=0)
    assert [result['eps'], result['k'], result['gamma']] == pytest.approx(
        [0.857, 2.21, 0.715], rel=2e-3
    )


@pytest.mark.parametrize('residual', ['log', 'loss'])
@pytest.mark.parametrize('delta', [1e-3, np.inf])
def test_known_law_is_recovered_by_every_loss_function(residual, delta):
    data = parametric_fit.to_log_data(synthetic.grid())
    fitted = parametric_fit.fit_parametric_law(
        'chinchilla', data, tries=6, delta=delta, residual=residual
    )
    assert fitted.constants == pytest.approx(synthetic.TRUTH, rel=1e-3)
    profile = profiles.profile_constant(fitted, data, 'E')
    assert profile['low'] <= synthetic.TRUTH['E'] * 1.001
    assert profile['high'] >= synthetic.TRUTH['E'] * 0.999


def test_chinchilla_refit_of_epoch_is_reproduced():
    read = runs.read_runs(case('chinchilla_epoch245.csv'), drop_highest=5)
    kept = outliers.drop_outliers('chinchilla', read, delta=1e-3)
    assert len(kept) == 240, kept.left_out
    fitted = parametric_fit.fit_parametric_law('chinchilla', parametric_fit.to_log_data(kept))
    assert fitted.objective <= 1.0190e-3
    assert fitted.constants['alpha'] == pytest.approx(0.3473, abs=0.0015)
    assert fitted.constants['beta'] == pytest.approx(0.3668, abs=0.0025)
    assert fitted.constants['E'] == pytest.approx(1.8172, abs=0.002)
    assert fitted.constants['A'] == pytest.approx(478, rel=0.02)
    assert fitted.constants['B'] == pytest.approx(2130, rel=0.035)
    n, d = compute_optimal.compute_split(fitted.constants).at(5.88e23)
    assert 17 < d / n < 19.5
