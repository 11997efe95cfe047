"""Six sizes, each a trunk with five cooldown branches: half an hour on 2 cores.

python run.py --config=configs/compute_optimal_cpu.py
"""

from ml_collections import ConfigDict

from configs import cpu
from gpt_jax.scaling.plan import design

SIZES = [(2, width, max(1, width // 16)) for width in (24, 32, 48, 64, 96, 128)]
HORIZONS = (400_000, 800_000, 1_600_000, 3_200_000, 6_400_000)  # tokens
PLAN = {'tokens_per_step': 8 * 128, 'warmup_steps': 50}


def get_config() -> ConfigDict:
    config = cpu.get_config()
    config.name = 'compute_optimal_cpu'
    trials = {}
    for size in design.make_ladder(SIZES, cpu.rule):
        # Hagele et al. 2024: half of the peak rate of a cosine schedule.
        size['optimizer.learning_rate'] /= 2
        trials |= {trial['name']: trial for trial in design.make_cooldowns(size, HORIZONS, **PLAN)}
    # Forecast before it was run: near the best split of 2e13 FLOPs, and longer than the branches.
    longest = {k: v for k, v in trials['2x96-6.4e6'].items() if 'branch' not in k}
    longest |= {'name': '2x96-1.28e7', 'train.steps': 12_500}
    longest['optimizer.warmup_fraction'] = PLAN['warmup_steps'] / longest['train.steps']
    config.sweep.trials = (*trials.values(), longest)
    return config
