"""GPT-2 774M (Radford et al. 2019, table 2, where it is printed as 762M).

python run.py --config=configs/gpt2_774m.py --config.data.source=tfds:c4/en
"""

from ml_collections import ConfigDict

from configs import gpt2


def get_config() -> ConfigDict:
    return gpt2.config('gpt2_774m', layers=36, width=1280, heads=20, learning_rate=2.5e-4)
