"""Are adapters and parts of a model trained as what they are, on one device and on many, and nothing else touched?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax import assemble, trees
from gpt_jax.compiled import loops, text, work
from gpt_jax.errors import UserError
from gpt_jax.finetune import lora
from gpt_jax.model.lowrank import Adapter, without
from gpt_jax.parallel.place import ANYWHERE
from tests.parallel.test_strategies import FAMILIES, MESHES, same
from tests.train.test_step import rows, run

LORA = {'tune.rank': 2, 'tune.alpha': 3.0, 'tune.targets': ('all-linear', 'embedding')}
PARTS = {'tune.freeze': ('blocks[0]/attention', 'embedding', '*bias')}


def adapters_of(trained):
    """Flat, as the algebra of lora.py has them."""
    leaves = jax.tree.leaves_with_path(trained, is_leaf=lambda node: isinstance(node, Adapter))
    return {jax.tree_util.keystr(path, simple=True, separator='/'): node for path, node in leaves}


@pytest.fixture(scope='module')
def found():
    return {}


def after(settings, found, fields, steps=2):
    """(settings, program, state after some steps)."""
    key = (str(fields), steps)
    if key not in found:
        s = settings(fields)
        program = assemble.build(s)
        state = program.init()
        for batch in program.on_devices(rows(s, steps)):
            state, _ = program.step(state, batch)
        found[key] = s, program, state
    return found[key]


@pytest.mark.parametrize('scan_layers', [False, True])
def test_a_run_begins_as_its_base_and_trains_its_adapters_alone(settings, scan_layers):
    fields = {'model.scan_layers': scan_layers}
    plain, tuned = (assemble.build(settings(fields | one)) for one in ({}, LORA))
    base, state = plain.init(), tuned.init()
    batch = next(tuned.on_devices(rows(settings(), 1)))
    assert [x.item() for x in tuned.evaluate(tuned.whole(state), batch)] == pytest.approx(
        [x.item() for x in plain.evaluate(base.params, batch)], rel=1e-6
    )  # another program: what is added to a product may change in which order it is summed
    kept = jax.tree.map(np.array, state.kept)
    moments = [leaf for leaf in jax.tree.leaves(state.optimizer) if leaf.ndim]
    assert sum(leaf.size for leaf in moments) == 2 * trees.size(state.params) < trees.size(base.params) / 2
    losses = []
    for _ in range(8):
        state, metrics = tuned.step(state, batch)
        losses.append(metrics['loss'].item())
    assert losses[-1] < losses[0]
    jax.tree.map(np.testing.assert_array_equal, state.kept, kept)
    for path, one in adapters_of(state.params).items():
        assert np.abs(one.a).max() > 0, path
        assert np.abs(one.b).max() > 0, path


def test_begin_takes_the_weights_of_a_base_and_kept_gives_back_what_a_checkpoint_left_out(settings):
    plain, tuned = (assemble.build(settings(one)) for one in ({}, LORA | {'tune.train': ('norm',)}))
    base = jax.tree.map(np.array, plain.init().params)
    on_devices = lambda: jax.device_put(base, jax.tree.map(lambda a: a.sharding, tuned.abstract_params))  # noqa: E731
    state = tuned.begin(on_devices())
    shapes = lambda tree: [(a.shape, a.dtype, a.sharding) for a in jax.tree.leaves(tree)]  # noqa: E731
    assert shapes(state) == shapes(tuned.abstract_state)
    assert trees.names(state) == trees.names(tuned.abstract_state)
    adapters = {path: one for path, one in adapters_of(state.params).items() if isinstance(one, Adapter)}
    there = lora.merge(base, adapters, dict.fromkeys(adapters, 1.5))
    jax.tree.map(np.testing.assert_array_equal, there, base)
    jax.tree.map(np.testing.assert_array_equal, tuned.kept(on_devices()), state.kept)


@pytest.mark.parametrize(
    ('family', 'fields'),
    [
        pytest.param('dense', {}, marks=pytest.mark.slow),
        ('today', {'tune.targets': ('all-linear', 'embedding', 'head')}),
        pytest.param('experts', {'model.scan_layers': True}, marks=pytest.mark.slow),
    ],
)
def test_gradients_follow_from_those_of_the_merged_model(settings, found, family, fields):
    """Of w + s a b: by a it is s dw b^T, by b s a^T dw; dw is what training all of the merged model gives."""
    s, program, state = after(settings, found, FAMILIES[family] | LORA | fields)
    adapters = adapters_of(state.params)
    params = without(program.whole(state))
    merged = lora.merge(params, adapters, dict.fromkeys(adapters, 1.5))
    loss = assemble.summed_loss(s.model, ANYWHERE, train=True)
    form = assemble.form(s.model, ANYWHERE)
    batch = next(program.on_devices(rows(s, 1, seed=5)))

    def gradient(of, tree):
        return jax.jit(jax.grad(lambda tree: loss(of(tree), batch, jax.random.key(0))[0]))(tree)

    dense = form.leave(gradient(lambda tree: tree, form.enter(merged)))
    whole = lambda one: lora.adapt(params, one, dict.fromkeys(adapters, 1.5))  # noqa: E731
    ours = gradient(lambda one: form.enter(whole(one)), adapters)
    for path, got in ours.items():
        dw = np.asarray(trees_at(dense, path), np.float64)
        one = adapters[path]
        rank, shared = one.a.shape[-1], one.a.ndim + one.b.ndim - 2 - dw.ndim
        lead = one.a.shape[:shared]
        a, b = np.reshape(one.a, (*lead, -1, rank)), np.reshape(one.b, (*lead, rank, -1))
        dw = dw.reshape(*lead, a.shape[-2], b.shape[-1])
        largest = np.abs(dw).max()
        assert largest > 1e-3
        np.testing.assert_allclose(
            np.reshape(got.a, a.shape), 1.5 * dw @ np.swapaxes(b, -1, -2), rtol=1e-4, atol=1e-5 * largest, err_msg=path
        )
        np.testing.assert_allclose(
            np.reshape(got.b, b.shape), 1.5 * np.swapaxes(a, -1, -2) @ dw, rtol=1e-4, atol=1e-5 * largest, err_msg=path
        )


def trees_at(tree, path):
    for part in path.split('/'):
        tree = tree[part]
    return tree


@pytest.mark.parametrize('scan_layers', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_no_product_is_left_for_weights_that_stay(settings, scan_layers):
    """Of every matrix two products remain of three, and the adapters' own, which are thin."""
    shape = {
        'model.width': 64, 'model.layers': 4, 'model.context': 64, 'model.tied_head': False, 'model.vocab_size': 512,
        'model.bias': False, 'model.scan_layers': scan_layers,
    }  # fmt: skip

    def flops(fields):
        """Of the products of matrices in the compiled step."""
        program = assemble.build(settings(shape | fields))
        batch = assemble.abstract_batch(settings(shape), program.mesh)
        compiled = text.parse(program.step.lower(program.abstract_state, batch).compile().as_text())
        return sum(
            count * work.flops(compiled.computations[name], one)
            for name, count in loops.times(compiled).times.items()
            for one in compiled.computations[name].instructions
        )

    s = settings(shape)
    tokens, model, layers = s.train.batch * s.model.context, s.model, s.model.layers
    matrices = layers * 12 * model.width**2 + model.vocab_size * model.width
    saved = 2 * tokens * matrices
    saved -= 6 * tokens * 2 * layers * (4 * 2 + 2 * 5) * model.width  # of an adapter of rank 2 on each
    if not scan_layers:  # what the first layer sends back to where nothing is trained
        saved += 2 * tokens * 3 * model.width**2
    assert flops({}) - flops({'tune.rank': 2, 'tune.targets': ('all-linear',)}) == pytest.approx(saved, rel=0.01)


