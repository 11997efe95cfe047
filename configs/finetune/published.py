"""Shared config for fine-tuning published weights (Radford et al. 2018, section 4.1).

Learning rate 6.25e-5, batches of 32, three epochs. The rate decays linearly after a warmup of 0.2%
of the steps; dropout is 0.1; the language-modelling loss of classified texts has weight 0.5 (set in
gpt_jax/tasks/catalog.py).
"""

from ml_collections import ConfigDict

from gpt_jax import base_config
from gpt_jax.tasks import catalog


def make_config(task: str, rows: int, context: int, epochs: int = 3) -> ConfigDict:
    """Return a config for a task of the catalog, of the same name.

    Args:
      task: its name.
      rows: size of the training split.
      context: in tokens.
      epochs: passes over the training split.
    """
    config = base_config()
    config.name = task
    config.task.update(catalog.TASKS[task])
    config.model.update(context=context, dropout=0.1)
    config.optimizer.update(learning_rate=6.25e-5, beta2=0.999, weight_decay=0.01)
    config.optimizer.update(schedule='linear', warmup_fraction=0.002, final_lr_fraction=0.0)
    config.train.update(batch_size=32, steps=-(-epochs * rows // 32))
    return config
