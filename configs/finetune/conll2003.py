"""Named entities in news: CoNLL-2003 (Tjong Kim Sang and De Meulder 2003).

python run.py --config=configs/finetune/conll2003.py --config.init_from=runs/gpt2
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    return published.make_config('conll2003', rows=14_041, context=256)
