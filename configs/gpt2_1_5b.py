"""GPT-2 1.5B (Radford et al. 2019, table 2).

python run.py --config=configs/gpt2_1_5b.py --config.data.source=tfds:c4/en
"""

from ml_collections import ConfigDict

from configs import gpt2


def get_config() -> ConfigDict:
    return gpt2.config('gpt2_1_5b', layers=48, width=1600, heads=25, learning_rate=2e-4)
