"""Small random models with a decode engine, for the tests of this folder."""

import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax import base_config
from gpt_jax.core.config import ModelConfig, resolve_model, to_raw
from gpt_jax.core.config_fields import from_dict
from gpt_jax.inference import text_stream
from gpt_jax.inference.batching import TokenizedPrompt
from gpt_jax.inference.decode import InferenceModel
from gpt_jax.inference.engine import DraftModel, make_engine
from gpt_jax.inference.options import make_options
from gpt_jax.inference.text_stream import Detokenizer, GeneratedText
from gpt_jax.model.gpt import unstack_layers
from gpt_jax.parallel.sharding import UNSHARDED

END = 96
DETOKENIZER = Detokenizer(lambda ids: ' '.join(map(str, ids)), (END,))


def config(**fields) -> ModelConfig:
    """A small model config, like the fixture `model_config`; for module-scoped fixtures."""
    small = {
        'layers': 2,
        'width': 32,
        'heads': 4,
        'vocab_size': 97,
        'context': 16,
        'attention_chunk': 0,
    }
    values = to_raw(base_config())['model'] | small | fields
    return from_dict(ModelConfig, resolve_model(values, 1), 'model')


def on_device(tree):
    return jax.tree.map(jnp.asarray, tree)


def build_engine(config, params, draft=None):
    """An engine on the default device.

    draft: (config, params), or 'lookup'.
    """
    if draft == 'lookup':
        draft = DraftModel(None, None)
    elif draft is not None:
        draft_config, draft_params = draft
        draft = DraftModel(
            InferenceModel(draft_config, UNSHARDED),
            unstack_layers(draft_params, draft_config.layers),
        )
    model = InferenceModel(config, UNSHARDED)
    params = unstack_layers(params, config.layers)
    return make_engine(model, params, draft, on_device, on_device)


def prompts(*lengths, seed=0, vocabulary=END):
    """Prompts of these lengths with random ids."""
    rng = np.random.default_rng(seed)
    return [
        TokenizedPrompt(f'prompt {n}', rng.integers(0, vocabulary, n).astype(np.int32))
        for n in lengths
    ]


def generate(
    engine, given_prompts, block=text_stream.UNINTERRUPTED_STEPS, **given
) -> list[GeneratedText]:
    """The generated texts in their order."""
    chunks = text_stream.stream_texts(
        engine, DETOKENIZER, given_prompts, make_options(given), row_shards=1, block=block
    )
    return [
        text for _, text in sorted((chunk.number, chunk.result) for chunk in chunks if chunk.result)
    ]


def token_ids(texts):
    return [list(text.tokens) for text in texts]
