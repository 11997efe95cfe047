"""What may a task be? The `task.` part of the configuration and its checks."""

import dataclasses
import re

from gpt_jax import schema
from gpt_jax.data import template

KINDS = ('none', 'answer', 'classify', 'choose', 'label', 'prefer')
CUTS = ('left', 'right')
# Fields that a kind cannot do without, and those that it may use besides; what else is set is refused.
NEEDED: dict[str, tuple[str, ...]] = {
    'none': (),
    'answer': (),  # messages, or an answer
    'classify': ('prompt', 'label', 'labels'),
    'choose': ('prompt', 'choices', 'label'),
    'label': ('words', 'tags', 'labels'),
    'prefer': ('prompt', 'chosen', 'rejected'),
}
ALLOWED: dict[str, tuple[str, ...]] = {
    'none': (),
    'answer': ('prompt', 'answer', 'references', 'label', 'labels', 'messages', 'chat', 'program'),
    'classify': ('second', 'symmetric', 'auxiliary'),
    'choose': ('labels', 'auxiliary'),
    'label': ('auxiliary',),
    'prefer': ('chat',),
}
SOURCED = ('source', 'validation_source', 'limit', 'metrics')  # that every kind but 'none' uses
ALWAYS = ('kind', 'validation_fraction', 'cut', 'beta', 'written')  # they have a value whether or not anything reads it
TEMPLATES = ('prompt', 'answer', 'second', 'chosen', 'rejected', 'program')
MOST_CHOICES = 16  # of a row that lists them in one column
WRITTEN = 'written'  # in task.program, what the model wrote
COLUMNS = ('references', 'label', 'words', 'tags', 'messages')
_SOURCE = re.compile(r'tfds:[a-z0-9_]+(/[A-Za-z0-9_.:-]+)?|made:[a-z0-9_]+|files:.+', re.DOTALL)


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
    program: str
    limit: int
    written: int
    metrics: tuple[str, ...]
    auxiliary: float
    beta: float

    def __post_init__(self) -> None:
        schema.choice(self.kind, KINDS, 'task.kind')
        schema.choice(self.cut, CUTS, 'task.cut')
        schema.require(0 < self.validation_fraction < 1, 'task.validation_fraction', 'must be above 0 and below 1')
        schema.require(self.limit >= 0, 'task.limit', 'must be 0 (all) or positive')
        schema.require(self.written >= 0, 'task.written', 'must be 0 (none) or positive')
        schema.require(self.auxiliary >= 0, 'task.auxiliary', 'must not be negative')
        schema.require(self.beta > 0, 'task.beta', 'must be positive')
        self._check_use()
        if self.kind == 'none':
            return
        for field in ('source', 'validation_source'):
            self._check_source(field)
        self._check_templates()
        self._check_labels()
        if self.kind == 'answer':
            self._check_answer()
            self._check_program()
        schema.require(not self.symmetric or self.second != '', 'task.symmetric', 'wants task.second, the other text')

    def _check_use(self) -> None:
        """What the kind needs is set, and what it has no use for is not."""
        for field in (*NEEDED[self.kind], *(('source',) if self.kind != 'none' else ())):
            schema.require(bool(getattr(self, field)), f'task.{field}', f"task.kind '{self.kind}' wants it")
        used = {*ALWAYS, *NEEDED[self.kind], *ALLOWED[self.kind], *(SOURCED if self.kind != 'none' else ())}
        for field in dataclasses.fields(self):
            idle = field.name not in used and bool(getattr(self, field.name))
            kinds = [kind for kind in KINDS if field.name in (*NEEDED[kind], *ALLOWED[kind])]
            whose = f'{", ".join(kinds)} would' if kinds else 'set task.kind'
            schema.require(not idle, f'task.{field.name}', f"task.kind '{self.kind}' makes no use of it; {whose}")

    def _check_source(self, field: str) -> None:
        value = getattr(self, field)
        good = (field != 'source' and value == '') or _SOURCE.fullmatch(value)
        says = "write 'tfds:<name>[/<config>]', 'made:<name>' or 'files:<glob>[,<glob>...]'"
        schema.require(bool(good), f'task.{field}', f'{value!r} is no source; {says}')

    def _check_templates(self) -> None:
        for field in TEMPLATES:
            template.parse(getattr(self, field), f'task.{field}')
        for field in COLUMNS:
            if getattr(self, field):
                template.parse_path(getattr(self, field), f'task.{field}')
        for choice in self.choices:
            schema.require(isinstance(choice, str), 'task.choices', f'wants texts, got {choice!r}')
            parts = template.parse(choice, 'task.choices').parts
            enough = len(self.choices) > 1 or (len(parts) == 1 and isinstance(parts[0], template.Path))
            schema.require(enough, 'task.choices', "wants two templates or more, or one column that lists them, '{x}'")

    def _check_labels(self) -> None:
        for word in self.labels:
            schema.require(isinstance(word, str) and word != '', 'task.labels', f'wants words, got {word!r}')
        schema.require(len(set(self.labels)) == len(self.labels), 'task.labels', 'a word stands there twice')
        schema.require(len(self.labels) != 1, 'task.labels', 'wants two words or more')

    def _check_program(self) -> None:
        columns = template.parse(self.program, 'task.program').columns
        there = not self.program or self.program.count(f'{{{WRITTEN}}}') == 1
        schema.require(there, 'task.program', f'wants {{{WRITTEN}}} once, for what the model wrote; has {columns}')
        runs = [name for name in self.metrics if name.startswith('pass@')]
        schema.require(
            bool(self.program) or not runs, 'task.metrics', f'{runs[:1]} runs a program; config.task.program says which'
        )

    def _check_answer(self) -> None:
        """Either a column of turns or an answer's template; a label's word only in the latter."""
        schema.require(
            bool(self.messages or self.answer), 'task.answer', "task.kind 'answer' wants it, or task.messages"
        )
        for field in ('prompt', 'answer', 'references', 'label', 'labels'):
            idle = self.messages != '' and bool(getattr(self, field))
            schema.require(not idle, f'task.{field}', 'task.messages is all there is to a dialogue; leave one out')
        for field, other in (('label', 'labels'), ('labels', 'label')):
            alone = bool(getattr(self, field)) and not getattr(self, other)
            schema.require(not alone, f'task.{other}', f'task.{field} wants it; the word is {{label}} in task.answer')
