"""The ladder's sizes on a small text with planted strings: 8 minutes on 2 cores.

python experiments/memorization/make.py && python run.py --config=configs/memorization_cpu.py
"""

from ml_collections import ConfigDict

from configs import cpu, ladder_cpu
from gpt_jax.scaling.plan import design

CORPUS = 'runs/memorization_corpus'


def get_config() -> ConfigDict:
    config = cpu.get_config()
    config.name = 'memorization_cpu'
    config.data.update(
        source=f'files:{CORPUS}/train.jsonl', validation_source=f'files:{CORPUS}/held_out.jsonl'
    )
    # Windows are the same in every epoch: learned positions would tie a string to its positions.
    config.model.position = 'rotary'
    config.train.tokens = 2_000_000
    config.sweep.trials = design.make_ladder(ladder_cpu.SIZES, cpu.rule)
    return config
