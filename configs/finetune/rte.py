"""Does the second text follow from the first? RTE (Bentivogli et al. 2009 and before), as in GLUE.

python run.py --config=configs/finetune/rte.py --config.init_from=runs/gpt2
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    config = published.get_config('rte', rows=2_490, context=512)
    config.task.update(kind='classify', source='tfds:glue/rte', prompt='{sentence1}', second='{sentence2}')
    config.task.update(label='label', labels=('entailment', 'not_entailment'), auxiliary=0.5)
    config.task.metrics = ('accuracy',)
    return config
