"""Does each layer move at its own rate, under every optimizer?"""

import jax
import numpy as np
import pytest

from gpt_jax import assemble
from gpt_jax.finetune.rates import by_layer
from tests.train.test_step import rows


def test_rates_fall_from_the_top():
    found = by_layer(['embedding/table_VD', 'position/table', 'blocks/norm_1/bias', 'norm/scale', 'classes/w'], 3, 0.5)
    assert found['blocks/norm_1/bias'].tolist() == [0.125, 0.25, 0.5]
    assert found['embedding/table_VD'] == found['position/table'] == 0.0625
    assert found['norm/scale'] == found['classes/w'] == 1
    assert set(by_layer(['embedding/table_VD', 'blocks/norm_1/bias'], 3, 1.0).values()) == {1.0}


@pytest.mark.parametrize('name', ['adamw', pytest.param('sgd', marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    'tune', [{'rank': 2}, pytest.param({'freeze': ('blocks[1]/feedforward',)}, marks=pytest.mark.slow)], ids=str
)
def test_an_update_is_its_layers_share_of_what_it_would_be(settings, name, tune):
    """The first one, decay and all: later gradients differ."""
    common = {'model.layers': 3, 'optimizer.name': name, 'optimizer.warmup_fraction': 0.0}
    common |= {f'tune.{key}': value for key, value in tune.items()}
    moves = []
    for decay in (1.0, 0.5):
        s = settings(common | {'tune.layer_decay': decay})
        program = assemble.build(s)
        state = program.init()
        before = jax.device_get(state.params)
        state, _ = program.step(state, next(program.on_devices(rows(s, 1))))
        moves.append(jax.tree.map(lambda a, b: np.asarray(b) - a, before, state.params))
    full, share = moves
    if 'rank' in tune:
        expected = {('attention', 'query', 'b'): [0.125, 0.25, 0.5]}
        pick = lambda tree, path: getattr(tree['blocks'][path[0]][path[1]], path[2])  # noqa: E731
    else:
        np.testing.assert_allclose(share['norm']['scale'], full['norm']['scale'], atol=1e-6)
        np.testing.assert_allclose(share['position']['table'], 0.0625 * full['position']['table'], atol=1e-6)
        expected = {('attention', 'query'): [0.125, 0.25, 0.5], ('feedforward', 'up'): [0.125, 0.5]}
        pick = lambda tree, path: getattr(tree['blocks'][path[0]][path[1]], 'value', tree['blocks'][path[0]][path[1]])  # noqa: E731
    for path, factors in expected.items():
        a, b = pick(full, path), pick(share, path)
        assert np.abs(a).max() > 0
        np.testing.assert_allclose(b, a * np.reshape(factors, (-1, *[1] * (a.ndim - 1))), atol=1e-6)
