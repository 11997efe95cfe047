"""Sentiment of sentences in film reviews: SST-2, as in GLUE (Socher et al. 2013).

python run.py --config=configs/finetune/sst2.py --config.init_from=runs/gpt2
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    return published.make_config('sst2', rows=67_349, context=128)
