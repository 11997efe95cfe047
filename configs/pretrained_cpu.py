"""The ladder's sizes with longer sequences and more tokens, as base models: 20 minutes on 2 cores.

python run.py --config=configs/pretrained_cpu.py
"""

from ml_collections import ConfigDict

from configs import cpu, ladder_cpu
from gpt_jax.scaling.plan import design

CONTEXT = 256


def get_config() -> ConfigDict:
    config = cpu.get_config()
    config.name = 'pretrained_cpu'
    config.model.context = CONTEXT
    config.train.update(tokens=4_000_000, eval_batch_size=8)
    config.sweep.trials = design.make_ladder(ladder_cpu.SIZES, cpu.rule)
    return config
