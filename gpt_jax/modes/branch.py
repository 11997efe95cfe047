"""Where does a cooldown branch begin? At its trunk's checkpoint, of a run that was the same until then."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpt_jax import files, identity, tuned
from gpt_jax.assemble import Program, Settings
from gpt_jax.errors import UserError
from gpt_jax.modes import warm_start
from gpt_jax.train import checkpoint
from gpt_jax.train.state import State

# What a branch may change: how long it goes on, how its rate falls, and what is looked at on the way.
OWN = ('optimizer.schedule', 'optimizer.warmup_fraction', 'optimizer.decay_fraction', 'optimizer.cooldown_fraction',
       'optimizer.final_fraction', 'train.steps', 'train.tokens', 'train.flops', 'train.keep_steps',
       'train.branch_from', 'train.branch_step', 'train.log_every', 'train.evaluate_every', 'train.evaluate_tokens',
       'train.evaluate_batch', 'train.max_skipped_in_row')  # fmt: skip


def parent(settings: Settings, workdir: Path) -> Path:
    """The trunk's folder: train.branch_from as a path, or as the name of a trial beside this one."""
    named = settings.train.branch_from
    return Path(named) if '/' in named else workdir.parent / named


def state(
    config: dict[str, Any], settings: Settings, fingerprint: str, program: Program, workdir: Path,
    say: Callable[[str], None],
) -> State:  # fmt: skip
    """The trunk's state after `train.branch_step` updates, verified.

    Raises:
      UserError: there is no such run or checkpoint, or its run differs in what a branch must share.
    """
    trunk, step = parent(settings, workdir), settings.train.branch_step
    if step >= settings.steps:
        raise UserError(f'config.train.branch_step: {step} is not before the end of the run at {settings.steps}')
    if not (trunk / 'config.json').exists():
        raise UserError(f'config.train.branch_from: {trunk} holds no run; train the trunk first')
    shared = [
        {key: value for key, value in identity.fixed(one).items() if key not in OWN}
        for one in (files.read_json(trunk / 'config.json'), config)
    ]
    changes = identity.difference(*shared)
    if changes:
        raise UserError(f'config.train.branch_from: {trunk} is another run ({"; ".join(changes)})')
    wanted = tuned.saved(program.abstract_state, settings.init_from)
    restored = checkpoint.load(trunk / 'checkpoints', wanted, step=step, announce=say)
    if restored.meta['fingerprint'] != fingerprint:
        raise UserError(f'config.train.branch_from: {trunk} was trained on other data than {settings.data.source}')
    say(f'{settings.name}: branches off {trunk.name} at step {step}')
    return warm_start.with_kept(settings, program, restored, say)
