"""What does a trained model lose on held-out text? Its newest checkpoint, scored on validation and test."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt_jax import assemble, inference
from gpt_jax.assemble import Program, Settings
from gpt_jax.data.pipeline import evaluation_batches, evaluation_steps
from gpt_jax.data.prepare import prepare
from gpt_jax.data.tokens import Tokens
from gpt_jax.errors import UserError
from gpt_jax.evaluate.perplexity import bits_per_byte, mean_loss
from gpt_jax.modes.same_model import differences
from gpt_jax.observe.progress import Progress
from gpt_jax.train import checkpoint
from gpt_jax.train.state import State


def validation_loss(settings: Settings, program: Program, tokens: Tokens, params: Any, line: Progress) -> float:
    """Mean loss in nats per token over the split, `train.evaluate_tokens` of it, in windows of the context.

    `line` shows how far it is.
    """
    which = {
        'context': settings.model.context,
        'batch': settings.train.evaluation_batch,
        'limit_tokens': settings.train.evaluate_tokens,
    }
    index, parts = program.share()
    local = evaluation_batches(
        tokens, **which, packing=settings.data.packing,
        process_index=index, process_count=parts,
    )  # fmt: skip
    total = evaluation_steps(tokens, **which)
    return mean_loss(program.evaluate, params, _watched(program.on_devices(local), total, line))


def _watched(batches: Iterator[Any], total: int, line: Progress) -> Iterator[Any]:
    for number, batch in enumerate(batches, 1):
        line.note(f'evaluating, batch {number}/{total}')
        yield batch


def evaluate(config: dict[str, Any], workdir: Path, say: Any, weights: str = 'float32') -> dict[str, Any]:
    """Scores the run in `workdir`; returns losses by split, the step and the data's fingerprint.

    Args:
      weights: how the model's matrices are kept meanwhile (gpt_jax/inference.py): what fewer bits lose.

    Raises:
      UserError: there is no good checkpoint in `workdir`, or it does not fit the config.
    """
    corpus = prepare(assemble.data_config(config), say)
    settings = assemble.settings(config, corpus.vocab_size)
    program = assemble.build(settings)
    wanted = program.abstract_state
    nothing = State(step=wanted.step, params=wanted.params, optimizer=None, skipped=None, in_row=None)
    restored = checkpoint.load(workdir / 'checkpoints', nothing, announce=say)
    if restored.meta['fingerprint'] not in ('', corpus.fingerprint):
        say(f'warning: {settings.data.source} as tokenized here is not what {workdir} was trained on')
    changes = differences(restored.meta['config']['model'], config['model'])
    if changes:
        raise UserError(f'{workdir}: holds another model ({"; ".join(changes)})')
    scores: dict[str, Any] = {'name': settings.name, 'step': restored.step, 'fingerprint': corpus.fingerprint}
    params = restored.state.params
    if weights != 'float32':
        params, scores['weights'] = inference.kept_as(params, settings.model, weights), weights
        program = inference.reading(settings, program)
    line = Progress(sys.stderr, trial=None, name=settings.name, steps=restored.step)
    for split, tokens in (('validation', corpus.validation), ('test', corpus.test)):
        if tokens is not None:
            loss = validation_loss(settings, program, tokens, params, line)
            scores[f'{split}_loss'] = loss
            scores[f'{split}_bits_per_byte'] = bits_per_byte(loss, tokens.bytes_per_token)
    line.close()
    return scores
