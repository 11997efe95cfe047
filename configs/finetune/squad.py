"""Questions about a paragraph, with generated answers: SQuAD 1.1 (Rajpurkar et al. 2016).

python run.py --config=configs/finetune/squad.py --config.init_from=runs/gpt2
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    return published.make_config('squad', rows=87_599, context=512, epochs=2)
