"""Six sizes on the standard library's sources: bigger is better, in about 6 minutes on 2 cores.

python run.py --config=configs/ladder_cpu.py
"""

from ml_collections import ConfigDict

from configs import base

# (layers, width, heads, learning rate): the rate falls with width, as the best one does (experiments/model_size)
SIZES = ((2, 16, 1, 1.6e-2), (2, 32, 1, 1e-2), (3, 48, 2, 8e-3), (4, 64, 2, 6e-3), (4, 96, 3, 4e-3), (5, 128, 4, 3e-3))


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = 'ladder_cpu'
    config.model.context = 128
    config.train.update(batch=32, microbatch=4, tokens=4_000_000, evaluate_tokens=300_000, log_every=20)
    config.sweep.trials = tuple(
        {
            'name': f'{layers}x{width}', 'model.layers': layers, 'model.width': width, 'model.heads': heads,
            'optimizer.learning_rate': rate,
        }
        for layers, width, heads, rate in SIZES
    )  # fmt: skip
    return config
