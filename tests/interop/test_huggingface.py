"""Is a folder that is not wholly what it says refused, and a model that no layout has? And nothing half written?"""

import dataclasses
import json
import os

import ml_dtypes
import numpy as np
import pytest

from gpt_jax.errors import UserError
from gpt_jax.interop import huggingface, tensor_file, tensors
from gpt_jax.interop.tensor_file import Written
from tests.interop import golden, small_models

TABLE, HEAD = 'transformer.wte.weight', 'lm_head.weight'


def folder(path, name='gpt2', config=None, **values):
    """The folder of a small model. config: fields to set, or to leave out where None; values: tensors, likewise."""
    kept = golden.read(name)
    about = {key: value for key, value in (kept['config'] | (config or {})).items() if value is not None}
    there = {one: small_models.weight(one, tuple(shape)) for one, shape in kept['shapes'].items()}
    there = {one: value for one, value in (there | values).items() if value is not None}
    path.mkdir(parents=True, exist_ok=True)
    (path / 'config.json').write_text(json.dumps(about))
    words = {np.dtype(dtype): word for word, dtype in tensor_file.DTYPES.items()}
    tensors.write(path, [Written(one, words[v.dtype], v.shape, lambda v=v: v) for one, v in there.items()])
    return path


def table():
    return small_models.weight(TABLE, (31, 24))


BIAS = 'transformer.h.1.mlp.c_fc.bias'
BROKEN = [
    ({BIAS: None}, r"'transformer\.h\.1\.mlp\.c_fc\.bias' is missing; the nearest is"),
    ({'transformer.h.2.ln_1.bias': np.ones(24, np.float32)}, r"'transformer\.h\.2\.ln_1\.bias' \[24\] is no weight"),
    ({'score.weight': np.ones((2, 24), np.float32)}, r"'score\.weight' \[2, 24\] is no weight of such a gpt2 model"),
    ({BIAS: np.ones(95, np.float32)}, r"mlp\.c_fc\.bias' has the shape \[95\], and config\.json says \[96\]"),
    ({'transformer.h.0.attn.c_attn.weight': np.ones((72, 24), np.float32)}, r'\[72, 24\], and .* says \[24, 72\]'),
    ({BIAS: np.ones(96, np.int8)}, r"c_fc\.bias' is I8; weights are read as F32, F16, BF16"),
    ({BIAS: np.ones(96, np.float64)}, r"c_fc\.bias' is F64; weights are read as F32, F16, BF16"),
    ({BIAS: np.full(96, np.nan, np.float32)}, r"c_fc\.bias' holds NaN or infinity"),
    ({BIAS: np.full(96, np.inf, ml_dtypes.bfloat16)}, r"c_fc\.bias' holds NaN or infinity"),
    ({HEAD: table() + 1}, "ties the head to the embedding, and 'lm_head.weight' differs from 'transformer.wte.weight'"),
    ({HEAD: table().astype(np.float16)}, "ties the head to the embedding, and 'lm_head.weight' differs"),
    ({HEAD: table()[:30]}, "ties the head to the embedding, and 'lm_head.weight' differs"),
]


@pytest.mark.parametrize(('values', 'message'), BROKEN)
def test_tensors_that_are_not_the_models(tmp_path, values, message):
    with pytest.raises(UserError, match=message):
        small_models.read(folder(tmp_path, **values))


def test_a_head_that_is_said_to_be_there_and_is_not(tmp_path):
    with pytest.raises(UserError, match=r"'lm_head\.weight' is missing"):
        small_models.read(folder(tmp_path, config={'tie_word_embeddings': False}))


def test_a_tied_head_whose_shape_nothing_could_have(tmp_path):
    path = folder(tmp_path, **{HEAD: np.zeros((0, 7), np.float32)}) / 'model.safetensors'
    content = path.read_bytes()
    wide, length = content[8:].replace(b'[0,7]', b'[0,1%s]' % (b'0' * 30), 1), int.from_bytes(content[:8], 'little')
    path.write_bytes((length + 30).to_bytes(8, 'little') + wide)
    with pytest.raises(UserError, match=r"'lm_head\.weight' differs"):
        small_models.read(tmp_path)


