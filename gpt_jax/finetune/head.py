"""What decides a task's questions? A linear map of the last features (Radford et al. 2018, equation 3)."""

from typing import Any

import jax
import jax.numpy as jnp

from gpt_jax.data.task import MOST_CHOICES, TaskConfig
from gpt_jax.model.config import ModelConfig
from gpt_jax.model.weights import Weight
from gpt_jax.parallel.place import Placement
from gpt_jax.parametrization import initial

NAME = 'task'  # of the head, among the model's parts
HEADED = ('classify', 'choose', 'label')


def candidates(task: TaskConfig) -> int:
    """Between how many a question of this task decides, at most."""
    choices = len(task.choices) if len(task.choices) > 1 else MOST_CHOICES  # one column may list any number
    return {'choose': choices, 'prefer': 2}.get(task.kind, len(task.labels))


def _outputs(task: TaskConfig) -> int:
    return 1 if task.kind == 'choose' else len(task.labels)  # a choice is read in a text of its own


def declared(task: TaskConfig, model: ModelConfig, key: jax.Array) -> dict[str, Any]:
    """The head's weights with their first values, to be put beside the model's; nothing for a task without one."""
    if task.kind not in HEADED:
        return {}
    shapes = {'weight_DY': ('head', (model.width, _outputs(task))), 'bias_Y': ('bias', (_outputs(task),))}
    made = {
        name: Weight(initial(role, jax.random.fold_in(key, n), shape, model), name.partition('_')[2], role)
        for n, (name, (role, shape)) in enumerate(shapes.items())
    }
    return {NAME: made}


def scores(params: Any, x_BLD: jax.Array, task: TaskConfig, model: ModelConfig, place: Placement) -> jax.Array:
    """What the head makes of the features at every place: float32 [B, L, Y], Y being 1 for 'choose'."""
    shape = (model.width, _outputs(task))
    weight_DY = place.weight(params[NAME]['weight_DY'], 'DY', shape, jnp.float32)
    z_BLY = jnp.einsum('BLD,DY->BLY', x_BLD.astype(jnp.float32), weight_DY, preferred_element_type=jnp.float32)
    return z_BLY + params[NAME]['bias_Y']
