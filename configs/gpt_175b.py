"""GPT-3 175B (Brown et al. 2020, table 2.1): batch 3_200_000 tokens, rate 0.6e-4, 300B tokens.

python run.py --config=configs/gpt_175b.py --config.data.source=tfds:c4/en
"""

from ml_collections import ConfigDict

from configs import gpt3


def get_config() -> ConfigDict:
    return gpt3.config('gpt_175b', layers=96, width=12288, heads=96, batch_tokens=3_200_000, learning_rate=0.6e-4)
