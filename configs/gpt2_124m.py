"""GPT-2 124M (Radford et al. 2019, table 2, where it is printed as 117M).

python run.py --config=configs/gpt2_124m.py --config.data.source=tfds:c4/en
"""

from ml_collections import ConfigDict

from configs import gpt2


def get_config() -> ConfigDict:
    return gpt2.config('gpt2_124m', layers=12, width=768, heads=12, learning_rate=6e-4)
