"""Is a folder of adapters that is not wholly what it says refused, and does what is written come back?"""

import json

import jax
import numpy as np
import pytest

from gpt_jax.errors import UserError
from gpt_jax.finetune import lora
from gpt_jax.interop import adapter_config, adapters, tensor_file
from gpt_jax.interop.adapters import Adapters
from gpt_jax.interop.tensor_file import Written
from gpt_jax.model.lowrank import Adapter
from tests.interop import golden, small_models

RANK = 3


def base(name, path):
    kept = golden.read(name)
    return small_models.read(small_models.write(path, kept['config'], kept['shapes']))


def made(ours, names, scale=0.5, seed=0):
    """Adapters of some size on these weights."""
    chosen = lora.targets(ours.letters, names, ours.model.layers)
    pairs = lora.create(ours.params, ours.letters, chosen, RANK, jax.random.key(seed))
    keys = iter(jax.random.split(jax.random.key(seed + 1), 100))
    moved = jax.tree.map(lambda a: np.array(a + 0.2 * jax.random.normal(next(keys), a.shape)), pairs)
    scales = {
        path: np.full(ours.model.layers if path.startswith('blocks') else (), scale, np.float32) for path in moved
    }
    return Adapters(moved, scales, 'somewhere/base', 0.1)


def write(folder, ours, given, **how):
    adapters.write(folder, ours.model, given, ours.letters, **{'stabilized': False, 'dtype': 'float32'} | how)
    return folder


def read(folder, ours):
    return adapters.read(folder, ours.model, ours.letters, ours.weight)


def function(given, path):
    """What an adapter adds to the weight, layer by layer; float64."""
    pair, scale = given.pairs[path], given.scales[path]
    a, b = (np.asarray(part, np.float64) for part in (pair.a, pair.b))
    stacked = path.startswith('blocks')
    a = a.reshape(*a.shape[:stacked], -1, a.shape[-1])
    b = b.reshape(*b.shape[:stacked], b.shape[stacked], -1)
    return np.reshape(scale, (-1, 1, 1) if stacked else ()) * (a @ b)


@pytest.mark.parametrize('stabilized', [False, True])
@pytest.mark.parametrize('name', ['gpt2', 'gpt2_untied', 'openai-gpt', 'llama3', 'mistral', 'qwen2', 'qwen3'])
def test_what_is_written_comes_back(tmp_path, name, stabilized):
    ours = base(name, tmp_path / 'base')
    given = made(ours, ['all-linear', 'embedding', *([] if ours.model.tied_head else ['head'])])
    back = read(write(tmp_path / 'out', ours, given, stabilized=stabilized), ours)
    assert (back.base, back.dropout) == ('somewhere/base', 0.1)
    assert back.pairs.keys() == given.pairs.keys()
    for path in given.pairs:
        np.testing.assert_allclose(function(back, path), function(given, path), rtol=1e-6, atol=1e-7, err_msg=path)


def test_a_mixture_has_adapters_on_what_is_no_expert(tmp_path):
    ours = base('mixtral', tmp_path / 'base')
    given = made(ours, ['attention'])
    back = read(write(tmp_path / 'out', ours, given), ours)
    np.testing.assert_array_equal(back.pairs['blocks/attention/key'].a, given.pairs['blocks/attention/key'].a)
    with pytest.raises(
        UserError, match=r'^blocks/feedforward/\w+: its adapter has no place in a folder of PEFT; merge'
    ):
        write(tmp_path / 'experts', ours, made(ours, ['all-linear']))
    assert not (tmp_path / 'experts').exists()


def test_query_key_and_value_of_one_matrix(tmp_path):
    """Those that share their a are one adapter of the same rank, others one of the ranks together."""
    ours = base('gpt2', tmp_path / 'base')
    given = made(ours, ['query', 'value'])
    folder = write(tmp_path / 'apart', ours, given)
    tensors = {name: entry.shape for name, entry in tensor_file.header(folder / adapters.TENSORS).items()}
    first = 'base_model.model.transformer.h.0.attn.c_attn.lora'
    assert tensors[f'{first}_A.weight'] == (2 * RANK, 24)
    assert tensors[f'{first}_B.weight'] == (72, 2 * RANK)
    about = json.loads((folder / adapter_config.NAME).read_text())
    assert (about['r'], about['lora_alpha'], about['target_modules']) == (2 * RANK, RANK, ['c_attn'])
    again = read(folder, ours)
    once = write(tmp_path / 'once', ours, again)
    assert (once / adapters.TENSORS).read_bytes() == (folder / adapters.TENSORS).read_bytes()
    assert (again.pairs['blocks/attention/key'].b == 0).all()


def test_scales_that_differ_inside_one_matrix(tmp_path):
    ours = base('gpt2', tmp_path / 'base')
    given = made(ours, ['query', 'key'])
    given.scales['blocks/attention/key'][:] = [0.3, 0.9]
    back = read(write(tmp_path / 'out', ours, given), ours)
    for path in given.pairs:
        np.testing.assert_allclose(function(back, path), function(given, path), rtol=1e-6, atol=1e-7)


