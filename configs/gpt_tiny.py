"""The smallest useful run: a byte model of 0.8M parameters, about a minute on 2 cores.

python run.py --config=configs/gpt_tiny.py
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = 'gpt_tiny'
    config.model.update(layers=4, width=128, heads=4, context=128)
    config.optimizer.learning_rate = 3e-3
    config.train.update(batch=32, microbatch=4, tokens=1_228_800, evaluate_tokens=200_000)
    return config
