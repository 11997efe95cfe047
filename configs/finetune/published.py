"""What tuning published weights shares (Radford et al. 2018, section 4.1): rate 6.25e-5, batches of 32, three epochs.

The rate falls linearly after a warmup of 0.2% of the steps; dropout 0.1; the loss of the text itself counts half.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(name: str, rows: int, context: int, epochs: int = 3) -> ConfigDict:
    """The task is yet to be filled in. rows: of the set's training split."""
    config = base.get_config()
    config.name = name
    config.model.update(context=context, dropout=0.1)
    config.optimizer.update(learning_rate=6.25e-5, beta2=0.999, weight_decay=0.01)
    config.optimizer.update(schedule='linear', warmup_fraction=0.002, final_fraction=0.0)
    config.train.update(batch=32, steps=-(-epochs * rows // 32))
    return config