def test_layers_without_an_adapter_and_of_other_ranks_and_scales(tmp_path):
    """They are left out, or stand in the patterns, and come back as they were."""
    ours = base('llama', tmp_path / 'base')
    given = made(ours, ['query', 'up'])
    query, up = (given.pairs[f'blocks/{path}'] for path in ('attention/query', 'feedforward/up'))
    query.a[1], query.b[1] = 0, 0
    up.a[0, :, 1:], up.b[0, 1:] = 0, 0
    given.scales['blocks/feedforward/up'][0] = 2.0
    folder = write(tmp_path / 'out', ours, given)
    about = json.loads((folder / adapter_config.NAME).read_text())
    assert about['target_modules'] == ['model.layers.0.self_attn.q_proj', 'up_proj']
    assert about['rank_pattern'] == {'model.layers.0.mlp.up_proj': 1}
    assert about['alpha_pattern'] == {'model.layers.0.mlp.up_proj': 2}
    assert (about['r'], about['lora_alpha']) == (3, 1.5)
    back = read(folder, ours)
    for path in given.pairs:
        np.testing.assert_array_equal(back.pairs[path].a, given.pairs[path].a)
        np.testing.assert_array_equal(back.pairs[path].b, given.pairs[path].b)
    np.testing.assert_allclose(back.scales['blocks/feedforward/up'], [2.0, 0.5])


def test_targets_that_end_alike(tmp_path):
    """'c_proj' would mean attention's and the feed-forward's."""
    ours = base('gpt2', tmp_path / 'base')
    for names, expected in ((['output'], ['attn.c_proj']), (['output', 'down', 'up'], ['c_fc', 'c_proj'])):
        folder = write(tmp_path / names[-1], ours, made(ours, names))
        assert json.loads((folder / adapter_config.NAME).read_text())['target_modules'] == expected


def test_a_vocabulary_that_is_filled_up(tmp_path):
    """Rows that only fill up the table are not written, and are zero when they come back."""
    kept = golden.read('gpt2')
    folder = small_models.write(tmp_path / 'base', kept['config'], kept['shapes'])
    ours = small_models.read(folder)
    filled = ours._replace(model=small_models.section(ours.source, vocab_multiple=8))
    given = made(ours, ['embedding'])
    pair = given.pairs['embedding/table_VD']
    wide = Adapter(np.concatenate([pair.a, np.ones((1, RANK), np.float32)]), pair.b)
    assert filled.model.dims['V'] == len(wide.a) == 32
    out = write(tmp_path / 'out', filled, given._replace(pairs={'embedding/table_VD': wide}))
    assert tensor_file.header(out / adapters.TENSORS)['base_model.model.transformer.wte.lora_embedding_A'].shape == (
        3,
        31,
    )
    back = read(out, filled).pairs['embedding/table_VD']
    np.testing.assert_array_equal(back.a, np.concatenate([pair.a, np.zeros((1, RANK), np.float32)]))


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp('written')
    ours = base('llama', path / 'base')
    folder = write(path / 'out', ours, made(ours, ['query', 'embedding']))
    about = json.loads((folder / adapter_config.NAME).read_text())
    found = {name: tensor_file.mapped(folder / adapters.TENSORS, entry)
             for name, entry in tensor_file.header(folder / adapters.TENSORS).items()}  # fmt: skip
    return ours, about, found


def changed(path, written, fields=None, tensors=None):
    """The folder with fields set, or left out where None; and tensors likewise."""
    ours, about, found = written
    about = {key: value for key, value in (about | (fields or {})).items() if key not in (fields or {}) or value != '-'}
    found = {name: value for name, value in (found | (tensors or {})).items() if value is not None}
    (path / adapter_config.NAME).write_text(json.dumps(about))
    words = {np.dtype(dtype): word for word, dtype in tensor_file.DTYPES.items()}
    tensor_file.write(
        path / adapters.TENSORS, [Written(n, words[v.dtype], v.shape, lambda v=v: v) for n, v in found.items()]
    )
    return read(path, ours)


Q = 'base_model.model.model.layers.0.self_attn.q_proj'


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'use_dora': True}, 'use_dora: True is not supported; only False is'),
        ({'modules_to_save': ['lm_head']}, r"modules_to_save: \['lm_head'\] is not supported"),
        ({'peft_type': 'IA3'}, "peft_type: 'IA3' is not supported; only 'LORA' is"),
        ({'task_type': 'SEQ_CLS'}, "task_type: 'SEQ_CLS' is not supported"),
        ({'bias': 'all'}, "bias: 'all' is not supported"),
        ({'init_lora_weights': 'pissa'}, "init_lora_weights: 'pissa' is not supported"),
        ({'lora_gamma': 3}, 'lora_gamma: no such field is known for this kind of model; the nearest is'),
        ({'r': 0}, 'r: wants a whole number from 1'),
        ({'lora_alpha': -1}, 'lora_alpha: wants a number above 0, got -1'),
        ({'lora_dropout': 1.0}, 'lora_dropout: wants a number from 0 up to 1, got 1.0'),
        ({'rank_pattern': {'(': 3}}, r"rank_pattern: '\(' is no pattern"),
        ({'alpha_pattern': {'q_proj': 'x'}}, "alpha_pattern: 'q_proj' wants a number above 0, got 'x'"),
        ({'r': 5}, r"embed_tokens\.lora_embedding_A' has the shape \[3, 31\], not \[5, 31\]"),
        ({'target_parameters': ['experts']}, 'target_parameters'),
        ({'layer_replication': [[0, 2]]}, 'layer_replication'),
        ({'trainable_token_indices': [1]}, 'trainable_token_indices'),
    ],
    ids=str,
)
def test_fields_that_say_what_we_do_not_compute(tmp_path, written, fields, message):
    with pytest.raises(UserError, match=message) as error:
        changed(tmp_path, written, fields)
    assert str(error.value).startswith(str(tmp_path))


