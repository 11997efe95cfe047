"""Import and export of PEFT folders: round trips, unsupported fields, invalid tensors."""

import functools
import json

import jax
import numpy as np
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.finetune import lora
from gpt_jax.interop import peft, peft_config, safetensors_files
from gpt_jax.interop.peft import PeftAdapters
from gpt_jax.interop.safetensors_files import LazyTensor
from gpt_jax.model.low_rank import Adapter
from tests.interop import golden, small_models

RANK = 3


def import_base(name, path):
    example = golden.read_golden(name)
    return small_models.import_model(
        small_models.write_folder(path, example['config'], example['shapes'])
    )


def make_adapters(ours, names, scale=0.5, seed=0):
    """Random adapters of the named weights."""
    targets = lora.select_targets(ours.letters, names, ours.config.layers)
    pairs = jax.eval_shape(
        lambda: lora.init_adapters(ours.params, ours.letters, targets, RANK, jax.random.key(0))
    )
    rng = np.random.default_rng(seed)
    trained = jax.tree.map(lambda a: np.float32(0.2 * rng.standard_normal(a.shape)), pairs)
    scales = {
        path: np.full(ours.config.layers if path.startswith('blocks') else (), scale, np.float32)
        for path in trained
    }
    return PeftAdapters(trained, scales, 'somewhere/base', 0.1)


def write_adapters(folder, ours, adapters, rank_stabilized=False, dtype='float32'):
    peft.write_adapters(
        folder, ours.config, adapters, ours.letters, rank_stabilized=rank_stabilized, dtype=dtype
    )
    return folder


def read_adapters(folder, ours):
    return peft.read_adapters(folder, ours.config, ours.letters, ours.read_weight)


def compute_update(adapters, path):
    """What an adapter adds to the weight of each layer, float64."""
    pair, scale = adapters.pairs[path], adapters.scales[path]
    a, b = (np.asarray(factor, np.float64) for factor in (pair.a, pair.b))
    stacked = path.startswith('blocks')
    a = a.reshape(*a.shape[:stacked], -1, a.shape[-1])
    b = b.reshape(*b.shape[:stacked], b.shape[stacked], -1)
    return np.reshape(scale, (-1, 1, 1) if stacked else ()) * (a @ b)


@pytest.mark.parametrize('rank_stabilized', [False, True])
@pytest.mark.parametrize(
    'name', ['gpt2', 'gpt2_untied', 'openai-gpt', 'llama3', 'mistral', 'qwen2', 'qwen3']
)
def test_exported_adapters_are_imported_unchanged(tmp_path, name, rank_stabilized):
    ours = import_base(name, tmp_path / 'base')
    adapters = make_adapters(
        ours, ['all-linear', 'embedding', *([] if ours.config.tied_head else ['head'])]
    )
    imported = read_adapters(
        write_adapters(tmp_path / 'out', ours, adapters, rank_stabilized=rank_stabilized), ours
    )
    assert (imported.base, imported.dropout) == ('somewhere/base', 0.1)
    assert imported.pairs.keys() == adapters.pairs.keys()
    for path in adapters.pairs:
        np.testing.assert_allclose(
            compute_update(imported, path),
            compute_update(adapters, path),
            rtol=1e-6,
            atol=1e-7,
            err_msg=path,
        )


def test_mixture_of_experts_has_adapters_outside_of_experts(tmp_path):
    ours = import_base('mixtral', tmp_path / 'base')
    adapters = make_adapters(ours, ['attention'])
    imported = read_adapters(write_adapters(tmp_path / 'out', ours, adapters), ours)
    np.testing.assert_array_equal(
        imported.pairs['blocks/attention/key'].a, adapters.pairs['blocks/attention/key'].a
    )
    with pytest.raises(
        UserError, match=r'^blocks/feedforward/\w+: PEFT cannot represent its adapter; merge'
    ):
        write_adapters(tmp_path / 'experts', ours, make_adapters(ours, ['all-linear']))
    assert not (tmp_path / 'experts').exists()


