"""Which tasks is a model asked while it is trained, and how? The `suite.` part of the configuration and its checks."""

from dataclasses import dataclass

from gpt_jax import schema


@dataclass(frozen=True)
class SuiteConfig:
    """Defaults and meanings stand in configs/base.py."""

    tasks: tuple[str, ...]
    every: int
    examples: int
    shots: int
    seed: int
    overlap: int

    def __post_init__(self) -> None:
        for name in self.tasks:
            schema.require(isinstance(name, str) and name != '', 'suite.tasks', f'wants names of tasks, got {name!r}')
        schema.require(len(set(self.tasks)) == len(self.tasks), 'suite.tasks', 'a task stands there twice')
        schema.require(self.every >= 0, 'suite.every', 'must be 0 (at the end alone) or positive')
        schema.require(self.examples >= 0, 'suite.examples', 'must be 0 (all) or positive')
        schema.require(0 <= self.shots <= 64, 'suite.shots', f'must be from 0 to 64, got {self.shots}')
        schema.require(0 <= self.seed < 2**32, 'suite.seed', 'must be in [0, 2^32)')
        schema.require(self.overlap >= 0, 'suite.overlap', 'must be 0 (do not look) or positive')
        idle = not self.tasks and self.every > 0
        schema.require(not idle, 'suite.every', 'there is no task to ask; config.suite.tasks names some')
