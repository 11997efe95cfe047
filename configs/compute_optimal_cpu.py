"""Six sizes, each one trunk with five cooldown branches: loss over size and tokens at once. Half an hour on 2 cores.

python run.py --config=configs/compute_optimal_cpu.py
"""

from ml_collections import ConfigDict

from configs import cpu
from gpt_jax.scaling.plan import design

WIDTHS = (24, 32, 48, 64, 96, 128)  # of two layers
HORIZONS = (400_000, 800_000, 1_600_000, 3_200_000, 6_400_000)  # tokens
WARMUP = 50  # steps


def get_config() -> ConfigDict:
    config = cpu.get_config()
    config.name = 'compute_optimal_cpu'
    step = config.train.batch * config.model.context
    trials = {}
    for one in design.ladder([(2, width, max(1, width // 16)) for width in WIDTHS], cpu.rule):
        rate = {'optimizer.learning_rate': one['optimizer.learning_rate'] / 2}  # Hagele et al. 2024: half of cosine's
        for trial in design.cooldowns(one | rate, HORIZONS, tokens_per_step=step, warmup_steps=WARMUP):
            trials[trial['name']] = trial
    # Forecast from the others before it was run: near the best split of 2e13 FLOPs, and longer than any of them.
    far = {'name': '2x96-1.28e7', 'train.steps': 12_500, 'optimizer.warmup_fraction': WARMUP / 12_500}
    trials['far'] = {k: v for k, v in trials['2x96-6.4e6'].items() if 'branch' not in k} | far
    config.sweep.trials = tuple(trials.values())
    return config
