"""What may a task be? The `task.` part of the configuration and its checks."""

import dataclasses

from gpt_jax import schema

KINDS = ('none', 'answer', 'classify', 'choose', 'label', 'prefer')
CUTS = ('left', 'right')
# Fields that a kind cannot do without, and those that it may use besides; what else is set is refused.
NEEDED = {
    'none': (),
    'answer': (),
    'classify': ('prompt', 'label', 'labels'),
    'choose': ('prompt', 'choices', 'label'),
    'label': ('words', 'tags', 'labels'),
    'prefer': ('prompt', 'chosen', 'rejected'),
}
ALLOWED = {
    'none': (),
    'answer': ('prompt', 'answer', 'references', 'label', 'labels', 'messages', 'chat'),
    'classify': ('second', 'symmetric', 'auxiliary'),
    'choose': ('labels', 'auxiliary'),
    'label': ('auxiliary',),
    'prefer': ('beta', 'chat'),
}


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """What a model is tuned and scored on; meanings and defaults stand in configs/base.py.

    Templates are texts with columns of a row in braces: '{question}', '{answers[text][0]}', '{{' for a brace.
    """

    kind: str
    source: str
    validation_source: str
    validation_fraction: float
    prompt: str
    answer: str
    references: str
    second: str
    symmetric: bool
    choices: tuple[str, ...]
    label: str
    labels: tuple[str, ...]
    words: str
    tags: str
    chosen: str
    rejected: str
    messages: str
    chat: bool
    cut: str
    limit: int
    metrics: tuple[str, ...]
    auxiliary: float
    beta: float

    def __post_init__(self) -> None:
        schema.choice(self.kind, KINDS, 'task.kind')
        schema.choice(self.cut, CUTS, 'task.cut')
        schema.require(0 < self.validation_fraction < 1, 'task.validation_fraction', 'must be above 0 and below 1')
        schema.require(self.limit >= 0, 'task.limit', 'must be 0 (all) or positive')
        schema.require(self.auxiliary >= 0, 'task.auxiliary', 'must not be negative')
        schema.require(self.beta > 0, 'task.beta', 'must be positive')
