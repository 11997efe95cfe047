"""GPT-3 2.7B (Brown et al. 2020, table 2.1): batch 1_000_000 tokens, rate 1.6e-4, 300B tokens.

python run.py --config=configs/gpt_2_7b.py --config.data.source=tfds:c4/en
"""

from ml_collections import ConfigDict

from configs import gpt3


def get_config() -> ConfigDict:
    return gpt3.config('gpt_2_7b', layers=32, width=2560, heads=32, batch_tokens=1_000_000, learning_rate=1.6e-4)
