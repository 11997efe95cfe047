"""The most plausible continuation out of four: HellaSwag (Zellers et al. 2019).

python run.py --config=configs/finetune/hellaswag.py --config.init_from=runs/gpt2
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    return published.make_config('hellaswag', rows=39_905, context=256)
