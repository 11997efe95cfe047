"""Which examples has a task, for training, validation and test?"""

import dataclasses
import functools
import hashlib
import heapq
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax.data import examples, rows, sources, template
from gpt_jax.data.chat import Chat
from gpt_jax.data.config import cache_folder
from gpt_jax.data.examples import Example, Words
from gpt_jax.data.rows import SPLITS, Reading, Row
from gpt_jax.data.task import TEMPLATES, TaskConfig
from gpt_jax.errors import UserError

# Fields that do not change what the examples are: how they are scored, weighed and cut to the context; and those that
# say which rows there are, for the rows themselves are in the fingerprint.
APART = (
    'metrics', 'program', 'written', 'auxiliary', 'beta', 'cut', 'source', 'validation_source', 'validation_fraction',
)  # fmt: skip
Rank = tuple[bytes, int]  # a hash of what a row is about, and its number: `limit` takes the lowest


class TaskSet(NamedTuple):
    """A task's examples, read anew at every call.

    Attributes:
      counts: examples of each split; 'train' and 'validation' have at least one, 'test' is missing where it has none.
      fingerprint: SHA-256, 64 hex digits, of the rows and of how they are made into examples, and of nothing else.
      pairs: a split's examples in order, each with its row, which may have columns that scoring wants (a test, an id).
    """

    counts: dict[str, int]
    fingerprint: str
    pairs: Callable[[str], Iterator[tuple[Row, Example]]]

    def examples(self, split: str) -> Iterator[Example]:
        """A split's examples, in order."""
        return (example for _, example in self.pairs(split))


class _Part(NamedTuple):
    reading: Reading
    words: Words


def load(task: TaskConfig, cache: str, how: Chat | None, announce: Callable[[str], None] = print) -> TaskSet:
    """Reads all rows of the task once, and says what there is.

    Args:
      task: of another kind than 'none'.
      cache: config.data.cache.
      how: the chat template of the tokenizer; None: it has none.
      announce: is told, in one line a split, of rows that are passed over.

    Raises:
      UserError: no such source, a broken file, a row that does not fit the task, nothing to train on or validate with.
    """
    if task.chat and how is None:
        raise UserError(
            'config.task.chat: the tokenizer carries no chat template; put a chat_template.jinja beside its files, '
            'or set config.task.chat=False'
        )
    parts = _parts(task, Path(cache_folder(cache)))
    counts, bound, fingerprint = _scan(task, how, parts, announce)

    def pairs(split: str) -> Iterator[tuple[Row, Example]]:
        part, number = parts[split], 0
        for row in part.reading():
            example = examples.make(row, task, part.words, how)
            if example is None:
                continue
            if split != 'train' or bound is None or (_hash(task, row, b'limit'), number) <= bound:
                yield row, example
            number += 1

    return TaskSet(counts, fingerprint, pairs)


def _parts(task: TaskConfig, cache: Path) -> dict[str, _Part]:
    own = rows.read('task.source', task.source, cache)
    if 'train' not in own.splits:
        there = ', '.join(own.splits) or 'none of those known'
        raise UserError(f'config.task.source: {task.source} has no train split (it has {there})')
    parts = {split: _Part(reading, own.words) for split, reading in own.splits.items()}
    if task.validation_source:
        _check_apart(task)
        other = rows.read('task.validation_source', task.validation_source, cache)
        split = next(split for split in ('validation', 'test', 'train') if split in other.splits)
        parts['validation'] = _Part(other.splits[split], other.words)
    elif 'validation' not in parts:
        train = own.splits['train']
        for split in ('train', 'validation'):
            parts[split] = _Part(functools.partial(_carved, task, train, split), own.words)
    return {split: parts[split] for split in SPLITS if split in parts}


def _carved(task: TaskConfig, train: Reading, wanted: str) -> Iterator[Row]:
    """Each row to validation with probability `validation_fraction`, by a hash: copies stay on one side."""
    for row in train():
        held_out = int.from_bytes(_hash(task, row, b'')) < task.validation_fraction * 2**64
        if held_out == (wanted == 'validation'):
            yield row


