"""Semantic roles in generated sentences; no network (synthetic:roles).

python run.py --config=configs/start_cpu.py --config.model.context=192 --workdir=runs/tiny_192
python run.py --config=configs/finetune/roles.py --config.init_from=runs/tiny_192
"""

from ml_collections import ConfigDict

from configs.finetune import local


def get_config() -> ConfigDict:
    return local.make_config('roles', context=192, steps=400)