def test_fused_query_key_and_value(tmp_path):
    """Adapters with the same a become one; different ones become one with the sum of the ranks."""
    ours = import_base('gpt2', tmp_path / 'base')
    adapters = make_adapters(ours, ['query', 'value'])
    folder = write_adapters(tmp_path / 'separate', ours, adapters)
    tensors = {
        name: entry.shape
        for name, entry in safetensors_files.read_header(folder / peft.ADAPTER_FILE).items()
    }
    first = 'base_model.model.transformer.h.0.attn.c_attn.lora'
    assert tensors[f'{first}_A.weight'] == (2 * RANK, 24)
    assert tensors[f'{first}_B.weight'] == (72, 2 * RANK)
    config = json.loads((folder / peft_config.ADAPTER_CONFIG_FILE).read_text())
    assert (config['r'], config['lora_alpha'], config['target_modules']) == (
        2 * RANK,
        RANK,
        ['c_attn'],
    )
    imported = read_adapters(folder, ours)
    again = write_adapters(tmp_path / 'again', ours, imported)
    assert (again / peft.ADAPTER_FILE).read_bytes() == (folder / peft.ADAPTER_FILE).read_bytes()
    assert (imported.pairs['blocks/attention/key'].b == 0).all()


def test_different_scales_in_a_fused_matrix(tmp_path):
    ours = import_base('gpt2', tmp_path / 'base')
    adapters = make_adapters(ours, ['query', 'key'])
    adapters.scales['blocks/attention/key'][:] = [0.3, 0.9]
    imported = read_adapters(write_adapters(tmp_path / 'out', ours, adapters), ours)
    for path in adapters.pairs:
        np.testing.assert_allclose(
            compute_update(imported, path), compute_update(adapters, path), rtol=1e-6, atol=1e-7
        )


def test_layers_without_adapter_or_with_other_rank_or_scale(tmp_path):
    """They are left out or in the patterns, and are imported unchanged."""
    ours = import_base('llama', tmp_path / 'base')
    adapters = make_adapters(ours, ['query', 'up'])
    query, up = (adapters.pairs[f'blocks/{path}'] for path in ('attention/query', 'feedforward/up'))
    query.a[1], query.b[1] = 0, 0
    up.a[0, :, 1:], up.b[0, 1:] = 0, 0
    adapters.scales['blocks/feedforward/up'][0] = 2.0
    folder = write_adapters(tmp_path / 'out', ours, adapters)
    config = json.loads((folder / peft_config.ADAPTER_CONFIG_FILE).read_text())
    assert config['target_modules'] == ['model.layers.0.self_attn.q_proj', 'up_proj']
    assert config['rank_pattern'] == {'model.layers.0.mlp.up_proj': 1}
    assert config['alpha_pattern'] == {'model.layers.0.mlp.up_proj': 2}
    assert (config['r'], config['lora_alpha']) == (3, 1.5)
    imported = read_adapters(folder, ours)
    for path in adapters.pairs:
        np.testing.assert_array_equal(imported.pairs[path].a, adapters.pairs[path].a)
        np.testing.assert_array_equal(imported.pairs[path].b, adapters.pairs[path].b)
    np.testing.assert_allclose(imported.scales['blocks/feedforward/up'], [2.0, 0.5])


def test_target_modules_with_a_common_suffix(tmp_path):
    """'c_proj' means those of attention and of the feed-forward."""
    ours = import_base('gpt2', tmp_path / 'base')
    for names, expected in (
        (['output'], ['attn.c_proj']),
        (['output', 'down', 'up'], ['c_fc', 'c_proj']),
    ):
        folder = write_adapters(tmp_path / names[-1], ours, make_adapters(ours, names))
        assert (
            json.loads((folder / peft_config.ADAPTER_CONFIG_FILE).read_text())['target_modules']
            == expected
        )


