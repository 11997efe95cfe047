"""Eight learning rates at four widths, standard and muP: about 15 minutes on 2 cores.

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
    # Both parametrizations initialize hidden weights with a deviation of 0.5 / sqrt(width).
    rule = lambda _, width, __: {'model.init_std': round(0.5 / width**0.5, 4)}
    standard = design.make_variants({'standard': {}}, design.make_ladder(SIZES, rule))
    mup = {'model.init_std': 0.0625, 'model.parametrization': 'mup'}  # muP scales it with the width
    trials = standard + design.make_variants({'mup': mup}, design.make_ladder(SIZES))
    config.sweep.trials = design.make_grid({'optimizer.learning_rate': RATES}, trials)
    config.sweep.trials_per_process = len(RATES)
    return config
