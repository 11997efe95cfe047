"""Shared config of tasks that need no network: the byte-level model of configs/start_cpu.py.

Each takes minutes on two cores. Each file gives the command that pre-trains the model at its
context length; without init_from, training starts from random weights.
"""

from ml_collections import ConfigDict

from gpt_jax import base_config
from gpt_jax.tasks import catalog


def make_config(task: str, context: int, steps: int) -> ConfigDict:
    """Return the config of a catalog task, named after it."""
    config = base_config()
    config.name = task
    config.task.update(catalog.TASKS[task])
    config.model.update(layers=4, width=128, heads=4, context=context)
    config.optimizer.update(learning_rate=1e-3, warmup_fraction=0.1, final_lr_fraction=0.0)
    config.train.update(batch_size=32, microbatch_size=4, steps=steps, eval_batch_size=32)
    return config
