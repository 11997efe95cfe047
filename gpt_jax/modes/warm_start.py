"""Where does a run begin that goes on from another's weights? At its newest checkpoint; only the weights are taken."""

from collections.abc import Callable
from dataclasses import asdict

from gpt_jax import files
from gpt_jax.assemble import Program, Settings
from gpt_jax.errors import UserError
from gpt_jax.modes.same_model import differences
from gpt_jax.train import checkpoint, manifest
from gpt_jax.train.state import State


def state(settings: Settings, program: Program, say: Callable[[str], None]) -> State:
    """The state before the first update of the newest weights in `train.init_from`, placed as this run wants them.

    Raises:
      UserError: there is no such run or no good checkpoint, or its model is another.
    """
    folder = files.path(settings.train.init_from, 'config.train.init_from')
    meta = manifest.newest_meta(folder / 'checkpoints')
    if meta is None:
        raise UserError(f'config.train.init_from: {folder} holds no checkpoint; name the folder of a run')
    wanted = program.abstract_state
    weights = State(step=wanted.step, params=program.abstract_params, optimizer=None, skipped=None, in_row=None)
    changes = differences(meta['config']['model'], asdict(settings.model))
    if changes:
        raise UserError(f'config.train.init_from: {folder} holds another model ({"; ".join(changes)})')
    restored = checkpoint.load(folder / 'checkpoints', weights, announce=say)
    say(f'{settings.name}: begins with the weights of {folder} at step {restored.step}')
    return program.begin(restored.state.params)