@pytest.mark.parametrize(
    ('tensors', 'message'),
    [
        ({f'{Q}.lora_B.weight': None}, r"q_proj\.lora_A\.weight' is there, and '.*q_proj\.lora_B\.weight' is missing"),
        (
            {f'{Q}.lora_C.weight': np.ones((3, 24), np.float32)},
            r"q_proj\.lora_C\.weight' is no adapter of a weight of this",
        ),
        ({f'{Q}.lora_magnitude_vector': np.ones(24, np.float32)}, r"lora_magnitude_vector' is no adapter"),
        ({f'{Q}.lora_A.weight': np.ones((24, 3), np.float32)}, r'has the shape \[24, 3\], not \[3, 24\]'),
        ({f'{Q}.lora_A.weight': np.ones((3, 24), np.int8)}, r'is I8; adapters are read as F32, F16, BF16'),
        ({f'{Q}.lora_A.weight': np.full((3, 24), np.nan, np.float32)}, 'holds NaN or infinity'),
        (
            {'base_model.model.model.embed_tokens.base_layer.weight': np.ones((31, 24), np.float32)},
            'model.embed_tokens is saved along, and is not the one of this model',
        ),
    ],
    ids=str,
)
def test_tensors_that_are_not_the_models(tmp_path, written, tensors, message):
    with pytest.raises(UserError, match=message):
        changed(tmp_path, written, tensors=tensors)


def test_an_embedding_that_was_saved_along_and_is_the_models(tmp_path, written):
    ours = written[0]
    name = 'base_model.model.model.embed_tokens.base_layer.weight'
    found = changed(tmp_path, written, tensors={name: ours.weight('embedding/table_VD')})
    assert found.pairs.keys() == {'blocks/attention/query', 'embedding/table_VD'}


def test_fields_that_are_absent_are_pefts_defaults(tmp_path, written):
    absent = dict.fromkeys(('lora_dropout', 'use_rslora', 'rank_pattern', 'ensure_weight_tying', 'inference_mode'), '-')
    found = changed(tmp_path, written, absent | {'lora_alpha': '-'})
    assert found.dropout == 0
    assert found.scales['embedding/table_VD'] == pytest.approx(8 / 3)


@pytest.mark.parametrize('one', ['wte', 'lm_head'])
def test_a_tied_weight_that_is_adapted_in_one_place_alone(tmp_path, one):
    ours = base('gpt2', tmp_path / 'base')
    given = made(ours, ['embedding'])
    folder = write(tmp_path / 'out', ours, given)
    about = json.loads((folder / adapter_config.NAME).read_text())
    assert about['ensure_weight_tying'] is True
    found = {name: tensor_file.mapped(folder / adapters.TENSORS, entry).copy()
             for name, entry in tensor_file.header(folder / adapters.TENSORS).items()}  # fmt: skip
    left = {name: value for name, value in found.items() if one in name}
    (tmp_path / 'half').mkdir()
    with pytest.raises(
        UserError, match='adapts the embedding or the head alone, and in this model they are one weight'
    ):
        changed(tmp_path / 'half', (ours, about | {'ensure_weight_tying': False}, left))
    differing = found | {'base_model.model.lm_head.lora_A.weight': found['base_model.model.lm_head.lora_A.weight'] + 1}
    (tmp_path / 'other').mkdir()
    with pytest.raises(UserError, match='the adapters of embedding and head differ'):
        changed(tmp_path / 'other', (ours, about, differing))


def test_nothing_to_be_written(tmp_path):
    ours = base('gpt2', tmp_path / 'base')
    given = made(ours, ['up'])
    zero = jax.tree.map(np.zeros_like, dict(given.pairs))
    with pytest.raises(UserError, match='no adapter to be written'):
        write(tmp_path / 'out', ours, given._replace(pairs=zero))
    with pytest.raises(UserError, match='float16 has no number for'):
        write(
            tmp_path / 'out',
            ours,
            given._replace(pairs=jax.tree.map(lambda a: a * 1e6, dict(given.pairs))),
            dtype='float16',
        )
    write(tmp_path / 'out', ours, given)
    with pytest.raises(UserError, match='is not empty; name another folder'):
        write(tmp_path / 'out', ours, given)
