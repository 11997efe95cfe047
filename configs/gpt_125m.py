"""GPT-3 125M (Brown et al. 2020, table 2.1): batch 500_000 tokens, rate 6e-4, 300B tokens.

python run.py --config=configs/gpt_125m.py --config.data.source=tfds:c4/en
"""

from ml_collections import ConfigDict

from configs import gpt3


def get_config() -> ConfigDict:
    return gpt3.config('gpt_125m', layers=12, width=768, heads=12, batch_tokens=500_000, learning_rate=6e-4)
