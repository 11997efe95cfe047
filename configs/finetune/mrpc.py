"""Do two sentences say the same? MRPC (Dolan and Brockett 2005), as in GLUE; read both ways round.

python run.py --config=configs/finetune/mrpc.py --config.init_from=runs/gpt2
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    config = published.get_config('mrpc', rows=3_668, context=256)
    config.task.update(kind='classify', source='tfds:glue/mrpc', prompt='{sentence1}', second='{sentence2}')
    config.task.update(symmetric=True, label='label', labels=('not_equivalent', 'equivalent'), auxiliary=0.5)
    config.task.metrics = ('macro_f1', 'accuracy')
    return config
