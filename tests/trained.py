"""A run's folder as training leaves it, made in a second: random weights, and nothing learned."""

import json
from pathlib import Path

import jax

from gpt_jax import overrides
from gpt_jax.data import tokenizer
from gpt_jax.train.checkpoint import Checkpoints
from gpt_jax.train.state import State
from tests.generate import writing
from tests.model.test_gpt import make

SMALL = {'layers': 2, 'width': 32, 'heads': 4, 'context': 64, 'attention_chunk': 0}


def folder(path: Path, *, words: tokenizer.Tokenizer | None = None, seed: int = 0, step: int = 3, **model) -> Path:
    """A run of a byte model, or of a model of `words`; further keywords are fields of the model."""
    words = words or tokenizer.make('bytes', lambda: ())
    config = overrides.defaults()
    config['name'] = path.name
    config['model'] |= SMALL | model
    params, _ = make(writing.config(**SMALL | model | {'vocab_size': words.vocab_size}), seed=seed)
    state = State(step=jax.numpy.int32(step), params=params, optimizer={}, skipped={}, in_row={})
    with Checkpoints(path / 'checkpoints', keep=1, announce=print) as checkpoints:
        checkpoints.save(step, state, {'config': config, 'fingerprint': 'f', 'next_batch': step, 'seconds': 0.0})
    (path / 'config.json').write_text(json.dumps(config))
    tokenizer.save(words, path / 'tokenizer.json')
    return path
