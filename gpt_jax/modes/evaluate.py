"""What does a trained model lose on held-out text? Its best or newest checkpoint, scored on validation and test."""

import sys
from pathlib import Path
from typing import Any

from gpt_jax import assemble, inference, pretrained, tuned
from gpt_jax.data.task_corpus import TaskCorpus
from gpt_jax.errors import UserError
from gpt_jax.modes import answers, material, warm_start
from gpt_jax.modes.same_model import differences
from gpt_jax.observe.progress import Progress
from gpt_jax.train import checkpoint
from gpt_jax.train.state import State


def evaluate(
    config: dict[str, Any], workdir: Path, say: Any, weights: str = 'float32', run_code: bool = False
) -> dict[str, Any]:
    """Scores the run in `workdir`; returns losses by split, the step and the data's fingerprint.

    Args:
      weights: how the model's matrices are kept meanwhile (gpt_jax/inference.py): what fewer bits lose.
      run_code: whether programs that the model writes may be run (pass@k).

    Raises:
      UserError: there is no good checkpoint in `workdir`, or it does not fit the config.
    """
    kind = config['task']['kind']
    if weights != 'float32' and kind not in ('none', 'answer'):
        raise UserError(f'--weights={weights}: what decides task.kind {kind} is read in float32; leave the flag out')
    corpus = material.material(config, say)
    settings = assemble.settings(config, corpus.vocab_size)
    program = assemble.build(settings)
    wanted = program.abstract_state
    nothing = State(step=wanted.step, params=wanted.params, optimizer=None, skipped=None, in_row=None, kept=wanted.kept)
    best = workdir / pretrained.BEST / 'checkpoints'
    where = best if best.is_dir() else workdir / 'checkpoints'
    restored = checkpoint.load(where, tuned.saved(nothing, settings.init_from), announce=say)
    if restored.meta['fingerprint'] not in ('', corpus.fingerprint):
        say(f'warning: {material.source(settings)} as tokenized here is not what {workdir} was trained on')
    changes = differences(restored.meta['config']['model'], config['model'])
    if changes:
        raise UserError(f'{workdir}: holds another model ({"; ".join(changes)})')
    scores: dict[str, Any] = {'name': settings.name, 'step': restored.step, 'fingerprint': corpus.fingerprint}
    params = program.whole(warm_start.with_kept(settings, program, restored, say))
    if weights != 'float32':
        params, scores['weights'] = inference.kept_as(tuned.merged(params), settings.model, weights), weights
        program = inference.reading(settings, program)
    line = Progress(sys.stderr, trial=None, name=settings.name, steps=restored.step)
    for split in material.held_out(corpus):
        found = material.scores(settings, program, corpus, split, params, line)
        scores |= {f'{split}_{name}': value for name, value in found.items()}
    scores |= material.contamination(settings, corpus, material.held_out(corpus), line, say)
    line.close()
    if isinstance(corpus, TaskCorpus) and settings.task.kind == 'answer' and settings.task.written:
        held = material.held_out(corpus)
        scores |= answers.scores(settings, corpus, held, workdir, say, run_code=run_code, weights=weights)
    return scores
