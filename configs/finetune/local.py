"""What tuning without a network or data shares: the byte model of configs/start_cpu.py, minutes on two cores.

That one is trained first, of the same context, as each file says; or leave out init_from, and it begins untrained.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(name: str, context: int, steps: int) -> ConfigDict:
    """The task is yet to be filled in."""
    config = base.get_config()
    config.name = name
    config.model.update(layers=4, width=128, heads=4, context=context)
    config.optimizer.update(learning_rate=1e-3, warmup_fraction=0.1, final_fraction=0.0)
    config.train.update(batch=32, microbatch=4, steps=steps, evaluate_batch=32)
    return config
