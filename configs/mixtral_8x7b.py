"""Mixtral 8x7B (Jiang et al. 2024, table 1): eight experts per layer, two per token.

python run.py --config=configs/mixtral_8x7b.py --config.data.source=tfds:c4/en

This is Mistral 7B with experts and without a window. Its training recipe is not published: here it
is that of configs/mistral_7b.py, with the default coefficients of the router losses (Fedus et al.
2021; Zoph et al. 2022).
"""

from ml_collections import ConfigDict

from configs import mistral_7b


def get_config() -> ConfigDict:
    config = mistral_7b.get_config()
    config.name = 'mixtral_8x7b'
    config.model.update(feedforward='experts', experts=8, experts_per_token=2, rotary_base=1e6)
    config.model.update(attention_pattern=('full',), window=0)
    return config
