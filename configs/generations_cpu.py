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


def get_config() -> ConfigDict:
    config = cpu.get_config()
    config.name = 'generations_cpu'
    config.sweep.trials = design.grid({'seed': (0, 1)}, design.variants(RECIPES, design.isoflop(SIZES, cpu.rule)))
    config.sweep.together = 2
    return config