def test_vocabulary_padding(tmp_path):
    """Padding rows are not exported, and are zero after an import."""
    example = golden.read_golden('gpt2')
    folder = small_models.write_folder(tmp_path / 'base', example['config'], example['shapes'])
    ours = small_models.import_model(folder)
    padded = ours._replace(config=small_models.make_model_config(ours.source, vocab_multiple=8))
    adapters = make_adapters(ours, ['embedding'])
    pair = adapters.pairs['embedding/table_VD']
    wide = Adapter(np.concatenate([pair.a, np.ones((1, RANK), np.float32)]), pair.b)
    assert padded.config.dims['V'] == len(wide.a) == 32
    out = write_adapters(
        tmp_path / 'out', padded, adapters._replace(pairs={'embedding/table_VD': wide})
    )
    assert safetensors_files.read_header(out / peft.ADAPTER_FILE)[
        'base_model.model.transformer.wte.lora_embedding_A'
    ].shape == (3, 31)
    imported = read_adapters(out, padded).pairs['embedding/table_VD']
    padding = np.zeros((1, RANK), np.float32)
    np.testing.assert_array_equal(imported.a, np.concatenate([pair.a, padding]))


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """(imported base model, adapter config, adapter tensors)."""
    path = tmp_path_factory.mktemp('exported')
    ours = import_base('llama', path / 'base')
    folder = write_adapters(path / 'out', ours, make_adapters(ours, ['query', 'embedding']))
    config = json.loads((folder / peft_config.ADAPTER_CONFIG_FILE).read_text())
    tensors = {
        name: safetensors_files.map_tensor(folder / peft.ADAPTER_FILE, entry)
        for name, entry in safetensors_files.read_header(folder / peft.ADAPTER_FILE).items()
    }
    return ours, config, tensors


ABSENT = object()


def import_changed(path, exported, fields=None, tensors=None):
    """Import the folder with changed fields (ABSENT removes one) and tensors (None removes one)."""
    ours, config, exported_tensors = exported
    config = {key: v for key, v in (config | (fields or {})).items() if v is not ABSENT}
    (path / peft_config.ADAPTER_CONFIG_FILE).write_text(json.dumps(config))
    dtypes = {np.dtype(dtype): name for name, dtype in safetensors_files.DTYPES.items()}
    safetensors_files.write_tensors(
        path / peft.ADAPTER_FILE,
        [
            LazyTensor(name, dtypes[v.dtype], v.shape, functools.partial(np.asarray, v))
            for name, v in (exported_tensors | (tensors or {})).items()
            if v is not None
        ],
    )
    return read_adapters(path, ours)


Q = 'base_model.model.model.layers.0.self_attn.q_proj'


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'use_dora': True}, 'use_dora: True is not supported; only False is'),
        ({'peft_type': 'IA3'}, "peft_type: 'IA3' is not supported; only 'LORA' is"),
        ({'task_type': 'SEQ_CLS'}, "task_type: 'SEQ_CLS' is not supported"),
        ({'bias': 'all'}, "bias: 'all' is not supported"),
        ({'init_lora_weights': 'pissa'}, "init_lora_weights: 'pissa' is not supported"),
        ({'r': 0}, r'r: must be an integer in \[1, '),
        ({'lora_alpha': -1}, 'lora_alpha: must be a number above 0, got -1'),
        ({'lora_dropout': 1.0}, r'lora_dropout: must be a number in \[0, 1\), got 1.0'),
        ({'rank_pattern': {'(': 3}}, r"rank_pattern: '\(' is not a pattern"),
        (
            {'alpha_pattern': {'q_proj': 'x'}},
            "alpha_pattern: 'q_proj': must be a number above 0, got 'x'",
        ),
        ({'r': 5}, r"lora_embedding_A' must have the shape \[5, 31\], got \[3, 31\]"),
        ({'target_parameters': ['experts']}, 'target_parameters'),
        ({'layer_replication': [[0, 2]]}, 'layer_replication'),
        ({'trainable_token_indices': [1]}, 'trainable_token_indices'),
    ],
    ids=str,
)
def test_unsupported_fields_are_rejected(tmp_path, exported, fields, message):
    with pytest.raises(UserError, match=message) as error:
        import_changed(tmp_path, exported, fields)
    assert str(error.value).startswith(str(tmp_path))


