"""Six sizes on the standard library's sources: bigger is better, in about 6 minutes on 2 cores.

python run.py --config=configs/ladder_cpu.py
"""

from ml_collections import ConfigDict

from configs import base

# (layers, width, heads). Narrow models want a higher rate and a larger start: both are rules in the width.
SIZES = ((2, 16, 1), (2, 32, 1), (2, 48, 2), (2, 64, 2), (4, 96, 3), (4, 128, 4))


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = 'ladder_cpu'
    config.model.context = 128
    config.optimizer.warmup_fraction = 0.1
    config.train.update(batch=8, tokens=1_500_000, evaluate_tokens=250_000, evaluate_batch=16, log_every=20)
    config.sweep.trials = tuple(
        {
            'name': f'{layers}x{width}', 'model.layers': layers, 'model.width': width, 'model.heads': heads,
            'model.init_std': round(0.5 / width**0.5, 4), 'optimizer.learning_rate': round(min(0.02, 0.4 / width), 5),
        }
        for layers, width, heads in SIZES
    )  # fmt: skip
    return config