def test_a_tied_head_may_be_stored_a_second_time(tmp_path):
    ours = small_models.read(folder(tmp_path, **{HEAD: table()}))
    assert ours.weight('embedding/table_VD').tobytes() == table().tobytes()


def test_names_without_the_prefix_and_buffers_beside_the_weights(tmp_path):
    """As the published gpt2 and openai-gpt have them."""
    plain = small_models.read(folder(tmp_path / 'plain'))
    kept = golden.read('gpt2')['shapes']
    bare = {one.removeprefix('transformer.'): small_models.weight(one, tuple(kept[one])) for one in kept}
    mask = np.tril(np.ones((1, 1, 16, 16), np.float32))
    bare |= {'h.0.attn.bias': mask, 'h.1.attn.bias': mask.astype(bool), 'h.1.attn.masked_bias': np.float32([-1e4])}
    ours = small_models.read(folder(tmp_path / 'bare', **bare, **dict.fromkeys(kept)))
    for path in plain.letters:
        assert ours.weight(path).tobytes() == plain.weight(path).tobytes()
    waves = {'model.layers.1.self_attn.rotary_emb.inv_freq': np.ones(3, np.float32)}
    small_models.read(folder(tmp_path / 'llama', 'llama', **waves))


@pytest.mark.parametrize('dtype', [np.float16, ml_dtypes.bfloat16])
def test_half_precision_comes_in_and_goes_out_exactly(tmp_path, dtype):
    shapes = golden.read('llama')['shapes']
    values = {one: small_models.weight(one, tuple(shape)).astype(dtype) for one, shape in shapes.items()}
    ours = small_models.read(folder(tmp_path / 'in', 'llama', **values))
    assert all(leaf.dtype == np.float32 for leaf in small_models.by_path(ours.params).values())
    huggingface.write(
        tmp_path / 'out', ours.model, ours.weight, ours.letters, tokens={}, dtype=np.dtype(dtype).name, extra={}
    )  # fmt: skip
    assert json.loads((tmp_path / 'out/config.json').read_text())['dtype'] == np.dtype(dtype).name
    back = tensors.find(tmp_path / 'out')
    assert {one: back.raw(one).tobytes() for one in back.where} == {one: v.tobytes() for one, v in values.items()}


@pytest.mark.parametrize(('config', 'message'), [
    ({'model_type': 'gpt_neox'}, "model_type: 'gpt_neox' is not supported; supported are gpt2, openai-gpt, llama"),
    ({'model_type': None}, 'model_type: None is not supported'),
    ({'architectures': ['GPT2ForSequenceClassification']}, 'architectures: .* is not supported'),
    ({'n_layer': 2**31 - 1}, r'says 2147483647 layers, and there are 28 tensors'),
    ({'n_layer': 3}, r"'transformer\.h\.2\.ln_1\.weight' is missing"),
    ({'n_layer': 1}, r"'transformer\.h\.1\..*' .* is no weight"),
    ({'vocab_size': 2**31 - 1}, r"'transformer\.wte\.weight' has the shape \[31, 24\], and .* says \[2147483647, 24\]"),
    ({'n_embd': 3 * 2**29, 'n_inner': 2**31 - 1}, 'has the shape'),
])  # fmt: skip
def test_a_config_that_is_not_the_tensors(tmp_path, config, message):
    with pytest.raises(UserError, match=message):
        small_models.read(folder(tmp_path, config=config))


def test_folders_that_hold_no_model(tmp_path):
    with pytest.raises(UserError, match=r'holds no config\.json'):
        huggingface.read(str(tmp_path))
    for content, message in (('[]', 'wants a JSON object'), ('{', 'not JSON'), ('{"a": 1, "a": 2}', 'twice')):
        (tmp_path / 'config.json').write_text(content)
        with pytest.raises(UserError, match=message):
            huggingface.read(str(tmp_path))


