"""GPT-3 13B (Brown et al. 2020, table 2.1): batch 2_000_000 tokens, rate 1e-4, 300B tokens.
The paper prints a width of 5,140; 40 heads of 128 make 5,120, and so does the total in table D.1.

python run.py --config=configs/gpt_13b.py --config.data.source=tfds:c4/en
"""

from ml_collections import ConfigDict

from configs import gpt3


def get_config() -> ConfigDict:
    return gpt3.config('gpt_13b', layers=40, width=5120, heads=40, batch_tokens=2_000_000, learning_rate=1e-4)
