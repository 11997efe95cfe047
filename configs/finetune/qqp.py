"""Do two questions ask the same? Quora question pairs, as in GLUE; read both ways round.

python run.py --config=configs/finetune/qqp.py --config.init_from=runs/gpt2
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    config = published.get_config('qqp', rows=363_849, context=256)
    config.task.update(kind='classify', source='tfds:glue/qqp', prompt='{question1}', second='{question2}')
    config.task.update(symmetric=True, label='label', labels=('not_duplicate', 'duplicate'), auxiliary=0.5)
    config.task.metrics = ('macro_f1', 'accuracy')
    return config