@pytest.mark.parametrize('scan_layers', [False, True])
def test_parts_have_the_gradients_of_the_whole_and_the_rest_stays(settings, found, scan_layers):
    fields = {'model.layers': 3, 'optimizer.clip': 0.0, 'model.scan_layers': scan_layers}
    _, plain, full = after(settings, found, fields, 1)
    _, tuned, some = after(settings, found, fields | PARTS, 1)
    moments, some_moments = full.optimizer[1].mu, some.optimizer[1].mu
    for name, a in zip(trees.names(some_moments), jax.tree.leaves(some_moments), strict=True):
        b = np.asarray(trees_at(moments, name.removesuffix('/value')))
        b = b[1:] if name.endswith('/value') else b
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7, err_msg=name)
    assert trees_at(some_moments, 'blocks/attention/query').layers == (1, 2)
    assert 'embedding' not in some_moments
    begun, now = jax.device_get(plain.init().params), tuned.whole(some)
    for path in ('embedding/table_VD', 'blocks/feedforward/up_bias', 'norm/bias'):
        np.testing.assert_array_equal(trees_at(now, path), trees_at(begun, path))
    moved = np.asarray(trees_at(now, 'blocks/attention/query')) != trees_at(begun, 'blocks/attention/query')
    assert [bool(layer.any()) for layer in moved] == [False, True, True]


