"""Which numbers bound a sweep?"""

import math
from dataclasses import dataclass

from gpt_jax import schema
from gpt_jax.launch.records import Limits


@dataclass(frozen=True)
class SweepConfig:
    """Defaults and meanings stand in configs/base.py."""

    trials: tuple[dict[str, object], ...]
    together: int
    hang_minutes: float
    hours: float
    flops: float
    stale_minutes: float

    def __post_init__(self) -> None:
        schema.require(self.together > 0, 'sweep.together', f'must be 1 (one by one) or more, got {self.together}')
        for name in ('hang_minutes', 'hours', 'flops'):
            value = getattr(self, name)
            schema.require(value >= 0, f'sweep.{name}', f'must be 0 (no limit) or positive, got {value}')

        schema.require(self.stale_minutes > 0, 'sweep.stale_minutes', f'must be positive, got {self.stale_minutes}')

    @property
    def limits(self) -> Limits:
        """The same, with infinity where there is no limit."""
        return Limits(
            hang_seconds=60 * self.hang_minutes or math.inf,
            hours=self.hours or math.inf,
            flops=self.flops or math.inf,
            stale_seconds=60 * self.stale_minutes,
        )
