"""Is a sentence of a film review kind? SST-2 (Socher et al. 2013), as in GLUE.

python run.py --config=configs/finetune/sst2.py --config.init_from=runs/gpt2
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    config = published.get_config('sst2', rows=67_349, context=128)
    config.task.update(kind='classify', source='tfds:glue/sst2', prompt='{sentence}', label='label', auxiliary=0.5)
    config.task.update(labels=('negative', 'positive'))
    config.task.metrics = ('accuracy',)
    return config
