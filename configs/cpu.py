"""Base config for sweeps on two cores: byte sequences, small batches, learning rates by width."""

from typing import Any

from ml_collections import ConfigDict

from gpt_jax import base_config


def get_config() -> ConfigDict:
    config = base_config()
    config.model.context = 128
    config.optimizer.warmup_fraction = 0.1
    config.train.update(batch_size=8, eval_tokens=250_000, eval_batch_size=16, log_every=20)
    return config


def rule(layers: int, width: int, heads: int) -> dict[str, Any]:
    """Return init_std and learning rate by width.

    Narrow models need a higher rate and a larger init_std than GPT-2's 0.02 (width 768).
    """
    del layers, heads
    return {
        'model.init_std': round(0.5 / width**0.5, 4),
        'optimizer.learning_rate': round(min(0.02, 0.4 / width), 5),
    }
