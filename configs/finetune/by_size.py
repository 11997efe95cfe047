"""What makes the trials of configs/finetuning_cpu.py: a task, a way to learn it and a size of the ladder."""

import importlib
from typing import Any

from configs import cpu, pretrained_cpu
from gpt_jax.scaling.plan import design

WAYS: dict[str, dict[str, Any]] = {
    'scratch': {},
    'full': {},
    'adapters': {'tune.rank': 8, 'tune.alpha': 16.0, 'tune.targets': ('all-linear',)},
}
# Times the rate that pre-training had at this width: what is trained already moves less, adapters move more.
RATES = {'scratch': 1.0, 'full': 0.5, 'adapters': 2.0}


def trial(task: str, fields: dict[str, Any], way: str, size: design.Size) -> design.Trial:
    (sized,) = design.ladder((size,), cpu.rule)
    section = importlib.import_module(f'configs.finetune.{task}').get_config().task.to_dict()
    begins = '' if way == 'scratch' else f'runs/{pretrained_cpu.get_config().name}/trials/{sized["name"]}'
    rate = round(RATES[way] * sized['optimizer.learning_rate'], 6)
    named = {f'task.{name}': value for name, value in section.items()}
    return {**sized, **named, **fields, **WAYS[way], 'name': f'{task}-{way}-{sized["name"]}', 'init_from': begins,
            'optimizer.learning_rate': rate}  # fmt: skip
