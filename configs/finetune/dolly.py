"""Answers to instructions: Dolly 15k (Conover et al. 2023).

python run.py --config=configs/finetune/dolly.py --config.init_from=runs/gpt2
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    return published.make_config('dolly', rows=13_500, context=512)
