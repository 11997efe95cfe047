"""Import and export of Hugging Face folders: hub names, invalid files, atomicity."""

import dataclasses
import functools
import json
import os
import re
import sys
import types

import ml_dtypes
import numpy as np
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.interop import huggingface, safetensors_files
from gpt_jax.interop.safetensors_files import LazyTensor
from tests.interop import golden, small_models

TABLE, HEAD = 'transformer.wte.weight', 'lm_head.weight'


def write_folder(path, name='gpt2', config=None, **values):
    """Write the folder of a small model.

    config: fields to change; None removes one. values: tensors, likewise.
    """
    example = golden.read_golden(name)
    content = example['config'] | (config or {})
    content = {key: value for key, value in content.items() if value is not None}
    tensors = {
        tensor: small_models.make_tensor(tensor, tuple(shape))
        for tensor, shape in example['shapes'].items()
    }
    path.mkdir(parents=True, exist_ok=True)
    (path / 'config.json').write_text(json.dumps(content))
    dtypes = {np.dtype(dtype): name for name, dtype in safetensors_files.DTYPES.items()}
    safetensors_files.write_shards(
        path,
        [
            LazyTensor(tensor, dtypes[v.dtype], v.shape, functools.partial(np.asarray, v))
            for tensor, v in (tensors | values).items()
            if v is not None
        ],
    )
    return path


def make_table():
    return small_models.make_tensor(TABLE, (31, 24))


BIAS = 'transformer.h.1.mlp.c_fc.bias'
INVALID_TENSORS = [
    ({BIAS: None}, r"'transformer\.h\.1\.mlp\.c_fc\.bias' is missing; the nearest is"),
    (
        {'transformer.h.2.ln_1.bias': np.ones(24, np.float32)},
        r"'transformer\.h\.2\.ln_1\.bias' \[24\] is not a weight",
    ),
    (
        {'score.weight': np.ones((2, 24), np.float32)},
        r"'score\.weight' \[2, 24\] is not a weight of this gpt2 model",
    ),
    (
        {BIAS: np.ones(95, np.float32)},
        r"c_fc\.bias' must have the shape \[96\] of config\.json, got \[95\]",
    ),
    (
        {'transformer.h.0.attn.c_attn.weight': np.ones((72, 24), np.float32)},
        r'must have the shape \[24, 72\] of .*, got \[72, 24\]',
    ),
    ({BIAS: np.ones(96, np.int8)}, r"c_fc\.bias' must be one of F32, F16, BF16, got I8"),
    ({BIAS: np.ones(96, np.float64)}, r"c_fc\.bias' must be one of F32, F16, BF16, got F64"),
    ({BIAS: np.full(96, np.nan, np.float32)}, r"c_fc\.bias' has NaN or infinite values"),
    ({BIAS: np.full(96, np.inf, ml_dtypes.bfloat16)}, r"c_fc\.bias' has NaN or infinite values"),
    (
        {HEAD: make_table() + 1},
        "ties the head to the embedding, but 'lm_head.weight' differs from 'transformer.wte",
    ),
    (
        {HEAD: make_table().astype(np.float16)},
        "ties the head to the embedding, but 'lm_head.weight' differs",
    ),
    ({HEAD: make_table()[:30]}, "ties the head to the embedding, but 'lm_head.weight' differs"),
]


@pytest.mark.parametrize(('values', 'message'), INVALID_TENSORS)
def test_invalid_tensors_are_rejected(tmp_path, values, message):
    with pytest.raises(UserError, match=message):
        small_models.import_model(write_folder(tmp_path, **values))


def test_missing_untied_head(tmp_path):
    with pytest.raises(UserError, match=r"'lm_head\.weight' is missing"):
        small_models.import_model(write_folder(tmp_path, config={'tie_word_embeddings': False}))


def test_tied_head_with_an_impossible_shape(tmp_path):
    path = write_folder(tmp_path, **{HEAD: np.zeros((0, 7), np.float32)}) / 'model.safetensors'
    content = path.read_bytes()
    wide, length = (
        content[8:].replace(b'[0,7]', b'[0,1%s]' % (b'0' * 30), 1),
        int.from_bytes(content[:8], 'little'),
    )
    path.write_bytes((length + 30).to_bytes(8, 'little') + wide)
    with pytest.raises(UserError, match=r"'lm_head\.weight' differs"):
        small_models.import_model(tmp_path)


