"""Small models of every layout: their config.json, weights made from the tensors' names alone, and ours of them."""

import json
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from configs import base
from gpt_jax import assemble, overrides, pretrained, trees
from gpt_jax.interop import huggingface, tensor_file
from gpt_jax.interop.tensor_file import Written
from gpt_jax.model import loss as losses
from gpt_jax.model import weights
from gpt_jax.model.config import ModelConfig, resolve
from gpt_jax.model.gpt import GPT, unstack
from gpt_jax.parallel import place

VOCAB, LENGTH = 31, 12
_GPT = {'vocab_size': VOCAB, 'n_positions': 16, 'n_embd': 24, 'n_layer': 2, 'n_head': 3}
_LLAMA = {
    'vocab_size': VOCAB, 'hidden_size': 24, 'intermediate_size': 40, 'num_hidden_layers': 2, 'num_attention_heads': 4,
    'num_key_value_heads': 2, 'max_position_embeddings': 64,
}  # fmt: skip


def _rope(kind: str, **fields: Any) -> dict[str, Any]:
    return {'rope_parameters': {'rope_type': kind, 'rope_theta': 500.0, **fields}}


# By name: model_type, and the fields that transformers' config class is called with.
EXAMPLES: dict[str, tuple[str, dict[str, Any]]] = {
    'gpt2': ('gpt2', _GPT),
    'gpt2_untied': ('gpt2', _GPT | {'tie_word_embeddings': False, 'n_inner': 40, 'activation_function': 'relu'}),
    'openai-gpt': ('openai-gpt', _GPT),
    'llama': ('llama', _LLAMA | {'rms_norm_eps': 1e-4}),
    'llama_linear': ('llama', _LLAMA | {
        'tie_word_embeddings': True, 'hidden_act': 'gelu_pytorch_tanh', **_rope('linear', factor=4.0),
    }),
    'llama3': ('llama', _LLAMA | {'attention_bias': True, 'mlp_bias': True, 'head_dim': 8} | _rope(
        'llama3', factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32
    )),
    'llama_yarn': ('llama', _LLAMA | {'head_dim': 16} | _rope(
        'yarn', factor=4.0, original_max_position_embeddings=16
    )),
    'mistral': ('mistral', _LLAMA | {'sliding_window': 5, 'head_dim': 8, 'num_key_value_heads': 1}),
    'mixtral': ('mixtral', _LLAMA | {'num_local_experts': 4, 'num_experts_per_tok': 2, 'sliding_window': None}),
    'qwen2': ('qwen2', _LLAMA | {'use_sliding_window': True, 'sliding_window': 5, 'max_window_layers': 1}),
    'qwen3': ('qwen3', _LLAMA | {'head_dim': 8, 'tie_word_embeddings': True}),
    'qwen3_moe': ('qwen3_moe', _LLAMA | {
        'num_experts': 5, 'num_experts_per_tok': 3, 'head_dim': 8, 'moe_intermediate_size': 16,
    }),
}  # fmt: skip


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float32, decided by the name: large enough that every part of the model matters. RandomState never changes."""
    noise = np.random.RandomState(zlib.crc32(name.encode())).randn(*shape)
    scale = 'norm' in name or '.ln_' in name
    if name.endswith('.bias'):
        value = 0.3 * noise
    elif scale:
        value = 1 + 0.3 * noise
    else:
        value = (0.7 if 'embed' in name or 'wte' in name or 'wpe' in name else 0.2) * noise
    return value.astype(np.float32)


def direction(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A gradient's component along this is one number that any mistake in it changes. Float64."""
    return np.random.RandomState(zlib.crc32(f'direction of {name}'.encode())).randn(*shape)


def tokens() -> np.ndarray:
    """int32 [2, LENGTH]."""
    return np.random.RandomState(7).randint(0, VOCAB, (2, LENGTH)).astype(np.int32)


def write(folder: Path, config: dict[str, Any], shapes: dict[str, Any]) -> Path:
    """A folder of that config.json, with the tensors that `weight` makes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'config.json').write_text(json.dumps(config))
    made = [Written(n, 'F32', tuple(s), lambda n=n, s=s: weight(n, tuple(s))) for n, s in shapes.items()]
    tensor_file.write(folder / 'model.safetensors', made)
    return folder


class Ours(NamedTuple):
    """An imported model. params: as stored, stacked. letters: by path."""

    source: huggingface.Source
    model: ModelConfig
    letters: dict[str, str]
    params: Any

    def weight(self, path: str) -> np.ndarray:
        return by_path(self.params)[path]


def section(source: huggingface.Source, **fields: Any) -> ModelConfig:
    """The whole model section that an import makes."""
    values = overrides.plain(base.get_config())['model'] | source.model | fields
    return ModelConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in resolve(values, 1).items()})


def read(folder: Path, **fields: Any) -> Ours:
    source = huggingface.read(str(folder))
    model = section(source, **fields)
    letters = pretrained.letters_of(model)
    load = huggingface.params(source, letters, model.dims)
    structure = jax.tree.structure(weights.unbox(assemble.declarations(model)))
    return Ours(source, model, letters, jax.tree.unflatten(structure, [load(path) for path in letters]))


def by_path(params: Any) -> dict[str, np.ndarray]:
    return dict(zip(trees.names(params), map(np.asarray, jax.tree.leaves(params)), strict=True))


def computed(ours: Ours, tokens_BL: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Logits, float32 [B, L, V]; and the mean loss's gradients, under the names of their tensors."""

    def loss(params: Any) -> tuple[jax.Array, jax.Array]:
        z_BLV = _logits(ours.model, params, tokens_BL)
        log_BLV = jax.nn.log_softmax(z_BLV[:, :-1])
        return -jnp.mean(jnp.take_along_axis(log_BLV, jnp.asarray(tokens_BL)[:, 1:, None], axis=-1)), z_BLV

    (_, z_BLV), gradients = _run(jax.value_and_grad(loss, has_aux=True), ours.params)
    return np.asarray(z_BLV), under_their_names(ours, gradients)


def logits(ours: Ours, tokens_BL: np.ndarray) -> np.ndarray:
    """The first of what `computed` gives, in less time."""
    return np.asarray(_run(lambda params: _logits(ours.model, params, tokens_BL), ours.params))


def _run(function: Any, params: Any) -> Any:
    """Compiling takes the time here, and running none."""
    return jax.jit(function).lower(params).compile({'xla_backend_optimization_level': 0})(params)


def _logits(model: ModelConfig, params: Any, tokens_BL: np.ndarray) -> jax.Array:
    features: Any = GPT(model, place.ANYWHERE, train=False).apply({'params': unstack(params, model.layers)}, tokens_BL)
    return losses.logits(features.x_BLD, features.w_VD, model)


def under_their_names(ours: Ours, params: Any) -> dict[str, np.ndarray]:
    """A tree like the params as the tensors of their file."""
    found = by_path(params)
    made = huggingface.written(ours.model, ours.source.kind, found.__getitem__, ours.letters, 'float32')
    return {one.name: one.make() for one in made}
