"""GPT-2 355M (Radford et al. 2019, table 2, where it is printed as 345M).

python run.py --config=configs/gpt2_355m.py --config.data.source=tfds:c4/en
"""

from ml_collections import ConfigDict

from configs import gpt2


def get_config() -> ConfigDict:
    return gpt2.config('gpt2_355m', layers=24, width=1024, heads=16, learning_rate=3e-4)