@pytest.mark.slow
def test_microbatches_and_rematerialization_change_nothing(settings, found):
    _, _, one = after(settings, found, LORA)
    for other in (
        {'train.microbatch': 2},
        {'model.remat': 'dots', 'model.scan_layers': True},
        {'model.remat': 'block'},
    ):
        _, _, state = after(settings, found, LORA | other)
        for a, b in zip(jax.tree.leaves(one.optimizer[1].mu), jax.tree.leaves(state.optimizer[1].mu), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize('family', ['dense', pytest.param('experts', marks=pytest.mark.slow)])
def test_dropout_of_adapters_draws_anew_in_every_step_and_not_in_evaluation(settings, family):
    common = FAMILIES[family] | LORA | {'optimizer.learning_rate': 1e-30, 'model.scan_layers': True}
    dropped, plain = (assemble.build(settings(common | {'tune.dropout': rate})) for rate in (0.5, 0.0))
    state = dropped.init()
    state = state.replace(params=jax.tree.map(lambda a: a + 0.3, state.params))
    batch = next(plain.on_devices(rows(settings(common), 1)))
    total, count = dropped.evaluate(dropped.whole(state), batch)

    def losses(program):
        one, found = jax.tree.map(jnp.copy, state), []
        for _ in range(2):
            one, metrics = program.step(one, batch)
            found.append(metrics['loss'].item())
        return found

    exact = float(total / count)
    assert losses(plain) == pytest.approx([exact, exact], rel=5e-6)
    first, second = losses(dropped)
    assert first != second
    assert abs(first - exact) > 1e-5 * exact
    assert losses(dropped) == [first, second]


CASES = [
    ('dense', 'data'), ('dense', 'zero1'), ('today', 'fsdp_and_tensor'), ('dense', 'pipeline_and_tensor'),
    ('experts', 'expert_and_tensor'),
]  # fmt: skip
QUICK = {('today', 'fsdp_and_data')}
MORE = {
    'fsdp_and_data': {'data': 2, 'fsdp': 4, 'strategy': 'fsdp'},
    'tensor_and_data': {'data': 4, 'tensor': 2},
}  # fmt: skip
ALL = [*sorted(QUICK), ('today', 'tensor_and_data'), *CASES]


@pytest.mark.parametrize(
    ('family', 'mesh'),
    [pytest.param(*one, marks=[] if one in QUICK else pytest.mark.slow) for one in dict.fromkeys(ALL)],
)
def test_every_mesh_gives_the_losses_and_the_adapters_gradients_of_one_device(settings, found, family, mesh):
    head = ('head',) if family == 'today' else ()
    fields = FAMILIES[family] | LORA | {'tune.targets': (*LORA['tune.targets'], *head), 'tune.train': ('norm',)}
    if family not in found:
        found[family] = run(settings(fields), 4)
    spread = {f'mesh.{name}': value for name, value in (MESHES | MORE)[mesh].items()}
    same(found[family], run(settings(fields | spread), 4))


@pytest.mark.parametrize('mesh', ['data', pytest.param('fsdp_and_data', marks=pytest.mark.slow)])
def test_every_mesh_trains_parts_as_one_device(settings, found, mesh):
    fields = FAMILIES['dense'] | PARTS
    if 'parts' not in found:
        found['parts'] = run(settings(fields), 4)
    spread = {f'mesh.{name}': value for name, value in (MESHES | MORE)[mesh].items()}
    same(found['parts'], run(settings(fields | spread), 4))


def test_a_pipeline_does_not_cut_a_stack_that_is_trained_in_part(settings):
    with pytest.raises(UserError, match=r'config.mesh.pipeline: 2 devices share the layers, and of blocks/attention'):
        assemble.build(settings(PARTS | {'mesh.pipeline': 2, 'mesh.data': 1}))


@pytest.mark.slow
def test_several_runs_at_once_tune_as_one(settings):
    s = settings(LORA)
    many = assemble.build_many(s, 2)
    batch = next(rows(s, 1))
    states = many.init(jnp.array([0, 1], jnp.uint32))
    rates = jnp.full(2, s.optimizer.learning_rate)
    states, metrics = many.step(
        states, {k: np.stack([v, v]) for k, v in batch.items()}, jnp.array([0, 1], jnp.uint32), rates
    )
    losses, _ = run(s, batches=[batch])
    assert metrics['loss'][0] == pytest.approx(losses[0], rel=1e-5)
    assert metrics['loss'][0] != metrics['loss'][1]
