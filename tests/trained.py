"""Run folders with a checkpoint of random weights, made without training."""

import json
from pathlib import Path

import jax

from gpt_jax.core.config import default_config
from gpt_jax.data import tokenizer
from gpt_jax.train.checkpoint import CheckpointManager
from gpt_jax.train.step import State
from tests.inference import engines
from tests.model.test_gpt import make_model

SMALL = {'layers': 2, 'width': 32, 'heads': 4, 'context': 64, 'attention_chunk': 0}


def folder(
    path: Path, *, words: tokenizer.Tokenizer | None = None, seed: int = 0, step: int = 3, **model
) -> Path:
    """Write the folder of a run of a byte model, or of one with the tokenizer `words`.

    Further keywords are fields of the model section.
    """
    words = words or tokenizer.make_tokenizer('bytes', lambda: ())
    config = default_config()
    config['name'] = path.name
    config['model'] |= SMALL | model
    model_config = engines.config(**SMALL | model | {'vocab_size': words.vocab_size})
    params, _ = make_model(model_config, seed=seed)
    state = State(
        step=jax.numpy.int32(step), params=params, opt_state={}, skipped_steps={}, skipped_in_row={}
    )
    with CheckpointManager(path / 'checkpoints', max_to_keep=1, log=print) as checkpoints:
        checkpoints.save(
            step, state, {'config': config, 'fingerprint': 'f', 'next_batch': step, 'seconds': 0.0}
        )
    (path / 'config.json').write_text(json.dumps(config))
    tokenizer.save_tokenizer(words, path)
    return path
