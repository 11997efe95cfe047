"""Eight learning rates at four widths, standard and muP: does the best rate stay? Some 15 minutes on 2 cores.

python run.py --config=configs/lr_transfer_cpu.py
"""

from ml_collections import ConfigDict

from configs import cpu
from gpt_jax.scaling.plan import design

SIZES = [(2, width, width // 16) for width in (32, 64, 128, 256)]
RATES = tuple(0.001 * 2**power for power in range(8))


def get_config() -> ConfigDict:
    config = cpu.get_config()
    config.name = 'lr_transfer_cpu'
    config.train.tokens = 300_000
    config.model.base_width = 64
    # Both start hidden weights at a deviation of 0.5 / sqrt(width): standard by rule, muP by its own from the base on.
    starts = {
        'standard': lambda _, width, __: {'model.init_std': round(0.5 / width**0.5, 4)},
        'mup': lambda *_: {'model.init_std': 0.0625, 'model.parametrization': 'mup'},
    }
    trials = [t | {'name': f'{key}-{t["name"]}'} for key, rule in starts.items() for t in design.ladder(SIZES, rule)]
    config.sweep.trials = design.grid({'optimizer.learning_rate': RATES}, tuple(trials))
    config.sweep.together = len(RATES)
    return config
