"""Which numbers and words make an optimizer?"""

from dataclasses import dataclass

from gpt_jax import schema


@dataclass(frozen=True)
class OptimizerConfig:
    """Defaults and meanings stand in configs/base.py."""

    name: str
    learning_rate: float
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    clip: float
    schedule: str
    warmup_fraction: float
    decay_fraction: float
    cooldown_fraction: float
    final_fraction: float

    def __post_init__(self) -> None:
        for name in ('learning_rate', 'epsilon'):
            schema.require(getattr(self, name) > 0, f'optimizer.{name}', f'must be positive, got {getattr(self, name)}')
        for name in ('weight_decay', 'clip'):
            schema.require(
                getattr(self, name) >= 0, f'optimizer.{name}', f'must be 0 (off) or positive, got {getattr(self, name)}'
            )
        for name in ('beta1', 'beta2'):
            schema.require(
                0 <= getattr(self, name) < 1, f'optimizer.{name}', f'must be in [0, 1), got {getattr(self, name)}'
            )
        for name in ('warmup_fraction', 'final_fraction'):
            schema.require(
                0 <= getattr(self, name) <= 1, f'optimizer.{name}', f'must be in [0, 1], got {getattr(self, name)}'
            )
        for name in ('decay_fraction', 'cooldown_fraction'):
            schema.require(
                0 < getattr(self, name) <= 1, f'optimizer.{name}', f'must be in (0, 1], got {getattr(self, name)}'
            )
