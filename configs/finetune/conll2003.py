"""Which words name a person, a place, a body or something else? CoNLL-2003 (Tjong Kim Sang and De Meulder 2003).

python run.py --config=configs/finetune/conll2003.py --config.init_from=runs/gpt2
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    config = published.get_config('conll2003', rows=14_041, context=256)
    config.task.update(kind='label', source='tfds:conll2003', words='tokens', tags='ner')
    config.task.labels = ('O', 'B-PER', 'I-PER', 'B-ORG', 'I-ORG', 'B-LOC', 'I-LOC', 'B-MISC', 'I-MISC')
    config.task.metrics = ('entity_f1', 'accuracy')
    return config
