"""Mixtral 8x7B (Jiang et al. 2024, table 1): Mistral 7B with eight experts in each layer, two for a token, no window.

python run.py --config=configs/mixtral_8x7b.py --config.data.source=tfds:c4/en

How it was trained is not published; the recipe is that of configs/mistral_7b.py, and the coefficients of the routing's
losses are those of configs/base.py (Fedus et al. 2021; Zoph et al. 2022).
"""

from ml_collections import ConfigDict

from configs import mistral_7b


def get_config() -> ConfigDict:
    config = mistral_7b.get_config()
    config.name = 'mixtral_8x7b'
    config.model.update(feedforward='experts', experts=8, experts_per_token=2, rotary_base=1e6)
    config.model.update(attention_pattern=('full',), window=0)
    return config
