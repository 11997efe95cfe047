"""GPT-3 1.3B (Brown et al. 2020, table 2.1): batch 1_000_000 tokens, rate 2e-4, 300B tokens.
The paper prints 24 heads of 128, which do not make 2,048; 16 do.

python run.py --config=configs/gpt_1_3b.py --config.data.source=tfds:c4/en
"""

from ml_collections import ConfigDict

from configs import gpt3


def get_config() -> ConfigDict:
    return gpt3.config('gpt_1_3b', layers=24, width=2048, heads=16, batch_tokens=1_000_000, learning_rate=2e-4)
