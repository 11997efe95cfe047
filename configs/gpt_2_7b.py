"""GPT-3 2.7B: batch of 1M tokens, learning rate 1.6e-4 (Brown et al. 2020, table 2.1).

python run.py --config=configs/gpt_2_7b.py --config.data.source=tfds:c4/en
"""

from ml_collections import ConfigDict

from configs import gpt3


def get_config() -> ConfigDict:
    return gpt3.get_config('2_7b')