def _hash(task: TaskConfig, row: Row, purpose: bytes) -> bytes:
    """Of what the examples are about: the columns that become their texts, so not of ids, nor of what is to be told."""
    read = {column: row.columns[column] for column in _read(task) if column in row.columns}
    return hashlib.blake2b(_content(row, read or dict(row.columns)), digest_size=8, person=purpose).digest()


@functools.cache
def _read(task: TaskConfig) -> tuple[str, ...]:
    """The columns that the task's texts are made of."""
    given = [(field, getattr(task, field)) for field in TEMPLATES] + [('choices', choice) for choice in task.choices]
    found = [column for field, text in given for column in template.parse(text, f'task.{field}').columns]
    paths = [(field, getattr(task, field)) for field in ('words', 'messages') if getattr(task, field)]
    found += [template.parse_path(text, f'task.{field}').column for field, text in paths]
    return tuple(column for column in dict.fromkeys(found) if not (column == 'label' and task.labels))


def _content(row: Row, columns: dict[str, Any]) -> bytes:
    try:
        return json.dumps(columns, ensure_ascii=False, sort_keys=True).encode('utf-8')
    except UnicodeEncodeError:
        raise UserError(f'{row.place}: holds half a surrogate pair, which UTF-8 has no bytes for') from None


def _scan(
    task: TaskConfig, how: Chat | None, parts: dict[str, _Part], announce: Callable[[str], None]
) -> tuple[dict[str, int], Rank | None, str]:
    """How many examples each split has, the highest rank that `limit` leaves in training, and the fingerprint."""
    digest = hashlib.sha256(json.dumps(_about(task, how), sort_keys=True).encode('utf-8'))
    counts, passed, lowest = dict.fromkeys(parts, 0), dict.fromkeys(parts, 0), list[Rank]()
    for split, part in parts.items():
        digest.update(f'\0{split}\0{json.dumps(part.words, sort_keys=True)}'.encode())
        for row in part.reading():
            digest.update(_content(row, dict(row.columns)))
            if examples.make(row, task, part.words, how) is None:
                passed[split] += 1
                continue
            if split == 'train' and task.limit:
                lowest.append((_hash(task, row, b'limit'), counts[split]))
                if len(lowest) > 2 * task.limit:
                    lowest = heapq.nsmallest(task.limit, lowest)
            counts[split] += 1
        if passed[split]:
            said = f'{passed[split]} of {passed[split] + counts[split]} rows of {split}'
            announce(f'task: {said} have nothing to learn (no label, no words, or two equal answers): passed over')
    _check(task, counts, passed)
    limited = 0 < task.limit < counts['train']
    bound = heapq.nsmallest(task.limit, lowest)[-1] if limited else None
    counts['train'] = task.limit if limited else counts['train']
    return {split: count for split, count in counts.items() if count}, bound, digest.hexdigest()


def _about(task: TaskConfig, how: Chat | None) -> dict[str, Any]:
    fields = {key: value for key, value in dataclasses.asdict(task).items() if key not in APART}
    return fields | ({'template': how.template, 'tokens': how.tokens} if task.chat and how else {})


def _check(task: TaskConfig, counts: dict[str, int], passed: dict[str, int]) -> None:
    """Raises UserError where there is nothing to train on or to validate with."""
    for split in ('train', 'validation'):
        field = 'validation_source' if split == 'validation' and task.validation_source else 'source'
        where = f'config.task.{field}: {getattr(task, field)}'
        if not counts[split] and passed[split]:
            raise UserError(f'{where}: none of its {passed[split]} rows for {split} has a label, or anything to learn')
        if not counts[split] and sum(counts.values()) + sum(passed.values()) == 0:
            raise UserError(f'{where}: holds no rows')
        if not counts[split]:
            raise UserError(
                f'{where}: holds no rows for {split}; where they are carved from those of train, '
                f'config.task.validation_fraction={task.validation_fraction} says how many'
            )


def _check_apart(task: TaskConfig) -> None:
    if task.source.startswith('files:') and task.validation_source.startswith('files:'):
        train = sources.found('task.source', task.source.removeprefix('files:'))
        other = sources.found('task.validation_source', task.validation_source.removeprefix('files:'))
        shared = set(train).intersection(other)
        if shared:
            raise UserError(f'config.task.validation_source: {min(shared)} is training data too')
