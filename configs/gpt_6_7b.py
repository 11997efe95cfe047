"""GPT-3 6.7B (Brown et al. 2020, table 2.1): batch 2_000_000 tokens, rate 1.2e-4, 300B tokens.

python run.py --config=configs/gpt_6_7b.py --config.data.source=tfds:c4/en
"""

from ml_collections import ConfigDict

from configs import gpt3


def get_config() -> ConfigDict:
    return gpt3.config('gpt_6_7b', layers=32, width=4096, heads=32, batch_tokens=2_000_000, learning_rate=1.2e-4)
