"""GPT-3 13B: batch of 2M tokens, learning rate 1e-4 (Brown et al. 2020, table 2.1).

python run.py --config=configs/gpt_13b.py --config.data.source=tfds:c4/en
"""

from ml_collections import ConfigDict

from configs import gpt3


def get_config() -> ConfigDict:
    return gpt3.get_config('13b')