@pytest.mark.parametrize('name', ['mixtral', 'qwen3_moe'])
def test_experts_in_one_tensor_are_read(tmp_path, name):
    """The tensors have the names and shapes that transformers 5 has in memory."""
    apart = small_models.import_model(write_folder(tmp_path / 'apart', name))
    index = safetensors_files.index_folder(tmp_path / 'apart')
    tensors = {key: np.array(index.map(key)) for key in index.entries}
    gate, up, down = (
        ('w1', 'w3', 'w2') if name == 'mixtral' else ('gate_proj', 'up_proj', 'down_proj')
    )
    moe = 'block_sparse_moe' if name == 'mixtral' else 'mlp'
    changed, experts = {}, apart.config.experts
    for layer in range(2):
        block = f'model.layers.{layer}'
        expert = lambda n, part, block=block: tensors[f'{block}.{moe}.experts.{n}.{part}.weight']
        changed[f'{block}.mlp.experts.gate_up_proj'] = np.stack(
            [np.concatenate([expert(n, gate), expert(n, up)]) for n in range(experts)]
        )
        changed[f'{block}.mlp.experts.down_proj'] = np.stack(
            [expert(n, down) for n in range(experts)]
        )
        router = tensors[f'{block}.{moe}.gate.weight']
        changed |= {key: None for key in tensors if key.startswith(f'{block}.{moe}.')}
        changed[f'{block}.mlp.gate.weight'] = router
    fused = small_models.import_model(write_folder(tmp_path / 'fused', name, **changed))
    assert fused.letters == apart.letters
    for path in apart.letters:
        assert fused.read_weight(path).tobytes() == apart.read_weight(path).tobytes(), path


def test_the_class_stands_in_for_a_missing_model_type(tmp_path):
    fields = {'model_type': None, 'architectures': ['GPT2LMHeadModel'], 'unsloth_fixed': True}
    folder = huggingface.read_folder(str(write_folder(tmp_path, config=fields)))
    assert (folder.model_type, folder.unknown_fields) == ('gpt2', ('unsloth_fixed',))
    lines = []
    folder.log_unknown_fields(lines.append)
    assert lines == [f'{tmp_path}/config.json: ignored, since gpt2 has no unsloth_fixed']
    fields['architectures'] = ['MyModel']
    with pytest.raises(
        UserError, match=r"architectures: \['MyModel'\] is not supported; supported"
    ):
        huggingface.read_folder(str(write_folder(tmp_path / 'mine', config=fields)))


def test_gpt_neox_head_and_buffers(tmp_path):
    """The published Pythia models have them; their head has a name of its own."""
    buffers = {
        'gpt_neox.layers.0.attention.bias': np.ones((1, 1, 4, 4), bool),
        'gpt_neox.layers.1.attention.masked_bias': np.float32(-1e9),
        'gpt_neox.layers.1.attention.rotary_emb.inv_freq': np.ones(2, np.float32),
    }
    ours = small_models.import_model(write_folder(tmp_path / 'in', 'gpt_neox', **buffers))
    assert ours.read_weight('head/weight_VD').shape == (31, 24)
    tied = golden.read_golden('gpt_neox_sequential')['shapes']
    head = {'embed_out.weight': np.zeros(tied['gpt_neox.embed_in.weight'], np.float32)}
    with pytest.raises(UserError, match=r"'embed_out\.weight' differs"):
        small_models.import_model(write_folder(tmp_path / 'tied', 'gpt_neox_sequential', **head))


def test_tied_head_may_be_stored_too(tmp_path):
    ours = small_models.import_model(write_folder(tmp_path, **{HEAD: make_table()}))
    assert ours.read_weight('embedding/table_VD').tobytes() == make_table().tobytes()


