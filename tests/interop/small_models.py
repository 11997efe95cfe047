"""Small models of every layout, with weights that only depend on the tensors' names."""

import functools
import json
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax import base_config
from gpt_jax.core import trees
from gpt_jax.core.config import ModelConfig, resolve_model, to_raw
from gpt_jax.core.config_fields import from_dict
from gpt_jax.inference import pretrained
from gpt_jax.interop import huggingface, safetensors_files
from gpt_jax.interop.safetensors_files import LazyTensor
from gpt_jax.model import loss as losses
from gpt_jax.model import weights
from gpt_jax.model.gpt import GPT, unstack_layers
from gpt_jax.parallel import sharding
from gpt_jax.train import build

VOCAB, LENGTH = 31, 12
_GPT = {'vocab_size': VOCAB, 'n_positions': 16, 'n_embd': 24, 'n_layer': 2, 'n_head': 3}
_LLAMA = {
    'vocab_size': VOCAB,
    'hidden_size': 24,
    'intermediate_size': 40,
    'num_hidden_layers': 2,
    'num_attention_heads': 4,
    'num_key_value_heads': 2,
    'max_position_embeddings': 64,
}
_NEOX = {key: value for key, value in _LLAMA.items() if key != 'num_key_value_heads'}
_OPT = {
    'vocab_size': VOCAB,
    'hidden_size': 24,
    'ffn_dim': 40,
    'num_hidden_layers': 2,
    'num_attention_heads': 3,
    'max_position_embeddings': 16,
    'pad_token_id': None,  # PyTorch would not train its embedding
}
_OLMO_YARN = {'original_max_position_embeddings': 16, 'attention_factor': 1.2}


def _rope(kind: str, **fields: Any) -> dict[str, Any]:
    return {'rope_parameters': {'rope_type': kind, 'rope_theta': 500.0, **fields}}


# By name: model_type and the arguments of transformers' config class.
EXAMPLES: dict[str, tuple[str, dict[str, Any]]] = {
    'gpt2': ('gpt2', _GPT),
    'gpt2_untied': (
        'gpt2',
        _GPT | {'tie_word_embeddings': False, 'n_inner': 40, 'activation_function': 'silu'},
    ),
    'gpt2_layer_scaling': (
        'gpt2',
        _GPT | {'scale_attn_by_inverse_layer_idx': True, 'scale_attn_weights': False},
    ),
    'openai-gpt': ('openai-gpt', _GPT),
    'gpt_neox': ('gpt_neox', _NEOX | {'rotary_pct': 0.7, 'rotary_emb_base': 500}),
    'gpt_neox_sequential': (
        'gpt_neox',
        _NEOX
        | {'use_parallel_residual': False, 'hidden_act': 'gelu_new', 'tie_word_embeddings': True}
        | {'rotary_pct': 1.0, 'rope_scaling': {'rope_type': 'linear', 'factor': 4.0}},
    ),
    'opt': ('opt', _OPT),
    'opt_post_norm': ('opt', _OPT | {'do_layer_norm_before': False, 'tie_word_embeddings': False}),
    'llama': ('llama', _LLAMA | {'rms_norm_eps': 1e-4}),
    'llama_linear': (
        'llama',
        _LLAMA
        | {
            'tie_word_embeddings': True,
            'hidden_act': 'gelu_pytorch_tanh',
            **_rope('linear', factor=4.0),
        },
    ),
    'llama3': (
        'llama',
        _LLAMA
        | {'attention_bias': True, 'mlp_bias': True, 'head_dim': 8}
        | _rope(
            'llama3',
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=32,
        ),
    ),
    'llama_yarn': (
        'llama',
        _LLAMA | {'head_dim': 16} | _rope('yarn', factor=4.0, original_max_position_embeddings=16),
    ),
    'mistral': ('mistral', _LLAMA | {'sliding_window': 5, 'head_dim': 8, 'num_key_value_heads': 1}),
    'mixtral': (
        'mixtral',
        _LLAMA | {'num_local_experts': 4, 'num_experts_per_tok': 2, 'sliding_window': None},
    ),
    'qwen2': (
        'qwen2',
        _LLAMA | {'use_sliding_window': True, 'sliding_window': 5, 'max_window_layers': 1},
    ),
    'qwen3': ('qwen3', _LLAMA | {'head_dim': 8, 'tie_word_embeddings': True}),
    'gemma2': (
        'gemma2',
        _LLAMA
        | {'head_dim': 8, 'query_pre_attn_scalar': 5, 'sliding_window': 5, 'pad_token_id': None}
        | {'attn_logit_softcapping': 4.0, 'final_logit_softcapping': 20.0},
    ),
    'gemma3_text': (
        'gemma3_text',
        _LLAMA
        | {'head_dim': 8, 'query_pre_attn_scalar': 5, 'sliding_window': 5, 'pad_token_id': None}
        | {'sliding_window_pattern': 2, 'rope_theta': 500.0, 'rope_local_base_freq': 50.0}
        | {'rope_scaling': {'rope_type': 'linear', 'factor': 8.0}},
    ),
    'olmo2': ('olmo2', _LLAMA | {'head_dim': 8, 'pad_token_id': None}),
    'olmo3': (
        'olmo3',
        _LLAMA
        | {'head_dim': 8, 'sliding_window': 5, 'pad_token_id': None}
        | {'layer_types': ['sliding_attention', 'full_attention']}
        | {'rope_scaling': {'rope_type': 'yarn', 'factor': 4.0} | _OLMO_YARN},
    ),
    'qwen3_moe': (
        'qwen3_moe',
        _LLAMA
        | {'num_experts': 5, 'num_experts_per_tok': 3, 'head_dim': 8, 'moe_intermediate_size': 16},
    ),
}


