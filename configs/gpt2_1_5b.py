"""GPT-2 1.5B (Radford et al. 2019, table 2).

python run.py --config=configs/gpt2_1_5b.py --config.data.source=tfds:c4/en
"""

from ml_collections import ConfigDict

from configs import gpt2


def get_config() -> ConfigDict:
    return gpt2.get_config('1_5b')
