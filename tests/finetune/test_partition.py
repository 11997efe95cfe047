"""Trainable and frozen parameters together are the model, bitwise, stacked and unstacked."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.core import trees
from gpt_jax.core.config import FinetuneConfig
from gpt_jax.core.errors import UserError
from gpt_jax.finetune import lora, partition
from gpt_jax.finetune.partition import LayerSubset, PartitionedParams, make_layer_multipliers
from gpt_jax.inference import pretrained
from gpt_jax.model import weights
from gpt_jax.model.gpt import unstack_layers
from gpt_jax.model.low_rank import Adapter, BaseWeight, remove_adapters
from gpt_jax.parallel.sharding import UNSHARDED
from gpt_jax.preflight import estimate, hlo
from gpt_jax.train import build
from gpt_jax.train.build import build_trainer_parts, make_abstract_batch, make_param_layout
from gpt_jax.train.objective import make_loss
from gpt_jax.trainer.vmapped_trials import build_vmapped_runs
from tests.parallel.test_strategies import FAMILIES, MESHES, assert_same_runs
from tests.train.test_step import make_rows, run_steps

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


LORA = {'finetune.rank': 2, 'finetune.alpha': 3.0, 'finetune.targets': ('all-linear', 'embedding')}
LORA_SCALE = 1.5  # alpha / rank
PARTLY_FROZEN = {'finetune.freeze': ('blocks[0]/attention', 'embedding', '*bias')}


def flatten_adapters(trainable):
    """Return the adapters by path, as lora.py takes them; other parameters are included."""
    leaves = jax.tree.leaves_with_path(trainable, is_leaf=lambda node: isinstance(node, Adapter))
    return {jax.tree_util.keystr(path, simple=True, separator='/'): node for path, node in leaves}


def get_node(tree, path):
    for part in path.split('/'):
        tree = tree[part]
    return tree


@pytest.fixture(scope='module')
def cache():
    return {}


def run_cached(settings, cache, fields, steps=2):
    """Return (config, parts, state after some steps)."""
    key = (str(fields), steps)
    if key not in cache:
        config = settings(fields)
        parts = build_trainer_parts(config)
        state = parts.init_state()
        for batch in parts.shard_batches(make_rows(config, steps)):
            state, _ = parts.train_step(state, batch)
        cache[key] = config, parts, state
    return cache[key]


def evaluate(parts, params, batch):
    return [value.item() for value in parts.eval_step(params, batch)]


@pytest.mark.parametrize('scan_layers', [False, True])
def test_a_run_begins_as_its_base_and_trains_only_adapters(settings, scan_layers):
    fields = {'model.scan_layers': scan_layers}
    base_parts, parts = (build_trainer_parts(settings(fields | more)) for more in ({}, LORA))
    base, state = base_parts.init_state(), parts.init_state()
    batch = next(parts.shard_batches(make_rows(settings(), 1)))
    # Close, not equal: adding to a product may change the order of its sums.
    assert evaluate(parts, parts.combine_params(state), batch) == pytest.approx(
        evaluate(base_parts, base.params, batch), rel=1e-6
    )
    frozen = jax.tree.map(np.array, state.frozen)
    moments = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    assert moments == 2 * trees.count_elements(state.params)
    assert moments < trees.count_elements(base.params) / 2
    losses = []
    for _ in range(8):
        state, metrics = parts.train_step(state, batch)
        losses.append(metrics['loss'].item())
    assert losses[-1] < losses[0]
    jax.tree.map(np.testing.assert_array_equal, state.frozen, frozen)
    for path, adapter in flatten_adapters(state.params).items():
        assert np.abs(adapter.a).max() > 0, path
        assert np.abs(adapter.b).max() > 0, path


def test_make_state_takes_the_weights_of_a_base_and_select_frozen_its_frozen_part(settings):
    base_parts, parts = (
        build_trainer_parts(settings(fields))
        for fields in ({}, LORA | {'finetune.train': ('norm',)})
    )
    base = jax.tree.map(np.array, base_parts.init_state().params)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, parts.abstract_params)
    put_on_devices = lambda: jax.device_put(base, shardings)
    state = parts.make_state(put_on_devices())
    describe = lambda tree: [
        (leaf.shape, leaf.dtype, leaf.sharding) for leaf in jax.tree.leaves(tree)
    ]
    assert describe(state) == describe(parts.abstract_state)
    assert trees.name_leaves(state) == trees.name_leaves(parts.abstract_state)
    adapters = {
        path: node
        for path, node in flatten_adapters(state.params).items()
        if isinstance(node, Adapter)
    }
    merged = lora.merge_adapters(base, adapters, dict.fromkeys(adapters, LORA_SCALE))
    jax.tree.map(np.testing.assert_array_equal, merged, base)
    jax.tree.map(np.testing.assert_array_equal, parts.select_frozen(put_on_devices()), state.frozen)


@pytest.mark.parametrize(
    ('family', 'fields'),
    [
        pytest.param('dense', {}, marks=pytest.mark.slow),
        ('modern', {'finetune.targets': ('all-linear', 'embedding', 'head')}),
        pytest.param('experts', {'model.scan_layers': True}, marks=pytest.mark.slow),
    ],
)
def test_gradients_follow_from_those_of_the_merged_model(settings, cache, family, fields):
    """Of w + s a b: by a it is s dw b^T, by b it is s a^T dw, with dw from full training."""
    config, parts, state = run_cached(settings, cache, FAMILIES[family] | LORA | fields)
    adapters = flatten_adapters(state.params)
    scales = dict.fromkeys(adapters, LORA_SCALE)
    params = remove_adapters(parts.combine_params(state))
    merged = lora.merge_adapters(params, adapters, scales)
    loss = make_loss(config.model, UNSHARDED, train=True)
    layout = make_param_layout(config.model, UNSHARDED)
    batch = next(parts.shard_batches(make_rows(config, 1, seed=5)))

    def compute_gradient(make_params, tree):
        objective = lambda tree: loss(make_params(tree), batch, jax.random.key(0))[0]
        return jax.jit(jax.grad(objective))(tree)

    attach = lambda adapters: lora.attach_adapters(params, adapters, scales)
    full = layout.stack(compute_gradient(lambda tree: tree, layout.unstack(merged)))
    gradients = compute_gradient(lambda adapters: layout.unstack(attach(adapters)), adapters)
    for path, gradient in gradients.items():
        dw = np.asarray(get_node(full, path), np.float64)
        adapter = adapters[path]
        # Leading dimensions that a and b share: layers and experts.
        shared = adapter.a.ndim + adapter.b.ndim - 2 - dw.ndim
        lead, rank = adapter.a.shape[:shared], adapter.a.shape[-1]
        a, b = np.reshape(adapter.a, (*lead, -1, rank)), np.reshape(adapter.b, (*lead, rank, -1))
        dw = dw.reshape(*lead, a.shape[-2], b.shape[-1])
        largest = np.abs(dw).max()
        assert largest > 1e-3
        expected_a = LORA_SCALE * dw @ np.swapaxes(b, -1, -2)
        expected_b = LORA_SCALE * np.swapaxes(a, -1, -2) @ dw
        for actual, expected in ((gradient.a, expected_a), (gradient.b, expected_b)):
            np.testing.assert_allclose(
                np.reshape(actual, expected.shape),
                expected,
                rtol=1e-4,
                atol=1e-5 * largest,
                err_msg=path,
            )


@pytest.mark.parametrize('scan_layers', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_gradients_of_frozen_weights_are_not_computed(settings, scan_layers):
    """Of the three products of a matrix two remain, and those of adapters, which are thin."""
    shape = {
        'model.width': 64,
        'model.layers': 4,
        'model.context': 64,
        'model.tied_head': False,
        'model.vocab_size': 512,
        'model.bias': False,
        'model.scan_layers': scan_layers,
    }

    def count_flops(fields):
        """Count the FLOPs of all matrix products in the compiled step."""
        parts = build_trainer_parts(settings(shape | fields))
        batch = make_abstract_batch(settings(shape), parts.mesh)
        step = parts.train_step.lower(parts.abstract_state, batch).compile()
        module = hlo.parse_hlo(step.as_text())
        return sum(
            count * estimate.count_flops(module.computations[name], instruction)
            for name, count in hlo.count_executions(module).executions.items()
            for instruction in module.computations[name].instructions
        )

    config = settings(shape)
    model, tokens = config.model, config.train.batch_size * config.model.context
    matrices = model.layers * 12 * model.width**2 + model.vocab_size * model.width
    adapters = 2 * model.layers * (4 * 2 + 2 * 5) * model.width  # of rank 2, on each matrix
    saved = 2 * tokens * matrices - 6 * tokens * adapters
    if not scan_layers:  # no gradient is needed below the first layer
        saved += 2 * tokens * 3 * model.width**2
    lora_flops = count_flops({'finetune.rank': 2, 'finetune.targets': ('all-linear',)})
    assert count_flops({}) - lora_flops == pytest.approx(saved, rel=0.01)


@pytest.mark.parametrize('scan_layers', [False, True])
def test_partly_frozen_models_have_the_gradients_of_full_training(settings, cache, scan_layers):
    fields = {'model.layers': 3, 'optimizer.grad_clip_norm': 0.0, 'model.scan_layers': scan_layers}
    _, full_parts, full = run_cached(settings, cache, fields, steps=1)
    _, parts, state = run_cached(settings, cache, fields | PARTLY_FROZEN, steps=1)
    full_moments, moments = (each.opt_state[0][1].mu for each in (full, state))
    for name, a in zip(trees.name_leaves(moments), jax.tree.leaves(moments), strict=True):
        b = np.asarray(get_node(full_moments, name.removesuffix('/value')))
        b = b[1:] if name.endswith('/value') else b
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7, err_msg=name)
    assert get_node(moments, 'blocks/attention/query').layers == (1, 2)
    assert 'embedding' not in moments

    before, after = jax.device_get(full_parts.init_state().params), parts.combine_params(state)
    for path in ('embedding/table_VD', 'blocks/feedforward/up_bias', 'norm/bias'):
        np.testing.assert_array_equal(get_node(after, path), get_node(before, path))
    query = 'blocks/attention/query'
    moved = np.asarray(get_node(after, query)) != get_node(before, query)
    assert [bool(layer.any()) for layer in moved] == [False, True, True]


@pytest.mark.slow
def test_microbatches_and_rematerialization_change_nothing(settings, cache):
    _, _, expected = run_cached(settings, cache, LORA)
    for fields in (
        {'train.microbatch_size': 2},
        {'model.remat': 'dots', 'model.scan_layers': True},
        {'model.remat': 'block'},
    ):
        _, _, state = run_cached(settings, cache, LORA | fields)
        moments = (jax.tree.leaves(each.opt_state[0][1].mu) for each in (expected, state))
        for a, b in zip(*moments, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize('family', ['dense', pytest.param('experts', marks=pytest.mark.slow)])
def test_adapter_dropout_differs_between_steps_and_is_off_in_evaluation(settings, family):
    common = FAMILIES[family] | LORA | {'optimizer.learning_rate': 1e-30, 'model.scan_layers': True}
    with_dropout, without = (
        build_trainer_parts(settings(common | {'finetune.dropout': rate})) for rate in (0.5, 0.0)
    )
    state = with_dropout.init_state()
    state = state.replace(params=jax.tree.map(lambda a: a + 0.3, state.params))
    batch = next(without.shard_batches(make_rows(settings(common), 1)))
    total, count = evaluate(with_dropout, with_dropout.combine_params(state), batch)

    def train_twice(parts):
        new_state, losses = jax.tree.map(jnp.copy, state), []
        for _ in range(2):
            new_state, metrics = parts.train_step(new_state, batch)
            losses.append(metrics['loss'].item())
        return losses

    exact = total / count
    assert train_twice(without) == pytest.approx([exact, exact], rel=5e-6)
    first, second = train_twice(with_dropout)
    assert first != second
    assert abs(first - exact) > 1e-5 * exact
    assert train_twice(with_dropout) == [first, second]


ALL_MESHES = MESHES | {
    'fsdp_and_data': {'data': 2, 'fsdp': 4, 'strategy': 'fsdp'},
    'tensor_and_data': {'data': 4, 'tensor': 2},
}
SLOW_CASES = [
    ('modern', 'tensor_and_data'),
    ('dense', 'data'),
    ('dense', 'zero1'),
    ('modern', 'fsdp_and_tensor'),
    ('dense', 'pipeline_and_tensor'),
    ('experts', 'expert_and_tensor'),
]


def mesh_fields(mesh):
    return {f'mesh.{name}': value for name, value in ALL_MESHES[mesh].items()}


@pytest.mark.parametrize(
    ('family', 'mesh'),
    [
        ('modern', 'fsdp_and_data'),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW_CASES),
    ],
)
def test_every_mesh_trains_adapters_as_one_device(settings, cache, family, mesh):
    head = ('head',) if family == 'modern' else ()
    targets = (*LORA['finetune.targets'], *head)
    fields = FAMILIES[family] | LORA
    fields |= {'finetune.targets': targets, 'finetune.train': ('norm',)}
    if family not in cache:
        cache[family] = run_steps(settings(fields), 4)
    assert_same_runs(cache[family], run_steps(settings(fields | mesh_fields(mesh)), 4))


@pytest.mark.parametrize('mesh', ['data', pytest.param('fsdp_and_data', marks=pytest.mark.slow)])
def test_every_mesh_trains_partly_frozen_models_as_one_device(settings, cache, mesh):
    fields = FAMILIES['dense'] | PARTLY_FROZEN
    if 'partly frozen' not in cache:
        cache['partly frozen'] = run_steps(settings(fields), 4)
    assert_same_runs(cache['partly frozen'], run_steps(settings(fields | mesh_fields(mesh)), 4))


def test_a_pipeline_rejects_partly_frozen_stacks(settings):
    fields = PARTLY_FROZEN | {'mesh.pipeline': 2, 'mesh.data': 1}
    message = r'config.mesh.pipeline: must be 1 if only some layers of blocks/attention'
    with pytest.raises(UserError, match=message):
        build_trainer_parts(settings(fields))


@pytest.mark.slow
def test_vmapped_runs_train_adapters_as_one_run(settings):
    config = settings(LORA)
    vmapped = build_vmapped_runs(config, 2)
    batch = next(make_rows(config, 1))
    seeds = jnp.array([0, 1], jnp.uint32)
    learning_rates = jnp.full(2, config.optimizer.learning_rate)
    batches = {name: np.stack([array, array]) for name, array in batch.items()}
    _, metrics = vmapped.step(vmapped.init(seeds), batches, seeds, learning_rates)
    losses, _ = run_steps(config, batches=[batch])
    assert metrics['loss'][0] == pytest.approx(losses[0], rel=1e-5)
    assert metrics['loss'][0] != metrics['loss'][1]


def test_layer_decay_falls_from_the_top():
    paths = ['embedding/table_VD', 'position/table', 'blocks/norm_1/bias', 'norm/scale', 'task/w']
    multipliers = make_layer_multipliers(paths, 3, 0.5)
    assert multipliers['blocks/norm_1/bias'].tolist() == [0.125, 0.25, 0.5]
    assert multipliers['embedding/table_VD'] == multipliers['position/table'] == 0.0625
    assert multipliers['norm/scale'] == multipliers['task/w'] == 1
    assert set(make_layer_multipliers(paths, 3, 1.0).values()) == {1.0}


def compute_first_updates(config):
    """Return the change of the trainable parameters in the first step; later gradients differ."""
    parts = build_trainer_parts(config)
    state = parts.init_state()
    before = jax.device_get(state.params)
    state, _ = parts.train_step(state, next(parts.shard_batches(make_rows(config, 1))))
    return jax.tree.map(lambda a, b: np.asarray(b) - a, before, state.params)


@pytest.mark.parametrize('name', ['adamw', pytest.param('sgd', marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    'finetune',
    [
        {'finetune.rank': 2},
        pytest.param({'finetune.freeze': ('blocks[1]/feedforward',)}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_layer_decay_scales_updates_with_any_optimizer(settings, name, finetune):
    common = {'model.layers': 3, 'optimizer.name': name, 'optimizer.warmup_fraction': 0.0}
    common |= finetune
    full, decayed = (
        compute_first_updates(settings(common | {'finetune.layer_decay': decay}))
        for decay in (1.0, 0.5)
    )
    if 'finetune.rank' in finetune:
        expected = {'attention/query': [0.125, 0.25, 0.5]}
        select = lambda tree, path: get_node(tree['blocks'], path).b
    else:
        assert decayed['norm']['scale'] == pytest.approx(full['norm']['scale'], abs=1e-6)
        position, full_position = (tree['position']['table'] for tree in (decayed, full))
        np.testing.assert_allclose(position, 0.0625 * full_position, atol=1e-6)
        expected = {'attention/query': [0.125, 0.25, 0.5], 'feedforward/up': [0.125, 0.5]}

        def select(tree, path):
            node = get_node(tree['blocks'], path)
            return getattr(node, 'value', node)

    for path, multipliers in expected.items():
        a, b = select(full, path), select(decayed, path)
        assert np.abs(a).max() > 0
        scaled = a * np.reshape(multipliers, (-1, *[1] * (a.ndim - 1)))
        np.testing.assert_allclose(b, scaled, atol=1e-6)