@pytest.mark.parametrize(
    ('tensors', 'message'),
    [
        (
            {f'{Q}.lora_B.weight': None},
            r"q_proj\.lora_B\.weight' is missing, but '.*q_proj\.lora_A\.weight' is present",
        ),
        (
            {f'{Q}.lora_C.weight': np.ones((3, 24), np.float32)},
            r"q_proj\.lora_C\.weight' is not an adapter of this model",
        ),
        (
            {f'{Q}.lora_magnitude_vector': np.ones(24, np.float32)},
            r"lora_magnitude_vector' is not an adapter",
        ),
        (
            {f'{Q}.lora_A.weight': np.ones((24, 3), np.float32)},
            r'must have the shape \[3, 24\], got \[24, 3\]',
        ),
        (
            {f'{Q}.lora_A.weight': np.ones((3, 24), np.int8)},
            r'must be one of F32, F16, BF16, got I8',
        ),
        (
            {f'{Q}.lora_A.weight': np.full((3, 24), np.nan, np.float32)},
            'has NaN or infinite values',
        ),
        (
            {
                'base_model.model.model.embed_tokens.base_layer.weight': np.ones(
                    (31, 24), np.float32
                )
            },
            'the saved weight of model.embed_tokens differs from that of the model',
        ),
    ],
    ids=str,
)
def test_invalid_tensors_are_rejected(tmp_path, exported, tensors, message):
    with pytest.raises(UserError, match=message):
        import_changed(tmp_path, exported, tensors=tensors)


def test_embedding_saved_with_the_adapter(tmp_path, exported):
    ours = exported[0]
    name = 'base_model.model.model.embed_tokens.base_layer.weight'
    imported = import_changed(
        tmp_path, exported, tensors={name: ours.read_weight('embedding/table_VD')}
    )
    assert imported.pairs.keys() == {'blocks/attention/query', 'embedding/table_VD'}


def test_absent_fields_have_the_defaults_of_peft(tmp_path, exported):
    absent = dict.fromkeys(
        ('lora_dropout', 'use_rslora', 'rank_pattern', 'ensure_weight_tying', 'inference_mode'),
        ABSENT,
    )
    imported = import_changed(tmp_path, exported, absent | {'lora_alpha': ABSENT})
    assert imported.dropout == 0
    assert imported.scales['embedding/table_VD'] == pytest.approx(8 / 3)


@pytest.mark.parametrize('module', ['wte', 'lm_head'])
def test_tied_weight_adapted_in_only_one_module(tmp_path, module):
    ours = import_base('gpt2', tmp_path / 'base')
    adapters = make_adapters(ours, ['embedding'])
    folder = write_adapters(tmp_path / 'out', ours, adapters)
    config = json.loads((folder / peft_config.ADAPTER_CONFIG_FILE).read_text())
    assert config['ensure_weight_tying'] is True
    tensors = {
        name: safetensors_files.map_tensor(folder / peft.ADAPTER_FILE, entry).copy()
        for name, entry in safetensors_files.read_header(folder / peft.ADAPTER_FILE).items()
    }
    half = {name: value for name, value in tensors.items() if module in name}
    (tmp_path / 'half').mkdir()
    with pytest.raises(
        UserError, match='adapts only one of embedding and head, which are one weight in this model'
    ):
        import_changed(tmp_path / 'half', (ours, config | {'ensure_weight_tying': False}, half))
    name = 'base_model.model.lm_head.lora_A.weight'
    differing = tensors | {name: tensors[name] + 1}
    (tmp_path / 'other').mkdir()
    with pytest.raises(UserError, match='the adapters of embedding and head must be equal'):
        import_changed(tmp_path / 'other', (ours, config, differing))


def test_export_errors(tmp_path):
    ours = import_base('gpt2', tmp_path / 'base')
    adapters = make_adapters(ours, ['up'])
    zero = jax.tree.map(np.zeros_like, dict(adapters.pairs))
    with pytest.raises(UserError, match='no adapter to export'):
        write_adapters(tmp_path / 'out', ours, adapters._replace(pairs=zero))
    with pytest.raises(UserError, match='must be finite in float16'):
        write_adapters(
            tmp_path / 'out',
            ours,
            adapters._replace(pairs=jax.tree.map(lambda a: a * 1e6, dict(adapters.pairs))),
            dtype='float16',
        )
    write_adapters(tmp_path / 'out', ours, adapters)
    with pytest.raises(UserError, match='must be empty; give another folder'):
        write_adapters(tmp_path / 'out', ours, adapters)
