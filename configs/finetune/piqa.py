"""The better of two ways to reach a physical goal: PIQA (Bisk et al. 2020).

python run.py --config=configs/finetune/piqa.py --config.init_from=runs/gpt2
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    return published.make_config('piqa', rows=16_113, context=256)
