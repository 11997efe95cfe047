"""Science exam questions with three to five answers: ARC-Challenge (Clark et al. 2018).

python run.py --config=configs/finetune/arc.py --config.init_from=runs/gpt2
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    return published.make_config('arc', rows=1_119, context=256)
