"""The ladder's sizes with several seeds: are the gaps between sizes larger than what a seed moves? 15 minutes, 2 cores.

python run.py --config=configs/model_size_cpu.py
"""

from ml_collections import ConfigDict

from configs import cpu, ladder_cpu
from gpt_jax.scaling.plan import design


def get_config() -> ConfigDict:
    config = ladder_cpu.get_config()
    config.name = 'model_size_cpu'
    small, large = (design.ladder(sizes, cpu.rule) for sizes in (ladder_cpu.SIZES[:4], ladder_cpu.SIZES[4:]))
    config.sweep.trials = design.grid({'seed': (0, 1, 2, 3)}, small) + design.grid({'seed': (0, 1)}, large)
    config.sweep.together = 4
    return config
