"""GPT-3 350M: batch of 500,000 tokens, learning rate 3e-4 (Brown et al. 2020, table 2.1).

python run.py --config=configs/gpt_350m.py --config.data.source=tfds:c4/en
"""

from ml_collections import ConfigDict

from configs import gpt3


def get_config() -> ConfigDict:
    return gpt3.get_config('350m')
