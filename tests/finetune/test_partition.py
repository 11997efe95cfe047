"""Trainable and frozen parameters together are the model, bitwise, stacked and unstacked."""

import dataclasses
import functools

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
from gpt_jax.model.gpt import unstack_layers
from gpt_jax.model.low_rank import AdaptedWeight, Adapter, BaseWeight
from gpt_jax.parallel.sharding import UNSHARDED
from gpt_jax.preflight import estimate, hlo
from gpt_jax.train import build
from gpt_jax.train.build import build_trainer_parts, make_abstract_batch, make_param_layout
from gpt_jax.train.objective import make_loss
from gpt_jax.trainer.vmapped_trials import build_vmapped_runs
from tests.inference import engines
from tests.model.test_gpt import make_model
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


weight_letters = functools.cache(pretrained.weight_letters)


@functools.cache
def partition_model(layers=2, **fields):
    """Return (plan, the model's parameters, both parts) of a small model."""
    config = engines.config(layers=layers)
    plan = partition.plan_partition(
        FinetuneConfig(**DEFAULTS | fields), weight_letters(config), layers
    )
    params = jax.tree.map(np.asarray, make_model(config)[0])
    parts = jax.jit(lambda params: partition.partition(params, plan, jax.random.key(1)))(params)
    return plan, params, parts


