"""Three tasks on the ladder's sizes: untrained, pre-trained, with adapters alone; two seeds. 45 minutes, two cores.

python run.py --config=configs/pretrained_cpu.py
python run.py --config=configs/finetuning_cpu.py --launch=local --processes=2
"""

import importlib

from ml_collections import ConfigDict

from configs import cpu, ladder_cpu, pretrained_cpu
from gpt_jax.scaling.plan import design

TASKS = {
    'entities': {},
    'roles': {},
    # A made language: what can be learned of it in so few steps shows.
    'translation': {'task.source': 'made:grammar', 'task.written': 50},
}
WAYS = {
    'scratch': {},
    'full': {},
    'adapters': {'tune.rank': 8, 'tune.alpha': 16.0, 'tune.targets': ('all-linear',)},
}
# Times the rate that pre-training had at this width: what is trained already moves less, adapters move more.
RATES = {'scratch': 1.0, 'full': 0.5, 'adapters': 2.0}
STEPS = 150


def get_config() -> ConfigDict:
    config = cpu.get_config()
    config.name = 'finetuning_cpu'
    config.model.context = pretrained_cpu.CONTEXT
    config.optimizer.final_fraction = 0.0
    config.train.update(steps=STEPS, evaluate_batch=16, tensorboard=False, keep_checkpoints=1)
    trials = [_trial(task, way, size) for task in TASKS for way in WAYS for size in ladder_cpu.SIZES]
    config.mesh.cpu_devices = 1  # a worker for each core: --launch=local --processes=2
    config.sweep.trials = design.grid({'seed': (0, 1)}, tuple(trials))
    return config


def _trial(task: str, way: str, size: tuple[int, int, int]) -> dict[str, object]:
    (sized,) = design.ladder((size,), cpu.rule)
    section = importlib.import_module(f'configs.finetune.{task}').get_config().task.to_dict()
    begins = '' if way == 'scratch' else f'runs/{pretrained_cpu.get_config().name}/trials/{sized["name"]}'
    rate = round(RATES[way] * sized['optimizer.learning_rate'], 6)
    fields = {f'task.{name}': value for name, value in section.items()}
    return {**sized, **fields, **TASKS[task], **WAYS[way], 'name': f'{task}-{way}-{sized["name"]}', 'init_from': begins,
            'optimizer.learning_rate': rate}  # fmt: skip
