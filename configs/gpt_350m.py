"""GPT-3 350M (Brown et al. 2020, table 2.1): batch 500_000 tokens, rate 3e-4, 300B tokens.

python run.py --config=configs/gpt_350m.py --config.data.source=tfds:c4/en
"""

from ml_collections import ConfigDict

from configs import gpt3


def get_config() -> ConfigDict:
    return gpt3.config('gpt_350m', layers=24, width=1024, heads=16, batch_tokens=500_000, learning_rate=3e-4)
