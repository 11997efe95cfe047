"""Does the second sentence follow from the first? A small logic (gpt_jax/data/made/pairs.py); no network.

python run.py --config=configs/start_cpu.py --config.model.context=128 --workdir=runs/tiny_128
python run.py --config=configs/finetune/pairs.py --config.init_from=runs/tiny_128
"""

from ml_collections import ConfigDict

from configs.finetune import local


def get_config() -> ConfigDict:
    config = local.get_config('pairs', context=128, steps=600)
    config.task.update(kind='classify', source='made:pairs', prompt='{premise}', second='{hypothesis}', label='label')
    config.task.update(labels=('entailment', 'neutral', 'contradiction'), auxiliary=0.5)
    config.task.metrics = ('accuracy', 'macro_f1')
    return config
