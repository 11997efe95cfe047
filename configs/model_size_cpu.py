"""The ladder's sizes with several seeds: are the gaps between sizes larger than what a seed moves? 25 minutes, 2 cores.

python run.py --config=configs/model_size_cpu.py
"""

from ml_collections import ConfigDict

from configs import cpu, ladder_cpu
from gpt_jax.scaling.plan import design


def get_config() -> ConfigDict:
    config = ladder_cpu.get_config()
    config.name = 'model_size_cpu'
    # 4x128 is less than twice 4x96, too near for seeds to tell them apart: 4x160 goes beyond it.
    sizes = (ladder_cpu.SIZES[:4], (*ladder_cpu.SIZES[4:], (4, 160, 5)))
    small, large = (design.ladder(some, cpu.rule) for some in sizes)
    config.sweep.trials = design.grid({'seed': (0, 1, 2, 3)}, small) + design.grid({'seed': (0, 1)}, large)
    config.sweep.together = 4
    return config