@pytest.mark.parametrize(('fields', 'message'), [
    ({'position': 'alibi'}, "config.model.position: 'alibi': no layout of Hugging Face has that; the nearest is gpt2"),
    ({'block': 'parallel'}, "config.model.block: 'parallel'"),
    ({'qk_norm': True}, 'config.model.qk_norm: True'),
    ({'attention_softcap': 30.0}, 'config.model.attention_softcap: 30.0'),
    ({'logit_softcap': 30.0}, 'config.model.logit_softcap: 30.0'),
    ({'attention_sink': True}, 'config.model.attention_sink: True'),
    ({'kv_heads': 1}, 'config.model.kv_heads: 1'),
    ({'bias': False}, 'config.model.bias: False'),
    ({'norm': 'rms'}, "config.model.norm: 'rms'"),
    ({'attention_pattern': ('window',), 'window': 4}, 'config.model.attention_pattern'),
    ({'parametrization': 'mup', 'base_width': 8}, "config.model.parametrization: 'mup'"),
])  # fmt: skip
def test_a_model_that_no_layout_has_is_refused_by_its_field(model_config, fields, message):
    with pytest.raises(UserError, match=message):
        huggingface.layout_of(model_config(**fields))


def test_which_layout_a_model_gets(model_config):
    rotary = {'norm': 'rms', 'position': 'rotary', 'feedforward': 'gated', 'bias': False, 'activation': 'silu'}
    window = {'attention_pattern': ('window',), 'window': 4}
    mixed = {'attention_pattern': ('window', 'full'), 'window': 4}
    assert huggingface.layout_of(model_config()) == 'gpt2'
    assert huggingface.layout_of(model_config(tied_head=False, parametrization='mup')) == 'gpt2'  # of the base shape
    assert huggingface.layout_of(model_config(block='post_norm', final_norm=False)) == 'openai-gpt'
    assert huggingface.layout_of(model_config(**rotary)) == 'llama'
    assert huggingface.layout_of(model_config(**rotary, **window)) == 'mistral'
    assert huggingface.layout_of(model_config(**rotary, qkv_bias=True, **mixed)) == 'qwen2'
    assert huggingface.layout_of(model_config(**rotary, qk_norm=True)) == 'qwen3'
    routed = rotary | {'feedforward': 'experts', 'experts': 4}
    assert huggingface.layout_of(model_config(**routed, capacity_factor=1.25)) == 'mixtral'  # of training alone
    assert huggingface.layout_of(model_config(**routed, qk_norm=True)) == 'qwen3_moe'
    for field, value in (('shared_experts', 1), ('rotary_fraction', 0.5), ('rotary_scaling', 'ntk')):  # fmt: skip
        with pytest.raises(UserError, match=f'config.model.{field}'):
            huggingface.layout_of(model_config(**routed | {field: value}))
    with pytest.raises(UserError, match='attention_pattern'):
        huggingface.layout_of(model_config(**rotary, **mixed))


def exported(ours, path, **changes):
    given = {'tokens': {}, 'dtype': 'float32', 'extra': {}} | changes
    weight = given.pop('weight', ours.weight)
    huggingface.write(path, given.pop('model', ours.model), weight, ours.letters, **given)


def test_rows_that_only_pad_the_vocabulary_stay_here(tmp_path):
    ours = small_models.read(folder(tmp_path / 'in'))
    padded = dataclasses.replace(ours.model, vocab_multiple=16)
    wide = lambda path: np.pad(ours.weight(path), ((0, 1), (0, 0))) if 'table_VD' in path else ours.weight(path)  # noqa: E731
    assert padded.dims['V'] == 32
    exported(ours, tmp_path / 'out', model=padded, weight=wide)
    back = tensors.find(tmp_path / 'out')
    assert back.raw(TABLE).tobytes() == table().tobytes()


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    ours = small_models.read(folder(tmp_path / 'in'))
    (tmp_path / 'out').mkdir()
    with pytest.raises(UserError, match=r'holds 1e\+05, which float16 has no number for'):
        exported(ours, tmp_path / 'out', dtype='float16', weight=lambda path: np.full_like(ours.weight(path), 1e5))
    assert sorted(os.listdir(tmp_path)) == ['in', 'out']
    assert not os.listdir(tmp_path / 'out')
    exported(ours, tmp_path / 'out', extra={'note.txt': b'x'})
    assert sorted(os.listdir(tmp_path / 'out')) == ['config.json', 'model.safetensors', 'note.txt']
    with pytest.raises(UserError, match=r'--output=.*out: is not empty'):
        exported(ours, tmp_path / 'out')
    assert sorted(os.listdir(tmp_path)) == ['in', 'out']
