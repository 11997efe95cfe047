"""Which words name modules, classes, functions? Docstrings (gpt_jax/data/made/entities.py); no network.

python run.py --config=configs/start_cpu.py --config.model.context=256 --workdir=runs/tiny_256
python run.py --config=configs/finetune/entities.py --config.init_from=runs/tiny_256
"""

from ml_collections import ConfigDict

from configs.finetune import local


def get_config() -> ConfigDict:
    config = local.get_config('entities', context=256, steps=400)
    config.task.update(kind='label', source='made:entities', words='words', tags='tags')
    config.task.labels = ('O', *(f'{side}-{kind}' for kind in ('MODULE', 'CLASS', 'FUNCTION') for side in 'BI'))
    config.task.metrics = ('entity_f1', 'accuracy')
    return config
