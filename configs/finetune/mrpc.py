"""Paraphrases in news: MRPC, as in GLUE (Dolan and Brockett 2005).

python run.py --config=configs/finetune/mrpc.py --config.init_from=runs/gpt2

The model reads each pair in both orders.
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    return published.make_config('mrpc', rows=3_668, context=256)
