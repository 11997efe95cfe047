"""Who did what to whom, with what, where, when? Made sentences (gpt_jax/data/made/roles.py); no network.

python run.py --config=configs/start_cpu.py --config.model.context=192 --workdir=runs/tiny_192
python run.py --config=configs/finetune/roles.py --config.init_from=runs/tiny_192
"""

from ml_collections import ConfigDict

from configs.finetune import local

ROLES = ('AGENT', 'ACTION', 'PATIENT', 'INSTRUMENT', 'PLACE', 'TIME')


def get_config() -> ConfigDict:
    config = local.get_config('roles', context=192, steps=400)
    config.task.update(kind='label', source='made:roles', words='words', tags='tags')
    config.task.labels = ('O', *(f'{side}-{role}' for role in ROLES for side in 'BI'))
    config.task.metrics = ('entity_f1', 'accuracy')
    return config
