"""GPT-2 124M (Radford et al. 2019, table 2).

python run.py --config=configs/gpt2_124m.py --config.data.source=tfds:c4/en
"""

from ml_collections import ConfigDict

from configs import gpt2


def get_config() -> ConfigDict:
    return gpt2.get_config('124m')
