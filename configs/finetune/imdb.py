"""Sentiment of film reviews: IMDB (Maas et al. 2011).

python run.py --config=configs/finetune/imdb.py --config.init_from=runs/gpt2

A tenth of the train split is used for validation. Long reviews are truncated at the beginning.
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    return published.make_config('imdb', rows=22_500, context=512)
