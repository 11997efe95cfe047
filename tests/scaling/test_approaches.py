"""The three approaches agree with a known law, and real disagreements are reported."""

import numpy as np
import pytest

from gpt_jax.scaling import analysis, compute_optimal
from gpt_jax.scaling.approaches import _find_disagreements
from tests.scaling import synthetic


def test_each_approach_finds_the_exponent():
    result = analysis.analyze_parametric(
        synthetic.isoflop(), which=('1', '2', '3'), draws=40, starts=16, at_flops=(1e23,)
    )
    truth = compute_optimal.compute_split(synthetic.TRUTH)
    for number, slack in (('1', 0.04), ('2', 0.005), ('3', 0.001)):
        assert result['approaches'][number]['a'] == pytest.approx(truth.a, abs=slack), number
    n, d = truth.at(1e23)
    at = result['approaches']['3']['at'][0]
    assert at['params'] == pytest.approx(float(n), rel=1e-3)
    assert at['tokens'] == pytest.approx(float(d), rel=1e-3)
    assert at['loss'] == pytest.approx(float(synthetic.loss(n, d)), rel=1e-5)
    assert result['disagreements'] == []


def approach(a, low, high, params):
    at = {'flops': 1e20, 'params': params, 'tokens': 1e20 / 6 / params, 'params_low': 0.9 * params}
    return {
        'a': a,
        'a_interval': {'low': low, 'high': high},
        'at': [at | {'params_high': 1.1 * params}],
    }


def test_same_exponent_with_another_size_is_a_disagreement():
    lines = _find_disagreements(
        {'2': approach(0.5, 0.4, 0.6, 1e9), '3': approach(0.5, 0.4, 0.6, 2e9)}
    )
    assert len(lines) == 1
    assert 'N* and D* at 1e+20 FLOPs beyond their intervals: N* 1e+09 and 2e+09' in lines[0]


def test_exponents_alone_can_disagree():
    lines = _find_disagreements(
        {'2': approach(0.5, 0.4, 0.6, 1e9), '3': approach(0.7, 0.65, 0.8, 1e9)}
    )
    assert lines == [
        'approaches 2 and 3 disagree on the exponent a beyond their intervals: 0.500 and 0.700'
    ]


def test_overlapping_intervals_agree():
    assert not _find_disagreements(
        {'1': approach(0.5, 0.4, 0.6, 1e9), '3': approach(0.55, 0.5, 0.8, 1.1e9)}
    )


def test_repeated_data_are_named_where_the_law_takes_them_for_new():
    runs = synthetic.grid(4, 4)
    repeated = synthetic.runs(
        runs.params, runs.tokens, runs.loss, unique_tokens=np.minimum(runs.tokens, 2e11)
    )
    options = {'draws': 0, 'starts': 4}
    assert not analysis.analyze_parametric(runs, **options)['notes']
    (note,) = analysis.analyze_parametric(repeated, **options)['notes']
    assert note.startswith('4 of the runs repeat their data')
