"""A byte-level model of 0.8M parameters: about a minute on 2 cores.

python run.py --config=configs/gpt_tiny.py
"""

from ml_collections import ConfigDict

from gpt_jax import base_config


def get_config() -> ConfigDict:
    config = base_config()
    config.name = 'gpt_tiny'
    config.model.update(layers=4, width=128, heads=4, context=128)
    config.optimizer.learning_rate = 3e-3
    config.train.update(batch_size=32, microbatch_size=4, tokens=1_228_800, eval_tokens=200_000)
    return config