def assert_trees_equal(actual, expected):
    assert trees.name_leaves(actual) == trees.name_leaves(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def remove_adapters(params):
    """Return the params without their adapters: the model before fine-tuning."""
    is_adapted = lambda node: isinstance(node, AdaptedWeight)
    remove = lambda node: node.w if is_adapted(node) else node
    return jax.tree.map(remove, params, is_leaf=is_adapted)


@pytest.mark.parametrize('case', CASES)
def test_both_parts_combine_to_the_model(case):
    _, params, parts = partition_model(layers=5, **CASES[case])

    @jax.jit
    def convert(parts):
        unstacked = PartitionedParams(
            partition.unstack(parts.trainable, 5), partition.unstack(parts.frozen, 5)
        )
        return (
            remove_adapters(partition.combine(parts)),
            remove_adapters(partition.combine(unstacked)),
            partition.stack(unstacked.trainable, 5, parts.trainable),
        )

    combined, combined_unstacked, restacked = convert(parts)
    assert_trees_equal(combined, params)
    assert_trees_equal(combined_unstacked, unstack_layers(params, 5))
    assert_trees_equal(restacked, parts.trainable)


@pytest.mark.parametrize('case', CASES)
def test_parts_have_the_sizes_of_the_model(case):
    plan, params, parts = partition_model(layers=5, **CASES[case])
    trainable = trees.count_elements(parts.trainable)
    frozen = 0 if parts.frozen is None else trees.count_elements(parts.frozen)
    if plan.rank:  # what is trained itself is not frozen
        assert frozen >= trees.count_elements(params) - trainable
    else:
        assert trainable + frozen == trees.count_elements(params)


@pytest.mark.parametrize('case', CASES)
def test_logical_axes_have_the_structure_and_ranks_of_the_parts(case):
    plan, _, parts = partition_model(layers=5, **CASES[case])
    logical_axes = partition.partition_logical_axes(plan)
    assert jax.tree.structure(logical_axes) == jax.tree.structure(parts)
    ranks = jax.tree.map(lambda letters, leaf: len(letters) == leaf.ndim, logical_axes, parts)
    assert all(jax.tree.leaves(ranks))


def test_if_all_is_trained_the_trainable_tree_is_the_parameters():
    _, params, parts = partition_model(layers=5)
    assert parts.frozen is None
    assert jax.tree.structure(parts.trainable) == jax.tree.structure(params)


def test_partly_frozen_stacks_are_in_both_trees():
    _, _, parts = partition_model(layers=5, **CASES['scattered layers'])
    up = parts.trainable['blocks']['feedforward']['up']
    query = parts.frozen['blocks']['attention']['query']
    assert (up.layers, query.layers) == ((0, 2, 4), (1,))
    assert up.value.shape == (3, 32, 128)
    assert 'embedding' in parts.frozen
    assert 'embedding' not in parts.trainable


def test_adapted_weights_are_an_adapter_and_a_base():
    _, _, parts = partition_model(layers=5, **CASES['lora'])
    assert list(parts.trainable) == ['blocks']
    assert isinstance(parts.trainable['blocks']['attention']['query'], Adapter)
    base = parts.frozen['blocks']['attention']['query']
    assert isinstance(base, BaseWeight)
    assert base.scale.tolist() == [8.0] * 5


def test_multipliers_follow_the_trained_layers():
    plan, _, parts = partition_model(layers=5, **CASES['scattered layers'])
    values = {
        path: np.arange(5.0) if path.startswith('blocks') else 7.0 for path in plan.logical_axes
    }
    multipliers = partition.make_trainable_multipliers(plan, values, {})
    up = multipliers['blocks']['feedforward']['up']
    assert isinstance(up, LayerSubset)
    assert up.value.ravel().tolist() == [0.0, 2.0, 4.0]
    broadcast = jax.tree.map(lambda m, leaf: m * np.ones(leaf.shape), multipliers, parts.trainable)
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
def test_a_selection_that_is_empty_is_rejected(fields, message):
    with pytest.raises(UserError) as error:
        partition_model(**fields)
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


DENSE = FAMILIES['dense']
LORA = {'finetune.rank': 2, 'finetune.alpha': 3.0, 'finetune.targets': ('all-linear', 'embedding')}
LORA_SCALE = 1.5  # alpha / rank
LORA_AND_NORM = LORA | {'finetune.train': ('norm',)}
MODERN_LORA = {'model.layers': 1, 'finetune.targets': ('all-linear', 'embedding', 'head')}
PARTLY_FROZEN = {'finetune.freeze': ('blocks[0]/attention', 'embedding', '*bias')}
SCAN = {'model.scan_layers': True}


def flatten_adapters(trainable):
    """Return the adapters by path, as lora.py takes them; other parameters are included."""
    leaves = jax.tree.leaves_with_path(trainable, is_leaf=lambda node: isinstance(node, Adapter))
    return {jax.tree_util.keystr(path, simple=True, separator='/'): node for path, node in leaves}


def select_adapters(trainable):
    flat = flatten_adapters(trainable)
    return {path: node for path, node in flat.items() if isinstance(node, Adapter)}


def get_node(tree, path):
    for part in path.split('/'):
        tree = tree[part]
    return tree


@pytest.fixture(scope='module')
def cache():
    return {}


def build_cached(settings, cache, fields):
    """Return (config, parts, first state on the host) of a run on one device."""
    key = repr(sorted(fields.items()))
    if key not in cache:
        config = settings(fields)
        parts = build_trainer_parts(config)
        cache[key] = config, parts, jax.device_get(parts.init_state())
    return cache[key]


def run_cached(settings, cache, fields, steps):
    """Return (losses, last state) of a run on one device."""
    key = repr(sorted(fields.items())), steps
    if key not in cache:
        config, parts, start = build_cached(settings, cache, fields)
        state, losses = jax.device_put(start), []
        for batch in parts.shard_batches(make_rows(config, steps)):
            state, metrics = parts.train_step(state, batch)
            losses.append(metrics['loss'].item())
        cache[key] = np.array(losses), state
    return cache[key]


def evaluate(parts, params, batch):
    return [value.item() for value in parts.eval_step(params, batch)]


@pytest.mark.parametrize('scan_layers', [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_run_begins_as_its_base_and_trains_only_adapters(settings, cache, scan_layers):
    fields = DENSE | LORA | {'model.scan_layers': scan_layers}
    base_config, base_parts, base = build_cached(settings, cache, DENSE | SCAN)
    _, parts, start = build_cached(settings, cache, fields)
    state = jax.device_put(start)
    batch = next(parts.shard_batches(make_rows(base_config, 1)))
    # Close, not equal: adding to a product may change the order of its sums.
    assert evaluate(parts, parts.combine_params(state), batch) == pytest.approx(
        evaluate(base_parts, base.params, batch), rel=1e-6
    )
    moments = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    assert moments == 2 * trees.count_elements(state.params)
    assert moments < trees.count_elements(base.params) / 2
    losses = []
    for _ in range(8):
        state, metrics = parts.train_step(state, batch)
        losses.append(metrics['loss'].item())
    assert losses[-1] < losses[0]
    jax.tree.map(np.testing.assert_array_equal, state.frozen, start.frozen)
    for path, adapter in flatten_adapters(jax.device_get(state.params)).items():
        assert np.abs(adapter.a).max() > 0, path
        assert np.abs(adapter.b).max() > 0, path


def test_make_state_takes_the_weights_of_a_base_and_select_frozen_its_frozen_part(settings, cache):
    base = build_cached(settings, cache, DENSE | SCAN)[-1].params
    parts = build_trainer_parts(settings(DENSE | LORA_AND_NORM))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, parts.abstract_params)
    put_on_devices = lambda: jax.device_put(base, shardings)
    state = parts.make_state(put_on_devices())
    describe = lambda tree: [
        (leaf.shape, leaf.dtype, leaf.sharding) for leaf in jax.tree.leaves(tree)
    ]
    assert describe(state) == describe(parts.abstract_state)
    assert trees.name_leaves(state) == trees.name_leaves(parts.abstract_state)
    adapters = select_adapters(state.params)
    merge = lambda base: lora.merge_adapters(base, adapters, dict.fromkeys(adapters, LORA_SCALE))
    jax.tree.map(np.testing.assert_array_equal, jax.jit(merge)(base), base)
    jax.tree.map(np.testing.assert_array_equal, parts.select_frozen(put_on_devices()), state.frozen)


@pytest.mark.parametrize(
    ('family', 'fields'),
    [
        pytest.param('dense', {}, marks=pytest.mark.slow),
        ('modern', MODERN_LORA),
        pytest.param('experts', SCAN, marks=pytest.mark.slow),
    ],
)
def test_gradients_follow_from_those_of_the_merged_model(settings, cache, family, fields):
    """Of w + s a b: by a it is s dw b^T, by b it is s a^T dw, with dw from full training."""
    fields = FAMILIES[family] | LORA_AND_NORM | fields
    config, parts, _ = build_cached(settings, cache, fields)
    _, state = run_cached(settings, cache, fields, STEPS)
    adapters = select_adapters(state.params)
    scales = dict.fromkeys(adapters, LORA_SCALE)
    params = remove_adapters(parts.combine_params(state))
    loss = make_loss(config.model, UNSHARDED, train=True)
    layout = make_param_layout(config.model, UNSHARDED)
    batch = next(parts.shard_batches(make_rows(config, 1, seed=5)))
    attach = lambda adapters: lora.attach_adapters(params, adapters, scales)

    @jax.jit
    def compute_gradients(adapters):
        """Return the gradients by the merged weights and by the adapters."""
        objective = lambda params: loss(layout.unstack(params), batch, jax.random.key(0))[0]
        merged = lora.merge_adapters(params, adapters, scales)
        by_adapters = jax.grad(lambda adapters: objective(attach(adapters)))(adapters)
        return jax.grad(objective)(merged), by_adapters

    full, gradients = jax.device_get(compute_gradients(adapters))
    for path, gradient in gradients.items():
        dw = np.asarray(get_node(full, path), np.float64)
        adapter = jax.device_get(adapters[path])
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


@pytest.mark.parametrize('scan_layers', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_partly_frozen_models_have_the_gradients_of_full_training(settings, cache, scan_layers):
    common = DENSE | {'optimizer.grad_clip_norm': 0.0}
    _, full = run_cached(settings, cache, common | SCAN, steps=1)
    fields = common | PARTLY_FROZEN | {'model.scan_layers': scan_layers}
    _, parts, start = build_cached(settings, cache, fields)
    _, state = run_cached(settings, cache, fields, steps=1)
    full_moments, moments = (each.opt_state[0][1].mu for each in (full, state))
    for name, a in zip(trees.name_leaves(moments), jax.tree.leaves(moments), strict=True):
        b = np.asarray(get_node(full_moments, name.removesuffix('/value')))
        b = b[1:] if name.endswith('/value') else b
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7, err_msg=name)
    assert get_node(moments, 'blocks/attention/query').layers == (1,)
    assert 'embedding' not in moments

    combine = jax.jit(lambda state: remove_adapters(parts.combine_params(state)))
    before, after = jax.device_get(combine(start)), jax.device_get(combine(state))
    for path in ('embedding/table_VD', 'blocks/feedforward/up_bias', 'norm/bias'):
        np.testing.assert_array_equal(get_node(after, path), get_node(before, path))
    query = 'blocks/attention/query'
    moved = get_node(after, query) != get_node(before, query)
    assert [bool(layer.any()) for layer in moved] == [False, True]


@pytest.mark.slow
def test_microbatches_and_rematerialization_change_nothing(settings, cache):
    _, expected = run_cached(settings, cache, DENSE | LORA, steps=2)
    for fields in (
        {'train.microbatch_size': 2},
        {'model.remat': 'dots', 'model.scan_layers': True},
        {'model.remat': 'block'},
    ):
        _, state = run_cached(settings, cache, DENSE | LORA | fields, steps=2)
        moments = (jax.tree.leaves(each.opt_state[0][1].mu) for each in (expected, state))
        for a, b in zip(*moments, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize('family', ['dense', pytest.param('experts', marks=pytest.mark.slow)])
def test_adapter_dropout_differs_between_steps_and_is_off_in_evaluation(settings, cache, family):
    fields = FAMILIES[family] | LORA | SCAN
    config, without, start = build_cached(settings, cache, fields)
    with_dropout = build_trainer_parts(
        settings(fields | {'finetune.dropout': 0.5, 'optimizer.learning_rate': 1e-30})
    )
    start = start.replace(params=jax.tree.map(lambda a: a + np.float32(0.3), start.params))
    batch = next(without.shard_batches(make_rows(config, 1)))
    params = with_dropout.combine_params(jax.device_put(start))
    total, count = evaluate(with_dropout, params, batch)
    exact = total / count

    def train(parts, steps):
        state, losses = jax.device_put(start), []
        for _ in range(steps):
            state, metrics = parts.train_step(state, batch)
            losses.append(metrics['loss'].item())
        return losses

    assert train(without, 1) == pytest.approx([exact], rel=5e-6)
    first, second = train(with_dropout, 2)
    assert first != second
    assert abs(first - exact) > 1e-5 * exact
    assert train(with_dropout, 2) == [first, second]


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
STEPS = 4


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
    fields = FAMILIES[family] | LORA_AND_NORM | (MODERN_LORA if family == 'modern' else SCAN)
    expected = run_cached(settings, cache, fields, STEPS)
    assert_same_runs(expected, run_steps(settings(fields | mesh_fields(mesh)), STEPS))


@pytest.mark.parametrize('mesh', ['data', pytest.param('fsdp_and_data', marks=pytest.mark.slow)])
def test_every_mesh_trains_partly_frozen_models_as_one_device(settings, cache, mesh):
    """The layers of one are a loop of the program, those of the other are not."""
    fields = DENSE | {'optimizer.grad_clip_norm': 0.0} | PARTLY_FROZEN
    fields |= {'model.scan_layers': False}
    _, _, start = build_cached(settings, cache, fields)
    expected = run_cached(settings, cache, fields, STEPS)
    sharded = settings(fields | SCAN | mesh_fields(mesh))
    assert_same_runs(expected, run_steps(sharded, STEPS, start=start))


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
    """Return the change of the trainable parameters in the first step, with random gradients."""
    boxed = build.declare_params(config.model)
    partitioner = partition.Partitioner(config.finetune, config.model, boxed, config.seed)
    optimizer, _ = partitioner.make_optimizer(config.optimizer, config.steps)
    rng = np.random.default_rng(0)
    draw = lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32)
    params, gradients = (jax.tree.map(draw, partitioner.abstract.trainable) for _ in range(2))
    update = lambda gradients, params: optimizer.update(gradients, optimizer.init(params), params)
    return jax.device_get(jax.jit(update)(gradients, params)[0])


@pytest.mark.parametrize(
    ('name', 'finetune'),
    [
        ('adamw', {'finetune.freeze': ('blocks[1]/feedforward',)}),
        ('sgd', {'finetune.rank': 2}),
        pytest.param('adamw', {'finetune.rank': 2}, marks=pytest.mark.slow),
        pytest.param(
            'sgd', {'finetune.freeze': ('blocks[1]/feedforward',)}, marks=pytest.mark.slow
        ),
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
