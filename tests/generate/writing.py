"""Small models that write, as the tests of this folder need them."""

import jax
import jax.numpy as jnp
import numpy as np

from configs import base
from gpt_jax import overrides
from gpt_jax.generate import options, rounds, writer
from gpt_jax.generate.batching import Prompt
from gpt_jax.generate.decode import Model
from gpt_jax.generate.rounds import Drafter
from gpt_jax.generate.writer import Text, Words
from gpt_jax.model.config import ModelConfig, resolve
from gpt_jax.model.gpt import unstack
from gpt_jax.parallel.place import ANYWHERE

END = 96
WORDS = Words(lambda ids: ' '.join(map(str, ids)), (END,))


def config(**fields) -> ModelConfig:
    """A small one, as the fixture of that name makes it; here for what is made once for all tests of a file."""
    small = {'layers': 2, 'width': 32, 'heads': 4, 'vocab_size': 97, 'context': 16, 'attention_chunk': 0}
    return ModelConfig(**resolve(overrides.plain(base.get_config())['model'] | small | fields, 1))


def on_device(tree):
    return jax.tree.map(jnp.asarray, tree)


def device(config, params, drafter=None):
    """`drafter`: (config, params), or 'lookup'."""
    if drafter == 'lookup':
        drafter = Drafter(None, None)
    elif drafter is not None:
        drafter = Drafter(Model(drafter[0], ANYWHERE), unstack(drafter[1], drafter[0].layers))
    model = Model(config, ANYWHERE)
    return rounds.device(model, unstack(params, config.layers), drafter, on_device, on_device)


def prompts(*lengths, seed=0, vocabulary=END):
    """Prompts of these lengths, of random ids."""
    rng = np.random.default_rng(seed)
    return [Prompt(f'prompt {n}', rng.integers(0, vocabulary, n).astype(np.int32)) for n in lengths]


def write(made, given_prompts, block=writer.AT_ONCE, words=WORDS, **given) -> list[Text]:
    """The texts in the order of their numbers."""
    updates = writer.write(made, words, given_prompts, options.make(given), ways=1, block=block)
    return [text for _, text in sorted((one.number, one.done) for one in updates if one.done)]


def ids(texts):
    return [list(text.tokens) for text in texts]
