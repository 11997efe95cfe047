"""GPT-1, GPT-2, GPT-3 and today's GPT at the same five budgets of compute, two seeds each. An hour on 2 cores.

python run.py --config=configs/generations_cpu.py
"""

from ml_collections import ConfigDict

from configs import cpu
from gpt_jax.scaling.plan import design

SIZES = {2.5e11: [(4, 16, 1)], 5e11: [(4, 32, 2)], 1e12: [(4, 32, 2)], 2e12: [(4, 48, 3)], 4e12: [(4, 48, 3)]}
RECIPES = {
    'gpt1': {'model.block': 'post_norm', 'model.final_norm': False},
    'gpt2': {},
    'gpt3': {'model.attention_pattern': ('full', 'window'), 'model.window': 32},
    'today': {'model.norm': 'rms', 'model.position': 'rotary', 'model.feedforward': 'gated', 'model.bias': False,
              'model.activation': 'silu', 'model.qk_norm': True, 'model.z_loss': 1e-4},
}  # fmt: skip
FACTORS = {'gpt1': 1, 'gpt2': 1, 'gpt3': 1, 'today': 1}  # on the rule's rate: the best at 5e11 FLOPs


def get_config() -> ConfigDict:
    config = cpu.get_config()
    config.name = 'generations_cpu'
    trials = design.variants(RECIPES, design.isoflop(SIZES, cpu.rule))
    rated = [t | {'optimizer.learning_rate': FACTORS[t['name'].split('-')[0]] * t['optimizer.learning_rate']} for t in trials]
    config.sweep.trials = design.grid({'seed': (0, 1)}, tuple(rated))
    config.sweep.together = 2
    return config
