"""Which answer is better? Made worse by rules (gpt_jax/data/made/preferences.py); no network.

python run.py --config=configs/start_cpu.py --config.model.context=512 --config.train.batch=4 --workdir=runs/tiny_512
python run.py --config=configs/finetune/preferences.py --config.init_from=runs/tiny_512
"""

from ml_collections import ConfigDict

from configs.finetune import local


def get_config() -> ConfigDict:
    config = local.get_config('preferences', context=512, steps=200)
    config.task.update(kind='prefer', source='made:preferences', prompt='{prompt}', beta=0.1)
    config.task.update(chosen=' {chosen}', rejected=' {rejected}')
    config.optimizer.learning_rate = 1e-4
    return config