def test_names_without_prefix_and_unused_buffers(tmp_path):
    """The published gpt2 and openai-gpt have them."""
    plain = small_models.import_model(write_folder(tmp_path / 'plain'))
    shapes = golden.read_golden('gpt2')['shapes']
    bare = {
        name.removeprefix('transformer.'): small_models.make_tensor(name, tuple(shape))
        for name, shape in shapes.items()
    }
    mask = np.tril(np.ones((1, 1, 16, 16), np.float32))
    bare |= {
        'h.0.attn.bias': mask,
        'h.1.attn.bias': mask.astype(bool),
        'h.1.attn.masked_bias': np.float32([-1e4]),
    }
    ours = small_models.import_model(
        write_folder(tmp_path / 'bare', **bare, **dict.fromkeys(shapes))
    )
    for path in plain.letters:
        assert ours.read_weight(path).tobytes() == plain.read_weight(path).tobytes()
    buffer = {'model.layers.1.self_attn.rotary_emb.inv_freq': np.ones(3, np.float32)}
    small_models.import_model(write_folder(tmp_path / 'llama', 'llama', **buffer))


@pytest.mark.parametrize('dtype', [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_imported_and_exported_exactly(tmp_path, dtype):
    shapes = golden.read_golden('llama')['shapes']
    values = {
        name: small_models.make_tensor(name, tuple(shape)).astype(dtype)
        for name, shape in shapes.items()
    }
    ours = small_models.import_model(write_folder(tmp_path / 'in', 'llama', **values))
    assert all(leaf.dtype == np.float32 for leaf in small_models.by_path(ours.params).values())
    huggingface.write_model_folder(
        tmp_path / 'out',
        ours.config,
        ours.read_weight,
        ours.letters,
        special_ids={},
        dtype=np.dtype(dtype).name,
        extra={},
    )
    assert json.loads((tmp_path / 'out/config.json').read_text())['dtype'] == np.dtype(dtype).name
    exported = safetensors_files.index_folder(tmp_path / 'out')
    assert exported.entries.keys() == values.keys()
    for name, value in values.items():
        assert exported.map(name).tobytes() == value.tobytes()


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (
            {'model_type': 'bloom'},
            "model_type: 'bloom' is not supported; supported are gpt2, openai-gpt, gpt_neox, opt",
        ),
        (
            {'model_type': None, 'architectures': ['GPTForCausalLM']},
            'architectures: .*GPTForCausalLM.* is not supported',
        ),
        (
            {'architectures': ['GPT2ForSequenceClassification']},
            'architectures: .* is not supported',
        ),
        ({'n_layer': 2**31 - 1}, r'has 2147483647 layers, but there are only 28 tensors'),
        ({'n_layer': 3}, r"'transformer\.h\.2\.ln_1\.weight' is missing"),
        ({'n_layer': 1}, r"'transformer\.h\.1\..*' .* is not a weight"),
        (
            {'vocab_size': 2**31 - 1},
            r"wte\.weight' must have the shape \[2147483647, 24\] of .*, got \[31, 24\]",
        ),
        ({'n_embd': 3 * 2**29, 'n_inner': 2**31 - 1}, 'must have the shape'),
    ],
)
def test_config_that_does_not_match_the_tensors(tmp_path, config, message):
    with pytest.raises(UserError, match=message):
        small_models.import_model(write_folder(tmp_path, config=config))


def test_folders_without_a_valid_config(tmp_path):
    with pytest.raises(UserError, match=r'holds no config\.json'):
        huggingface.read_folder(str(tmp_path))
    for content, message in (
        ('[]', 'must be a JSON object'),
        ('{', 'not JSON'),
        ('{"a": 1, "a": 2}', 'twice'),
    ):
        (tmp_path / 'config.json').write_text(content)
        with pytest.raises(UserError, match=message):
            huggingface.read_folder(str(tmp_path))


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        (
            {'position': 'alibi'},
            "config.model.position: 'alibi': no supported Hugging Face model has this; the nearest "
            'is gpt2',
        ),
        ({'block': 'parallel'}, "config.model.block: 'parallel'"),
        ({'qk_norm': True}, 'config.model.qk_norm: True'),
        ({'attention_softcap': 30.0}, 'config.model.attention_softcap: 30.0'),
        ({'logit_softcap': 30.0}, 'config.model.logit_softcap: 30.0'),
        ({'attention_sink': True}, 'config.model.attention_sink: True'),
        ({'attention_scale_dim': 3}, 'config.model.attention_scale_dim: 3'),
        ({'kv_heads': 1}, 'config.model.kv_heads: 1'),
        ({'bias': False}, 'config.model.bias: False'),
        ({'norm': 'rms'}, "config.model.norm: 'rms'"),
        ({'attention_pattern': ('window',), 'window': 4}, 'config.model.attention_pattern'),
        ({'parametrization': 'mup', 'base_width': 8}, "config.model.parametrization: 'mup'"),
    ],
)
def test_models_without_a_layout_are_rejected_by_field(model_config, fields, message):
    with pytest.raises(UserError, match=message):
        huggingface.select_layout(model_config(**fields))


