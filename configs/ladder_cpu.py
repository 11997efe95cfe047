"""Six model sizes on the sources of Python's standard library: about 6 minutes on 2 cores.

python run.py --config=configs/ladder_cpu.py
"""

from ml_collections import ConfigDict

from configs import cpu
from gpt_jax.scaling.plan import design

# Layers, width, heads.
SIZES = ((2, 16, 1), (2, 32, 1), (2, 48, 2), (2, 64, 2), (4, 96, 3), (4, 128, 4))


def get_config() -> ConfigDict:
    config = cpu.get_config()
    config.name = 'ladder_cpu'
    config.train.tokens = 1_500_000
    config.sweep.trials = design.make_ladder(SIZES, cpu.rule)
    return config
