"""Duplicate questions: Quora question pairs, as in GLUE (Wang et al. 2019).

python run.py --config=configs/finetune/qqp.py --config.init_from=runs/gpt2

The model reads each pair in both orders.
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    return published.make_config('qqp', rows=363_849, context=256)