def test_select_layout(model_config):
    rotary = {
        'norm': 'rms',
        'position': 'rotary',
        'feedforward': 'gated',
        'bias': False,
        'activation': 'silu',
    }
    window = {'attention_pattern': ('window',), 'window': 4}
    mixed = {'attention_pattern': ('window', 'full'), 'window': 4}
    assert huggingface.select_layout(model_config()) == 'gpt2'
    assert (
        huggingface.select_layout(model_config(tied_head=False, parametrization='mup')) == 'gpt2'
    )  # of the base shape
    assert (
        huggingface.select_layout(model_config(block='post_norm', final_norm=False)) == 'openai-gpt'
    )
    assert huggingface.select_layout(model_config(activation='relu')) == 'opt'
    assert huggingface.select_layout(model_config(activation='silu')) == 'gpt2'
    assert (
        huggingface.select_layout(
            model_config(block='post_norm', final_norm=False, activation='relu')
        )
        == 'opt'
    )
    neox = {'block': 'parallel_two_norms', 'position': 'rotary', 'rotary_fraction': 0.5}
    assert huggingface.select_layout(model_config(**neox)) == 'gpt_neox'
    assert huggingface.select_layout(model_config(**rotary)) == 'llama'
    assert huggingface.select_layout(model_config(**rotary, **window)) == 'mistral'
    assert huggingface.select_layout(model_config(**rotary, qkv_bias=True, **mixed)) == 'qwen2'
    assert huggingface.select_layout(model_config(**rotary, qk_norm=True)) == 'qwen3'
    gemma = {'block': 'sandwich_norm', 'norm': 'zero_centered_rms', 'scale_embedding': True}
    assert huggingface.select_layout(model_config(**rotary | gemma | mixed)) == 'gemma2'
    gemma |= {'qk_norm': True, 'window_rotary_base': 50.0}
    assert huggingface.select_layout(model_config(**rotary | gemma | mixed)) == 'gemma3_text'
    olmo = {'block': 'output_norm', 'qk_norm': True, 'qk_norm_per_head': False}
    assert huggingface.select_layout(model_config(**rotary | olmo)) == 'olmo2'
    assert huggingface.select_layout(model_config(**rotary | olmo | mixed)) == 'olmo3'
    routed = rotary | {'feedforward': 'experts', 'experts': 4}
    assert (
        huggingface.select_layout(model_config(**routed, capacity_factor=1.25)) == 'mixtral'
    )  # of training alone
    assert huggingface.select_layout(model_config(**routed, qk_norm=True)) == 'qwen3_moe'
    for field, value in (
        ('shared_experts', 1),
        ('rotary_fraction', 0.5),
        ('rotary_scaling', 'ntk'),
    ):
        with pytest.raises(UserError, match=f'config.model.{field}'):
            huggingface.select_layout(model_config(**routed | {field: value}))
    with pytest.raises(UserError, match='attention_pattern'):
        huggingface.select_layout(model_config(**rotary, **mixed))


def export(ours, path, *, config=None, read_weight=None, dtype='float32', extra=None):
    huggingface.write_model_folder(
        path,
        config or ours.config,
        read_weight or ours.read_weight,
        ours.letters,
        special_ids={},
        dtype=dtype,
        extra=extra or {},
    )


