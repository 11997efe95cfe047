"""Does the second sentence follow from the first, is it open, or cannot be? MNLI (Williams et al. 2018), matched.

python run.py --config=configs/finetune/mnli.py --config.init_from=runs/gpt2
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    config = published.get_config('mnli', rows=392_702, context=512)
    config.task.update(kind='classify', source='tfds:glue/mnli', validation_source='tfds:glue/mnli_matched')
    config.task.update(prompt='{premise}', second='{hypothesis}', label='label', auxiliary=0.5)
    config.task.update(labels=('entailment', 'neutral', 'contradiction'))
    config.task.metrics = ('accuracy', 'macro_f1')
    return config
