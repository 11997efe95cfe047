"""Are what is trained and what is kept together the model, to the bit, in every form?"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax import assemble, pretrained, trees
from gpt_jax.errors import UserError
from gpt_jax.finetune import split
from gpt_jax.finetune.config import TuneConfig
from gpt_jax.finetune.split import Layers
from gpt_jax.model import lowrank, weights
from gpt_jax.model.gpt import unstack
from gpt_jax.model.lowrank import Adapter, Base

PLAIN = {
    'train': (), 'freeze': (), 'layer_decay': 1.0, 'rank': 0, 'alpha': 16.0, 'targets': ('query', 'value'),
    'dropout': 0.0, 'rank_stabilized': False,
}  # fmt: skip
WAYS = {
    'all': {},
    'a few': {'train': ('norm*', '*bias')},
    'upper layers': {'train': ('blocks[2:]', 'norm')},
    'scattered layers': {'freeze': ('blocks[1]', 'blocks[3]/feedforward', 'embedding')},
    'lora': {'rank': 2},
    'lora and norms': {'rank': 2, 'targets': ('all-linear',), 'train': ('blocks[0:2]/norm_1', 'norm')},
}


def divided(config, **fields):
    plan = split.plan(TuneConfig(**PLAIN | fields), pretrained.letters_of(config), config.layers)
    params = weights.unbox(assemble.initial(config, jax.random.key(0)))
    return plan, params, *split.divide(params, plan, jax.random.key(1))


def same(one, other):
    assert trees.names(one) == trees.names(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('way', WAYS)
def test_both_parts_make_the_whole(model_config, way):
    config = model_config(layers=5)
    plan, params, trained, kept = divided(config, **WAYS[way])
    same(lowrank.without(split.whole(trained, kept)), params)
    apart = split.whole(split.apart(trained, 5), split.apart(kept, 5))
    same(lowrank.without(apart), unstack(params, 5))
    same(split.together(split.apart(trained, 5), 5, trained), trained)
    adapters = sum(leaf.size for leaf in jax.tree.leaves(trained)) if plan.rank else 0
    sizes = trees.size(trained), 0 if kept is None else trees.size(kept)
    if not plan.rank:
        assert sum(sizes) == trees.size(params)
    assert adapters == 0 or sizes[1] >= trees.size(params) - adapters
    trained_letters, kept_letters = split.letters_of(plan)
    for letters, tree in ((trained_letters, trained), (kept_letters, kept)):
        ranks = jax.tree.map(lambda word, leaf: len(word) == leaf.ndim, letters, tree)
        assert all(jax.tree.leaves(ranks))
        assert jax.tree.structure(letters) == jax.tree.structure(tree)


def test_where_all_is_trained_the_trees_are_as_ever(model_config):
    _, params, trained, kept = divided(model_config())
    assert kept is None
    assert jax.tree.structure(trained) == jax.tree.structure(params)


def test_what_stands_where(model_config):
    _, _, trained, kept = divided(model_config(layers=5), **WAYS['scattered layers'])
    up, query = trained['blocks']['feedforward']['up'], kept['blocks']['attention']['query']
    assert (up.layers, query.layers) == ((0, 2, 4), (1,))
    assert up.value.shape == (3, 32, 128)
    assert 'embedding' in kept
    assert 'embedding' not in trained
    _, _, trained, kept = divided(model_config(), rank=2)
    assert list(trained) == ['blocks']
    assert isinstance(trained['blocks']['attention']['query'], Adapter)
    base = kept['blocks']['attention']['query']
    assert isinstance(base, Base)
    assert base.scale.tolist() == [8.0, 8.0]


def test_numbers_for_an_optimizer_follow_the_layers_that_are_trained(model_config):
    plan, _, trained, _ = divided(model_config(layers=5), **WAYS['scattered layers'])
    paths = plan.letters
    each = {path: np.arange(5.0) if path.startswith('blocks') else 7.0 for path in paths}
    numbers = split.numbers_of(plan, each, {})
    up = numbers['blocks']['feedforward']['up']
    assert isinstance(up, Layers)
    assert up.value.ravel().tolist() == [0.0, 2.0, 4.0]
    products = jax.tree.map(lambda n, leaf: n * jnp.ones_like(leaf), numbers, trained)
    assert products['blocks']['feedforward']['up'].value[1].ravel().tolist() == [2.0] * (32 * 128)
    assert numbers['norm']['scale'] == 7.0


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'freeze': ('*',)}, 'config.tune.freeze: leaves nothing that is trained'),
        ({'train': ('nrom',)}, "config.tune.train: 'nrom' is no weight of this model; the nearest is 'norm'"),
        ({'freeze': ('embeding',)}, "config.tune.freeze: 'embeding' is no weight of this model"),
    ],
)
def test_what_cannot_be_trained_is_refused(model_config, fields, message):
    with pytest.raises(UserError) as error:
        divided(model_config(), **fields)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'rank': -1}, 'config.tune.rank: must be 0 (no adapters) or positive, got -1'),
        ({'rank': 2, 'targets': ()}, 'config.tune.targets: empty'),
        ({'alpha': 0.0}, 'config.tune.alpha: must be positive, got 0.0'),
        ({'dropout': 1.0}, 'config.tune.dropout: must be in [0, 1), got 1.0'),
        ({'layer_decay': 0.0}, 'config.tune.layer_decay: must be in (0, 1], got 0.0'),
        ({'train': (3,)}, 'config.tune.train: wants names of weights, got 3'),
    ],
)
def test_fields_that_make_no_sense(fields, message):
    with pytest.raises(UserError) as error:
        dataclasses.replace(TuneConfig(**PLAIN), **fields)
    assert str(error.value).startswith(message)