def test_vocabulary_padding_is_not_exported(tmp_path):
    ours = small_models.import_model(write_folder(tmp_path / 'in'))
    padded = dataclasses.replace(ours.config, vocab_multiple=16)

    def pad_weight(path):
        weight = ours.read_weight(path)
        return np.pad(weight, ((0, 1), (0, 0))) if 'table_VD' in path else weight

    assert padded.dims['V'] == 32
    export(ours, tmp_path / 'out', config=padded, read_weight=pad_weight)
    exported = safetensors_files.index_folder(tmp_path / 'out')
    assert exported.map(TABLE).tobytes() == make_table().tobytes()


def test_export_is_atomic(tmp_path):
    ours = small_models.import_model(write_folder(tmp_path / 'in'))
    (tmp_path / 'out').mkdir()
    with pytest.raises(UserError, match=r'must be finite in float16, got 1e\+05'):
        export(
            ours,
            tmp_path / 'out',
            dtype='float16',
            read_weight=lambda path: np.full_like(ours.read_weight(path), 1e5),
        )
    assert sorted(os.listdir(tmp_path)) == ['in', 'out']
    assert not os.listdir(tmp_path / 'out')
    export(ours, tmp_path / 'out', extra={'note.txt': b'x'})
    assert sorted(os.listdir(tmp_path / 'out')) == ['config.json', 'model.safetensors', 'note.txt']
    with pytest.raises(UserError, match=r'OUTPUT=.*out: must be empty'):
        export(ours, tmp_path / 'out')
    assert sorted(os.listdir(tmp_path)) == ['in', 'out']


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """A hub that has every name; collects the calls."""
    calls = []

    def snapshot_download(name, **given):
        calls.append((name, given))
        if not name.startswith('old/'):
            (tmp_path / 'model.safetensors').touch()
        return str(tmp_path)

    monkeypatch.setitem(
        sys.modules, 'huggingface_hub', types.SimpleNamespace(snapshot_download=snapshot_download)
    )
    return calls


def test_local_folder_is_not_downloaded(tmp_path, downloads):
    assert huggingface.resolve_folder(str(tmp_path)) == tmp_path
    assert downloads == []


def test_hub_name_is_downloaded(tmp_path, downloads):
    assert huggingface.resolve_folder('openai-community/gpt2') == tmp_path
    assert huggingface.resolve_folder('gpt2@e7da7f2') == tmp_path
    assert [(name, given['revision']) for name, given in downloads] == [
        ('openai-community/gpt2', None),
        ('gpt2', 'e7da7f2'),
    ]
    patterns = downloads[0][1]['allow_patterns']
    assert {'config.json', 'model.safetensors', 'tokenizer.json', 'merges.txt'} <= set(patterns)
    assert not any(
        pattern.endswith(('.bin', '.pt', '.py', '.h5')) or pattern.startswith('*')
        for pattern in patterns
    )


def test_pickles_are_downloaded_only_if_there_is_nothing_else(tmp_path, downloads):
    assert huggingface.resolve_folder('old/model') == tmp_path
    first, second = (set(given['allow_patterns']) for _, given in downloads)
    assert second - first == set(huggingface.HUB_TORCH_FILES)


@pytest.mark.parametrize(
    'source', ['./gone', '../gone', '/gone', 'a/b/c', '~/gone', '', 'a b', '.hidden', 'a/../b']
)
def test_other_sources_are_not_downloaded(downloads, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(f'SOURCE={source}: neither a folder nor a name')):
        huggingface.resolve_folder(source)
    assert downloads == []


def test_file_instead_of_a_folder(tmp_path):
    (tmp_path / 'model.safetensors').write_bytes(b'')
    with pytest.raises(UserError, match='is a file; give its folder'):
        huggingface.resolve_folder(str(tmp_path / 'model.safetensors'))


def test_missing_hub_package(monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(UserError, match=r"to use the hub, pip install -e '\.\[hf\]'"):
        huggingface.resolve_folder('gpt2')


def test_unreachable_hub(monkeypatch):
    def snapshot_download(*_, **__):
        raise OSError('no route\nto host')

    monkeypatch.setitem(
        sys.modules, 'huggingface_hub', types.SimpleNamespace(snapshot_download=snapshot_download)
    )
    with pytest.raises(
        UserError, match=r'the download from the hub failed \(no route to host\); download'
    ) as error:
        huggingface.resolve_folder('gpt2')
    assert '\n' not in str(error.value)