def make_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A float32 tensor that depends on its name, large enough that every part of the model matters.

    RandomState is the same in all versions of NumPy.
    """
    noise = np.random.RandomState(zlib.crc32(name.encode())).randn(*shape)
    scale = 'norm' in name or '.ln_' in name
    if name.endswith('.bias'):
        value = 0.3 * noise
    elif scale:
        value = 1 + 0.3 * noise
    else:
        value = (0.7 if 'embed' in name or 'wte' in name or 'wpe' in name else 0.2) * noise
    return value.astype(np.float32)


# Examples whose backward passes differ most.
GRADIENT_EXAMPLES = ('gpt2', 'openai-gpt', 'gpt_neox', 'llama3', 'mixtral', 'olmo2', 'gemma2')


def direction(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A random direction; any mistake in a gradient changes its component along it. Float64."""
    return np.random.RandomState(zlib.crc32(f'direction of {name}'.encode())).randn(*shape)


def make_tokens() -> np.ndarray:
    """int32 [2, LENGTH]."""
    return np.random.RandomState(7).randint(0, VOCAB, (2, LENGTH)).astype(np.int32)


def write_folder(folder: Path, config: dict[str, Any], shapes: dict[str, Any]) -> Path:
    """Write a folder with this config.json and the tensors of `make_tensor`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'config.json').write_text(json.dumps(config))
    tensors = [
        LazyTensor(name, 'F32', tuple(shape), functools.partial(make_tensor, name, tuple(shape)))
        for name, shape in shapes.items()
    ]
    safetensors_files.write_tensors(folder / 'model.safetensors', tensors)
    return folder


class ImportedModel(NamedTuple):
    """An imported model.

    letters: of the weights, by path. params: as in checkpoints, stacked.
    """

    source: huggingface.HuggingFaceFolder
    config: ModelConfig
    letters: dict[str, str]
    params: Any

    def read_weight(self, path: str) -> np.ndarray:
        return by_path(self.params)[path]


def make_model_config(source: huggingface.HuggingFaceFolder, **fields: Any) -> ModelConfig:
    """The config of an imported model."""
    values = to_raw(base_config())['model'] | source.model_section | fields
    return from_dict(ModelConfig, resolve_model(values, 1), 'model')


def import_model(folder: Path, **fields: Any) -> ImportedModel:
    source = huggingface.read_folder(str(folder))
    model = make_model_config(source, **fields)
    letters, structure = _declare(model)
    read_weight = huggingface.make_weight_reader(source, letters, model.dims)
    params = jax.tree.unflatten(structure, [read_weight(path) for path in letters])
    return ImportedModel(source, model, letters, params)


@functools.cache
def _declare(model: ModelConfig) -> tuple[dict[str, str], Any]:
    """Return (letters of the weights, by path; structure of the params)."""
    structure = jax.tree.structure(weights.unbox(build.declare_params(model)))
    return pretrained.weight_letters(model), structure


def by_path(params: Any) -> dict[str, np.ndarray]:
    return dict(
        zip(trees.name_leaves(params), map(np.asarray, jax.tree.leaves(params)), strict=True)
    )


def compute_gradients(
    model: ImportedModel, tokens_BL: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return logits, float32 [B, L, V], and the gradients of the mean loss by tensor name."""
    (_, z_BLV), gradients = gradient_function(model.config)(model.params, tokens_BL)
    return np.asarray(z_BLV), export_tensors(model, gradients)


@functools.cache
def gradient_function(config: ModelConfig) -> Any:
    """The jitted (params, tokens) -> ((mean loss, logits), gradients)."""

    def loss(params: Any, tokens_BL: jax.Array) -> tuple[jax.Array, jax.Array]:
        z_BLV = apply_model(config, params, tokens_BL)
        return mean_loss(z_BLV, tokens_BL), z_BLV

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def mean_loss(z_BLV: jax.Array, tokens_BL: Any) -> jax.Array:
    """The mean cross-entropy of the tokens after the first."""
    log_p_BLV = jax.nn.log_softmax(z_BLV[:, :-1])
    return -jnp.mean(jnp.take_along_axis(log_p_BLV, jnp.asarray(tokens_BL)[:, 1:, None], axis=-1))


def compute_logits(model: ImportedModel, tokens_BL: np.ndarray) -> np.ndarray:
    """Return logits, float32 [B, L, V]."""
    return np.asarray(logits_function(model.config)(model.params, tokens_BL))


@functools.cache
def logits_function(config: ModelConfig) -> Any:
    """The jitted (params, tokens) -> logits."""
    return jax.jit(functools.partial(apply_model, config))


def apply_model(config: ModelConfig, params: Any, tokens_BL: Any) -> jax.Array:
    output: Any = GPT(config, sharding.UNSHARDED, train=False).apply(
        {'params': unstack_layers(params, config.layers)}, tokens_BL
    )
    return losses.compute_logits(output.x_BLD, output.w_VD, config)


def export_tensors(model: ImportedModel, params: Any) -> dict[str, np.ndarray]:
    """Return a tree like the params as tensors by their external names."""
    weights_by_path = by_path(params)
    tensors = huggingface.list_export_tensors(
        model.config, model.source.model_type, weights_by_path.__getitem__, model.letters, 'float32'
    )
    return {tensor.name: tensor.make() for tensor in tensors}
