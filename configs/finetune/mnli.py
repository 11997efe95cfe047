"""Entailment between two sentences: MNLI, matched (Williams et al. 2018).

python run.py --config=configs/finetune/mnli.py --config.init_from=runs/gpt2
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    return published.make_config('mnli', rows=392_702, context=512)
