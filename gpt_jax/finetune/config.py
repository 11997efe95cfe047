"""What of a model is trained, and how fast? The `tune.` part of the configuration and its checks."""

from dataclasses import dataclass

from gpt_jax import schema


@dataclass(frozen=True)
class TuneConfig:
    """Defaults and meanings stand in configs/base.py; what a name of a weight may be, in names.py."""

    train: tuple[str, ...]
    freeze: tuple[str, ...]
    layer_decay: float
    rank: int
    alpha: float
    targets: tuple[str, ...]
    dropout: float
    rank_stabilized: bool

    def __post_init__(self) -> None:
        for field in ('train', 'freeze', 'targets'):
            for name in getattr(self, field):
                schema.require(isinstance(name, str), f'tune.{field}', f'wants names of weights, got {name!r}')
        schema.require(0 < self.layer_decay <= 1, 'tune.layer_decay', f'must be in (0, 1], got {self.layer_decay}')
        schema.require(self.rank >= 0, 'tune.rank', f'must be 0 (no adapters) or positive, got {self.rank}')
        schema.require(self.alpha > 0, 'tune.alpha', f'must be positive, got {self.alpha}')
        schema.require(0 <= self.dropout < 1, 'tune.dropout', f'must be in [0, 1), got {self.dropout}')
        schema.require(
            not self.rank or bool(self.targets),
            'tune.targets',
            "empty, and tune.rank asks for adapters; ('query', 'value')",
        )
