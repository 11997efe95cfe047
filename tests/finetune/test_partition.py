"""Trainable and frozen parameters together are the model, bitwise, stacked and unstacked."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.core import trees
from gpt_jax.core.config import FinetuneConfig
from gpt_jax.core.errors import UserError
from gpt_jax.finetune import partition
from gpt_jax.finetune.partition import LayerSubset, PartitionedParams
from gpt_jax.inference import pretrained
from gpt_jax.model import weights
from gpt_jax.model.gpt import unstack_layers
from gpt_jax.model.low_rank import Adapter, BaseWeight, remove_adapters
from gpt_jax.train import build

DEFAULTS = {
    'train': (),
    'freeze': (),
    'layer_decay': 1.0,
    'rank': 0,
    'alpha': 16.0,
    'targets': ('query', 'value'),
    'dropout': 0.0,
    'rank_stabilized': False,
}
CASES = {
    'all': {},
    'a few': {'train': ('norm*', '*bias')},
    'upper layers': {'train': ('blocks[2:]', 'norm')},
    'scattered layers': {'freeze': ('blocks[1]', 'blocks[3]/feedforward', 'embedding')},
    'lora': {'rank': 2},
    'lora and norms': {
        'rank': 2,
        'targets': ('all-linear',),
        'train': ('blocks[0:2]/norm_1', 'norm'),
    },
}


def partition_model(config, **fields):
    """Return (plan, the model's parameters, both parts)."""
    plan = partition.plan_partition(
        FinetuneConfig(**DEFAULTS | fields), pretrained.weight_letters(config), config.layers
    )
    params = weights.unbox(build.init_params(config, jax.random.key(0)))
    return plan, params, partition.partition(params, plan, jax.random.key(1))


def assert_trees_equal(actual, expected):
    assert trees.name_leaves(actual) == trees.name_leaves(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('case', CASES)
def test_both_parts_combine_to_the_model(model_config, case):
    config = model_config(layers=5)
    _, params, parts = partition_model(config, **CASES[case])
    assert_trees_equal(remove_adapters(partition.combine(parts)), params)
    unstacked = PartitionedParams(
        partition.unstack(parts.trainable, 5), partition.unstack(parts.frozen, 5)
    )
    combined = remove_adapters(partition.combine(unstacked))
    assert_trees_equal(combined, unstack_layers(params, 5))
    restacked = partition.stack(unstacked.trainable, 5, parts.trainable)
    assert_trees_equal(restacked, parts.trainable)


@pytest.mark.parametrize('case', CASES)
def test_parts_have_the_sizes_of_the_model(model_config, case):
    plan, params, parts = partition_model(model_config(layers=5), **CASES[case])
    trainable = trees.count_elements(parts.trainable)
    frozen = 0 if parts.frozen is None else trees.count_elements(parts.frozen)
    if plan.rank:  # what is trained itself is not frozen
        assert frozen >= trees.count_elements(params) - trainable
    else:
        assert trainable + frozen == trees.count_elements(params)


@pytest.mark.parametrize('case', CASES)
def test_logical_axes_have_the_structure_and_ranks_of_the_parts(model_config, case):
    plan, _, parts = partition_model(model_config(layers=5), **CASES[case])
    logical_axes = partition.partition_logical_axes(plan)
    assert jax.tree.structure(logical_axes) == jax.tree.structure(parts)
    ranks = jax.tree.map(lambda letters, leaf: len(letters) == leaf.ndim, logical_axes, parts)
    assert all(jax.tree.leaves(ranks))


def test_if_all_is_trained_the_trainable_tree_is_the_parameters(model_config):
    _, params, parts = partition_model(model_config())
    assert parts.frozen is None
    assert jax.tree.structure(parts.trainable) == jax.tree.structure(params)


def test_partly_frozen_stacks_are_in_both_trees(model_config):
    _, _, parts = partition_model(model_config(layers=5), **CASES['scattered layers'])
    up = parts.trainable['blocks']['feedforward']['up']
    query = parts.frozen['blocks']['attention']['query']
    assert (up.layers, query.layers) == ((0, 2, 4), (1,))
    assert up.value.shape == (3, 32, 128)
    assert 'embedding' in parts.frozen
    assert 'embedding' not in parts.trainable


def test_adapted_weights_are_an_adapter_and_a_base(model_config):
    _, _, parts = partition_model(model_config(), rank=2)
    assert list(parts.trainable) == ['blocks']
    assert isinstance(parts.trainable['blocks']['attention']['query'], Adapter)
    base = parts.frozen['blocks']['attention']['query']
    assert isinstance(base, BaseWeight)
    assert base.scale.tolist() == [8.0, 8.0]


def test_multipliers_follow_the_trained_layers(model_config):
    plan, _, parts = partition_model(model_config(layers=5), **CASES['scattered layers'])
    values = {
        path: np.arange(5.0) if path.startswith('blocks') else 7.0 for path in plan.logical_axes
    }
    multipliers = partition.make_trainable_multipliers(plan, values, {})
    up = multipliers['blocks']['feedforward']['up']
    assert isinstance(up, LayerSubset)
    assert up.value.ravel().tolist() == [0.0, 2.0, 4.0]
    broadcast = jax.tree.map(lambda m, leaf: m * jnp.ones_like(leaf), multipliers, parts.trainable)
    second_layer = broadcast['blocks']['feedforward']['up'].value[1]
    assert second_layer.ravel().tolist() == [2.0] * (32 * 128)
    assert multipliers['norm']['scale'] == 7.0


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'freeze': ('*',)}, 'config.finetune.freeze: must leave a trainable parameter, got none'),
        (
            {'train': ('nrom',)},
            "config.finetune.train: 'nrom' matches no parameter of the model; the nearest is "
            "'norm'",
        ),
        (
            {'freeze': ('embeding',)},
            "config.finetune.freeze: 'embeding' matches no parameter of the model",
        ),
    ],
)
def test_a_selection_that_is_empty_is_rejected(model_config, fields, message):
    with pytest.raises(UserError) as error:
        partition_model(model_config(), **fields)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'rank': -1}, 'config.finetune.rank: must be 0 or more, got -1'),
        ({'rank': 2, 'targets': ()}, 'config.finetune.targets: must not be empty'),
        ({'alpha': 0.0}, 'config.finetune.alpha: must be positive, got 0.0'),
        ({'dropout': 1.0}, 'config.finetune.dropout: must be in [0, 1), got 1.0'),
        ({'layer_decay': 0.0}, 'config.finetune.layer_decay: must be in (0, 1], got 0.0'),
        ({'train': (3,)}, 'config.finetune.train: must list str values, got 3'),
    ],
)
def test_values_out_of_range_are_rejected(fields, message):
    with pytest.raises(UserError) as error:
        dataclasses.replace(FinetuneConfig(**DEFAULTS), **fields)
    assert str(error.value).startswith(message)
