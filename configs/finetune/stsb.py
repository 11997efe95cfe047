"""Similarity of two sentences from 0 to 5: STS-B, as in GLUE (Cer et al. 2017).

python run.py --config=configs/finetune/stsb.py --config.init_from=runs/gpt2

Scores are rounded to the nearest class. The model reads each pair in both orders.
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    return published.make_config('stsb', rows=5_749, context=256)
