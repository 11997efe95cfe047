"""Shared config for fine-tuning published weights (Radford et al. 2018, section 4.1).

The learning rate is 6.25e-5 and decays linearly after a warmup of 0.2% of the steps; batches of 32,
three epochs, dropout 0.1. The language-modeling loss on classified texts has weight 0.5 (set in
gpt_jax/tasks/catalog.py).
"""

from ml_collections import ConfigDict

from gpt_jax import base_config
from gpt_jax.tasks import catalog


def make_config(task: str, rows: int, context: int, epochs: int = 3) -> ConfigDict:
    """Return the config of a catalog task, named after it.

    Args:
      task: name of the task.
      rows: size of the training split.
      context: context length in tokens.
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
