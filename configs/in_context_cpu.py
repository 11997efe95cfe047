"""The ladder's sizes on texts that demonstrate rules by examples: 15 minutes on 2 cores.

python experiments/in_context/make.py && python run.py --config=configs/in_context_cpu.py
"""

from ml_collections import ConfigDict

from configs import cpu, ladder_cpu
from gpt_jax.scaling.plan import design

CORPUS = 'runs/in_context_corpus'


def get_config() -> ConfigDict:
    config = cpu.get_config()
    config.name = 'in_context_cpu'
    config.data.update(
        source=f'files:{CORPUS}/train.jsonl', validation_source=f'files:{CORPUS}/validation.jsonl'
    )
    # The absolute position of an example carries no information; its relative position does.
    config.model.position = 'rotary'
    config.train.tokens = 2_000_000
    config.sweep.trials = design.make_grid(
        {'seed': (0, 1)}, design.make_ladder(ladder_cpu.SIZES, cpu.rule)
    )
    config.sweep.trials_per_process = 2
    return config
