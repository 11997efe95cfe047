"""Is a remark kind? Made remarks with negation and contrast (gpt_jax/data/made/sentiment.py); no network.

python run.py --config=configs/start_cpu.py --config.model.context=192 --workdir=runs/tiny_192
python run.py --config=configs/finetune/sentiment.py --config.init_from=runs/tiny_192
"""

from ml_collections import ConfigDict

from configs.finetune import local


def get_config() -> ConfigDict:
    config = local.get_config('sentiment', context=192, steps=400)
    config.task.update(kind='classify', source='made:sentiment', prompt='{text}', label='label', auxiliary=0.5)
    config.task.update(labels=('negative', 'positive'))
    config.task.metrics = ('accuracy', 'macro_f1')
    return config
