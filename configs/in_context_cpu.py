"""The ladder's sizes on texts that each show one rule by examples (experiments/in_context). 15 minutes on 2 cores.

python experiments/in_context/make.py && python run.py --config=configs/in_context_cpu.py
"""

from ml_collections import ConfigDict

from configs import cpu, ladder_cpu
from gpt_jax.scaling.plan import design

CORPUS = 'runs/in_context_corpus'


def get_config() -> ConfigDict:
    config = cpu.get_config()
    config.name = 'in_context_cpu'
    config.data.update(source=f'files:{CORPUS}/train.jsonl', validation_source=f'files:{CORPUS}/validation.jsonl')
    config.model.position = 'rotary'  # an example's place in the text says nothing; what stands near it does
    config.train.tokens = 2_000_000
    config.sweep.trials = design.grid({'seed': (0, 1)}, design.ladder(ladder_cpu.SIZES, cpu.rule))
    config.sweep.together = 2
    return config
