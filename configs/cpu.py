"""What the sweeps on two cores share: short texts of bytes, small batches, rates and starts by rule in the width."""

from typing import Any

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model.context = 128
    config.optimizer.warmup_fraction = 0.1
    config.train.update(batch=8, evaluate_tokens=250_000, evaluate_batch=16, log_every=20)
    return config


def rule(layers: int, width: int, heads: int) -> dict[str, Any]:
    """Narrow models want a higher rate and a larger start than the 0.02 that suits GPT-2's width of 768."""
    del layers, heads
    return {'model.init_std': round(0.5 / width**0.5, 4), 'optimizer.learning_rate': round(min(0.02, 0.4 / width), 5)}
