"""Entailment between two texts: RTE, as in GLUE (Bentivogli et al. 2009 and earlier).

python run.py --config=configs/finetune/rte.py --config.init_from=runs/gpt2
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    return published.make_config('rte', rows=2_490, context=512)
