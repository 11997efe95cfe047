"""GPT-1, GPT-2, GPT-3 and today's GPT at the same five budgets of compute, two seeds each. Two hours on 2 cores.

python run.py --config=configs/generations_cpu.py
"""

from ml_collections import ConfigDict

from configs import cpu
from gpt_jax.scaling.plan import design

SIZES = {2.5e11: [(4, 16, 1)], 5e11: [(4, 32, 2)], 1e12: [(4, 32, 2)], 2e12: [(4, 48, 3)], 4e12: [(4, 48, 3)]}
RECIPES = {  # with the factor on the rule's rate that was best of four at 4x32
    'gpt1': (1, {'model.block': 'post_norm', 'model.final_norm': False}),
    'gpt2': (1, {}),
    'gpt3': (0.5, {'model.attention_pattern': ('full', 'window'), 'model.window': 32}),
    'today': (0.5, {'model.norm': 'rms', 'model.position': 'rotary', 'model.feedforward': 'gated', 'model.bias': False,
                    'model.activation': 'silu', 'model.qk_norm': True, 'model.z_loss': 1e-4}),
}  # fmt: skip


def get_config() -> ConfigDict:
    config = cpu.get_config()
    config.name = 'generations_cpu'
    recipes = {name: keys for name, (_, keys) in RECIPES.items()}
    trials = design.variants(recipes, design.isoflop(SIZES, cpu.rule))
    for trial in trials:
        trial['optimizer.learning_rate'] *= RECIPES[trial['name'].split('-')[0]][0]
    config.sweep.trials = design.grid({'seed': (0, 1)}, trials)
    config.sweep.together = 2
    return config
