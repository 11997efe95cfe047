"""Entailment between two sentences; generated, no network (synthetic:pairs).

python run.py --config=configs/start_cpu.py --config.model.context=128 --workdir=runs/tiny_128
python run.py --config=configs/finetune/pairs.py --config.init_from=runs/tiny_128
"""

from ml_collections import ConfigDict

from configs.finetune import local


def get_config() -> ConfigDict:
    return local.make_config('pairs', context=128, steps=600)
