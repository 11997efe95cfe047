"""The ladder's sizes, four seeds each: are the gaps between sizes larger than what a seed moves? 20 minutes on 2 cores.

python run.py --config=configs/model_size_cpu.py
"""

from ml_collections import ConfigDict

from configs import cpu, ladder_cpu
from gpt_jax.scaling.plan import design


def get_config() -> ConfigDict:
    config = ladder_cpu.get_config()
    config.name = 'model_size_cpu'
    config.sweep.trials = design.grid({'seed': (0, 1, 2, 3)}, design.ladder(ladder_cpu.SIZES, cpu.rule))
    config.sweep.together = 4
    return config
