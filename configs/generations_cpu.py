"""GPT-1, GPT-2, GPT-3 and a modern GPT at equal budgets, two seeds: two hours on 2 cores.

python run.py --config=configs/generations_cpu.py
"""

from ml_collections import ConfigDict

from configs import cpu
from gpt_jax.scaling.plan import design

WIDTHS = {2.5e11: 16, 5e11: 32, 1e12: 32, 2e12: 48, 4e12: 48}  # by training FLOPs
MODERN = {'model.norm': 'rms', 'model.position': 'rotary', 'model.feedforward': 'gated'}
MODERN |= {'model.bias': False, 'model.activation': 'silu', 'model.qk_norm': True}
RECIPES = {
    'gpt1': {'model.block': 'post_norm', 'model.final_norm': False},
    'gpt2': {},
    'gpt3': {'model.attention_pattern': ('full', 'window'), 'model.window': 32},
    'today': MODERN | {'model.z_loss': 1e-4},
}


def get_config() -> ConfigDict:
    config = cpu.get_config()
    config.name = 'generations_cpu'
    sizes = {flops: [(4, width, width // 16)] for flops, width in WIDTHS.items()}
    trials = design.make_variants(RECIPES, design.make_isoflop(sizes, cpu.rule))
    for trial in (trial for trial in trials if trial['name'].startswith(('gpt3', 'today'))):
        trial['optimizer.learning_rate'] /= 2  # gives the best of four rates at 4x32
    config.sweep.update(trials=design.make_grid({'seed': (0, 1)}, trials), trials_per_process=2)
    return config
