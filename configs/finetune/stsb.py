"""How alike are two sentences, from 0 to 5? STS-B (Cer et al. 2017), as in GLUE; a score goes to the nearest class.

python run.py --config=configs/finetune/stsb.py --config.init_from=runs/gpt2
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    config = published.get_config('stsb', rows=5_749, context=256)
    config.task.update(kind='classify', source='tfds:glue/stsb', prompt='{sentence1}', second='{sentence2}')
    config.task.update(symmetric=True, label='label', labels=('0', '1', '2', '3', '4', '5'), auxiliary=0.5)
    config.task.metrics = ('pearson', 'spearman')
    return config
