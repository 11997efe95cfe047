"""Translated messages of installed programs; no network (synthetic:translation).

python run.py --config=configs/start_cpu.py --config.model.context=256 --workdir=runs/tiny_256
python run.py --config=configs/finetune/translation.py --config.init_from=runs/tiny_256

--config.task.source=synthetic:grammar uses an artificial language instead, which a model of this
size can learn.
"""

from ml_collections import ConfigDict

from configs.finetune import local


def get_config() -> ConfigDict:
    return local.make_config('translation', context=256, steps=600)
