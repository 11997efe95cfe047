"""How does a task become rows that a model can be trained and scored on?"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from gpt_jax.data import encoded, packed, tokenizer
from gpt_jax.data.examples import Example
from gpt_jax.data.packed import Packed
from gpt_jax.data.task import TaskConfig
from gpt_jax.data.tokenizer import Tokenizer
from gpt_jax.errors import UserError

SPLITS = ('train', 'validation', 'test')


@dataclasses.dataclass(frozen=True)
class TaskCorpus:
    """A task's examples in rows.

    Attributes:
      splits: packed rows of 'train', 'validation' and, where the source has one, 'test'.
      examples: of each split, as text, in the order of its rows' numbers.
      tokenizer: that made the ids.
      vocab_size: every id is below it, those of the marks between a task's texts too.
      fingerprint: 64 hex digits, decided by the examples, the tokenizer and all that turns the ones into ids.
      asked: of each split's examples what is asked in them, as the source has it, without the template's words.
    """

    splits: Mapping[str, Packed]
    examples: Mapping[str, Sequence[Example]]
    tokenizer: Tokenizer
    vocab_size: int
    fingerprint: str
    asked: Mapping[str, Sequence[tuple[str, ...]]] = dataclasses.field(default_factory=dict)

    @property
    def train(self) -> Packed:
        return self.splits['train']

    @property
    def validation(self) -> Packed:
        return self.splits['validation']

    def cut(self) -> dict[str, int]:
        """How many examples of each split did not fit whole."""
        return {split: rows.cut for split, rows in self.splits.items()}


def make(
    task: TaskConfig, examples: Mapping[str, Sequence[Example]], made: Tokenizer, context: int,
    announce: Callable[[str], None],
) -> TaskCorpus:  # fmt: skip
    """Encodes and packs the examples of each split.

    Raises:
      UserError: no training or validation examples, a character without an id, or too short a context.
    """
    for split in SPLITS[:2]:
        if not examples[split]:
            raise UserError(f'task.source: {task.source} gives no example for {split}')
    if task.chat:  # the template spells the special tokens, and what goes before a text
        coder = encoded.Coder(tokenizer.spelled(made), task, context, ())
    else:
        coder = encoded.Coder(made, task, context, tokenizer.beginning(made))
    splits = {
        split: packed.pack(encoded.encode(coder, examples[split]), task, context)
        for split in SPLITS
        if split in examples
    }
    # What is beside a task's own loss is weighed by the training examples everywhere.
    weight = splits['train'].text_weight
    splits = {split: dataclasses.replace(rows, text_weight=weight) for split, rows in splits.items()}
    size = encoded.vocab_size(task.kind, made)
    corpus = TaskCorpus(splits, examples, made, size, _fingerprint(task, examples, coder))
    for split, count in corpus.cut().items():
        if count:
            announce(
                f'data: {count:,} of {len(examples[split]):,} {split} examples do not fit into {context} places; '
                f'what is asked is cut from the {task.cut}, an answer that is itself too long at its end'
            )
    return corpus


def _fingerprint(task: TaskConfig, examples: Mapping[str, Sequence[Example]], coder: encoded.Coder) -> str:
    digest = hashlib.sha256()
    ways = {'kind': task.kind, 'cut': task.cut, 'auxiliary': task.auxiliary, 'choices': len(task.choices)}
    digest.update(json.dumps([ways, coder.tokenizer.fingerprint, coder.room, coder.before]).encode())
    for split in SPLITS:
        for example in examples.get(split, ()):
            digest.update(json.dumps([split, example]).encode())
    return digest.hexdigest()


def texts(examples: Sequence[Example]) -> list[str]:
    """What a tokenizer is trained on."""
    return ['\n'.join(_strings(one)) for one in examples]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from _strings(part)
