"""The better of two answers, one wrong or degraded; no network (synthetic:preferences).

python run.py --config=configs/start_cpu.py --config.model.context=512 \\
    --config.train.batch_size=4 --workdir=runs/tiny_512
python run.py --config=configs/finetune/preferences.py --config.init_from=runs/tiny_512
"""

from ml_collections import ConfigDict

from configs.finetune import local


def get_config() -> ConfigDict:
    config = local.make_config('preferences', context=512, steps=200)
    config.optimizer.learning_rate = 1e-4
    return config
