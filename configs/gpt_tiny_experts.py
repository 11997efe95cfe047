"""gpt_tiny with eight experts per layer, two per token: 2.5M parameters, 0.9M active.

python run.py --config=configs/gpt_tiny_experts.py
"""

from ml_collections import ConfigDict

from configs import gpt_tiny


def get_config() -> ConfigDict:
    config = gpt_tiny.get_config()
    config.name = 'gpt_tiny_experts'
    config.model.update(
        feedforward='experts', experts=8, experts_per_token=2, mlp_width=176, activation='silu'
    )
    config.train.tokens = 819_200
    return config
