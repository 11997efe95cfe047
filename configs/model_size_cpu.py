"""The ladder's sizes with several seeds, to compare sizes with seed noise: 25 minutes on 2 cores.

python run.py --config=configs/model_size_cpu.py
"""

from ml_collections import ConfigDict

from configs import cpu, ladder_cpu
from gpt_jax.scaling.plan import design


def get_config() -> ConfigDict:
    config = ladder_cpu.get_config()
    config.name = 'model_size_cpu'
    # 4x128 has less than twice 4x96's parameters, too close to tell from seed noise: add 4x160.
    sizes = (ladder_cpu.SIZES[:4], (*ladder_cpu.SIZES[4:], (4, 160, 5)))
    small, large = (design.make_ladder(group, cpu.rule) for group in sizes)
    config.sweep.trials = design.make_grid({'seed': (0, 1, 2, 3)}, small) + design.make_grid(
        {'seed': (0, 1)}, large
    )
    config.sweep.trials_per_process = 4
    return config
