"""Modules, classes and functions named in docstrings; generated, no network (synthetic:entities).

python run.py --config=configs/start_cpu.py --config.model.context=256 --workdir=runs/tiny_256
python run.py --config=configs/finetune/entities.py --config.init_from=runs/tiny_256
"""

from ml_collections import ConfigDict

from configs.finetune import local


def get_config() -> ConfigDict:
    return local.make_config('entities', context=256, steps=400)
