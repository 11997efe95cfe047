"""Five compute budgets with five sizes each, for isoFLOP curves: half an hour on 2 cores.

python run.py --config=configs/isoflop_cpu.py
"""

from ml_collections import ConfigDict

from configs import cpu
from gpt_jax.scaling.plan import design

WIDTHS = {  # by training FLOPs; two layers, heads 16 wide
    2.5e11: (16, 24, 32, 48, 64),
    5e11: (24, 32, 48, 64, 96),
    1e12: (24, 32, 48, 64, 96),
    2e12: (32, 48, 64, 96, 128),
    4e12: (48, 64, 96, 128, 160),
    1e13: (80,),  # its loss was forecast from the others before it was run
}


def get_config() -> ConfigDict:
    config = cpu.get_config()
    config.name = 'isoflop_cpu'
    sizes = {
        budget: [(2, width, max(1, width // 16)) for width in widths]
        for budget, widths in WIDTHS.items()
    }
    config.sweep.trials = design.make_isoflop(sizes, cpu.rule)
    return config
