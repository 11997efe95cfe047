"""Are approaches that differ beyond their intervals named, in exponent and at each budget?"""

from gpt_jax.scaling import splits


def approach(a, low, high, params):
    at = {'flops': 1e20, 'params': params, 'tokens': 1e20 / 6 / params, 'params_low': 0.9 * params}
    return {'a': a, 'a_interval': {'low': low, 'high': high}, 'at': [at | {'params_high': 1.1 * params}]}


def test_the_same_exponent_with_another_size_is_a_disagreement():
    said = splits._disagreements({'2': approach(0.5, 0.4, 0.6, 1e9), '3': approach(0.5, 0.4, 0.6, 2e9)})
    assert len(said) == 1
    assert 'N* and D* at 1e+20 FLOPs beyond their intervals: N* 1e+09 and 2e+09' in said[0]


def test_the_exponent_is_said_by_itself():
    said = splits._disagreements({'2': approach(0.5, 0.4, 0.6, 1e9), '3': approach(0.7, 0.65, 0.8, 1e9)})
    assert said == ['approaches 2 and 3 disagree on the exponent a beyond their intervals: 0.500 and 0.700']


def test_intervals_that_meet_agree():
    assert not splits._disagreements({'1': approach(0.5, 0.4, 0.6, 1e9), '3': approach(0.55, 0.5, 0.8, 1.1e9)})
