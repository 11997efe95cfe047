"""Datasets of task examples: splits read from a source, then encoded and packed into rows."""

import dataclasses
import functools
import hashlib
import heapq
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax.core import template
from gpt_jax.core.config import TEMPLATE_FIELDS, TaskConfig, cache_folder
from gpt_jax.core.errors import UserError
from gpt_jax.core.progress import LogFn
from gpt_jax.data import sources, tokenizer
from gpt_jax.data.tokenizer import Tokenizer
from gpt_jax.tasks import encoding, examples, row_sources
from gpt_jax.tasks.chat_template import ChatTemplate
from gpt_jax.tasks.encoding import ExampleEncoder, PackedExamples
from gpt_jax.tasks.examples import ClassNames, Example
from gpt_jax.tasks.row_sources import SPLITS, Row, RowReader

# Fields left out of the fingerprint: those that do not change the examples (scoring, loss weights,
# truncation), and those that select the rows, because the rows themselves are fingerprinted.
NON_FINGERPRINT_FIELDS = (
    'metrics',
    'program',
    'eval_generations',
    'lm_loss_weight',
    'beta',
    'truncation_side',
    'source',
    'validation_source',
    'validation_fraction',
)
Rank = tuple[bytes, int]  # hash and index of a training row; max_examples takes the lowest


class TaskExamples(NamedTuple):
    """The examples of a task as text, read anew at every call.

    Attributes:
      counts: number of examples per split: 'train' and 'validation' have at least one, 'test' is
        left out if it has none.
      fingerprint: SHA-256, 64 hex digits, of the rows and of how they become examples.
      pairs: iterates over a split's rows, each with its example, in order. Rows may have columns
        that only scoring needs (a test, an id).
    """

    counts: dict[str, int]
    fingerprint: str
    pairs: Callable[[str], Iterator[tuple[Row, Example]]]

    def examples(self, split: str) -> Iterator[Example]:
        """Iterate over a split's examples, in order."""
        return (example for _, example in self.pairs(split))


class _RowSplit(NamedTuple):
    read: RowReader
    class_names: ClassNames


def load_examples(
    task: TaskConfig, cache: str, chat_template: ChatTemplate | None, log: LogFn = print
) -> TaskExamples:
    """Read all rows of a task once to count, check and fingerprint its examples.

    Args:
      task: the task section; its kind is not 'none'.
      cache: config.data.cache.
      chat_template: the tokenizer's chat template; None if it has none.
      log: receives one line per split with skipped rows.

    Raises:
      UserError: a source is unknown, a file is malformed, a row does not fit the task, or there are
        no rows to train or validate on.
    """
    if task.chat and chat_template is None:
        raise UserError(
            'config.task.chat: must be False for a tokenizer without a chat template; or add '
            'chat_template.jinja to its files'
        )
    splits = _open_splits(task, Path(cache_folder(cache)))
    counts, max_rank, fingerprint = _scan_rows(task, chat_template, splits, log)

    def pairs(split: str) -> Iterator[tuple[Row, Example]]:
        limit = max_rank if split == 'train' else None
        index = 0
        for row in splits[split].read():
            example = examples.make_example(row, task, splits[split].class_names, chat_template)
            if example is None:
                continue
            if limit is None or _rank(task, row, index) <= limit:
                yield row, example
            index += 1

    return TaskExamples(counts, fingerprint, pairs)


def _open_splits(task: TaskConfig, cache: Path) -> dict[str, _RowSplit]:
    """Open the splits of `task.source`; validation may have its own source, or use train rows."""
    source = row_sources.open_row_source('task.source', task.source, cache)
    if 'train' not in source.splits:
        names = ', '.join(source.splits) or 'no known split'
        raise UserError(
            f'config.task.source: must have a train split, got {task.source} with {names}'
        )
    splits = {name: _RowSplit(read, source.class_names) for name, read in source.splits.items()}
    if task.validation_source:
        _check_disjoint(task)
        field = 'task.validation_source'
        other = row_sources.open_row_source(field, task.validation_source, cache)
        name = next(name for name in ('validation', 'test', 'train') if name in other.splits)
        splits['validation'] = _RowSplit(other.splits[name], other.class_names)
    elif 'validation' not in splits:
        read_all = source.splits['train']
        for name in ('train', 'validation'):
            read = functools.partial(_read_carved, task, read_all, name)
            splits[name] = _RowSplit(read, source.class_names)
    return {name: splits[name] for name in SPLITS if name in splits}


def _read_carved(task: TaskConfig, read_all: RowReader, split: str) -> Iterator[Row]:
    """Read the rows that a hash assigns to a split, so that copies of a row are in one split.

    A row goes to validation with probability `task.validation_fraction`.
    """
    threshold = task.validation_fraction * 2**64
    for row in read_all():
        is_validation = int.from_bytes(_hash_row(task, row, b'')) < threshold
        if is_validation == (split == 'validation'):
            yield row


def _rank(task: TaskConfig, row: Row, index: int) -> Rank:
    return _hash_row(task, row, b'limit'), index


def _hash_row(task: TaskConfig, row: Row, purpose: bytes) -> bytes:
    """Hash the columns that become the texts of an example, without ids and labels."""
    columns = {name: row.columns[name] for name in _text_columns(task) if name in row.columns}
    content = _row_bytes(row, columns or dict(row.columns))
    return hashlib.blake2b(content, digest_size=8, person=purpose).digest()


@functools.cache
def _text_columns(task: TaskConfig) -> tuple[str, ...]:
    """Return the columns that the task's templates and lists of texts name."""
    templates = [(field, getattr(task, field)) for field in TEMPLATE_FIELDS]
    templates += [('choices', choice) for choice in task.choices]
    columns: list[str] = []
    for field, text in templates:
        columns += template.parse_template(text, f'task.{field}').columns
    for field in ('tokens_column', 'messages'):
        if path := getattr(task, field):
            columns.append(template.parse_path(path, f'task.{field}').column)
    # With task.labels, {label} is the label's word rather than a column of text.
    ignored = ('label',) if task.labels else ()
    return tuple(column for column in dict.fromkeys(columns) if column not in ignored)


def _row_bytes(row: Row, columns: dict[str, Any]) -> bytes:
    try:
        return json.dumps(columns, ensure_ascii=False, sort_keys=True).encode('utf-8')
    except UnicodeEncodeError:
        raise UserError(f'{row.location}: must be valid Unicode, got a lone surrogate') from None


def _scan_rows(
    task: TaskConfig, chat_template: ChatTemplate | None, splits: dict[str, _RowSplit], log: LogFn
) -> tuple[dict[str, int], Rank | None, str]:
    """Read every row once, to check, count and fingerprint the examples.

    Returns:
      The number of examples per split, the highest rank of a training example that
      `task.max_examples` admits (None: all are used), and the fingerprint.
    """
    fields = _fingerprint_fields(task, chat_template)
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode('utf-8'))
    counts, skipped, ranks = dict.fromkeys(splits, 0), dict.fromkeys(splits, 0), list[Rank]()
    for split, (read, class_names) in splits.items():
        digest.update(f'\0{split}\0{json.dumps(class_names, sort_keys=True)}'.encode())
        for row in read():
            digest.update(_row_bytes(row, dict(row.columns)))
            if examples.make_example(row, task, class_names, chat_template) is None:
                skipped[split] += 1
                continue
            if split == 'train' and task.max_examples:
                ranks.append(_rank(task, row, counts[split]))
                if len(ranks) > 2 * task.max_examples:
                    ranks = heapq.nsmallest(task.max_examples, ranks)
            counts[split] += 1
        if skipped[split]:
            log(
                f'task: skipped {skipped[split]} of {skipped[split] + counts[split]} rows of '
                f'{split}: no label, no words, or two equal answers'
            )
    _check_counts(task, counts, skipped)
    max_rank = None
    if 0 < task.max_examples < counts['train']:
        max_rank = heapq.nsmallest(task.max_examples, ranks)[-1]
        counts['train'] = task.max_examples
    return {split: count for split, count in counts.items() if count}, max_rank, digest.hexdigest()


def _fingerprint_fields(task: TaskConfig, chat_template: ChatTemplate | None) -> dict[str, Any]:
    values = dataclasses.asdict(task)
    fields = {name: value for name, value in values.items() if name not in NON_FINGERPRINT_FIELDS}
    if task.chat and chat_template:
        fields |= {'template': chat_template.template, 'tokens': chat_template.tokens}
    return fields


def _check_counts(task: TaskConfig, counts: dict[str, int], skipped: dict[str, int]) -> None:
    """Raise UserError if there are no examples to train or to validate on."""
    for split in ('train', 'validation'):
        if counts[split]:
            continue
        has_own_source = split == 'validation' and task.validation_source
        field = 'validation_source' if has_own_source else 'source'
        where = f'config.task.{field}: {getattr(task, field)}'
        if skipped[split]:
            raise UserError(
                f'{where}: all {skipped[split]} rows of {split} lack a label or a text to learn'
            )
        if sum(counts.values()) + sum(skipped.values()) == 0:
            raise UserError(f'{where}: has no rows')
        raise UserError(
            f'{where}: has no rows for {split}; config.task.validation_fraction='
            f'{task.validation_fraction} is the share of train rows used for validation'
        )


def _check_disjoint(task: TaskConfig) -> None:
    """Raise UserError if a file is both training and validation data."""
    if task.source.startswith('files:') and task.validation_source.startswith('files:'):
        train, validation = (
            sources.match_files(f'task.{field}', getattr(task, field).removeprefix('files:'))
            for field in ('source', 'validation_source')
        )
        if shared := sources.find_shared_file(train, validation):
            raise UserError(
                f'config.task.validation_source: must not share files with task.source, got '
                f'{shared} in both'
            )


@dataclasses.dataclass(frozen=True)
class TaskDataset:
    """A task's examples, encoded and packed into rows.

    Attributes:
      splits: rows of 'train', 'validation' and, if the source has one, 'test'.
      examples: the examples of each split as text, in the order of the encoded ones.
      tokenizer: the tokenizer of the ids.
      vocab_size: number of ids, those of the marks around texts included.
      fingerprint: 64 hex digits, from the examples, the tokenizer and everything that affects the
        encoding.
      question_texts: for each example of a split, the texts that it asks about as they are in the
        source, without the template's words; for contamination checks.
    """

    splits: Mapping[str, PackedExamples]
    examples: Mapping[str, Sequence[Example]]
    tokenizer: Tokenizer
    vocab_size: int
    fingerprint: str
    question_texts: Mapping[str, Sequence[tuple[str, ...]]] = dataclasses.field(
        default_factory=dict
    )

    @property
    def train(self) -> PackedExamples:
        return self.splits['train']

    @property
    def validation(self) -> PackedExamples:
        return self.splits['validation']

    def count_truncated(self) -> dict[str, int]:
        """Return how many examples of each split were truncated."""
        return {split: packed.num_truncated for split, packed in self.splits.items()}


def make_task_dataset(
    task: TaskConfig,
    examples: Mapping[str, Sequence[Example]],
    base_tokenizer: Tokenizer,
    context: int,
    log: LogFn,
) -> TaskDataset:
    """Encode and pack the examples of each split.

    Raises:
      UserError: there are no training or validation examples, a character has no id, or the
        context is too short.
    """
    for split in ('train', 'validation'):
        if not examples[split]:
            raise UserError(
                f'task.source: must have examples for {split}, got none in {task.source}'
            )
    text_tokenizer, prefix_ids = base_tokenizer, tokenizer.find_prefix_ids(base_tokenizer)
    if task.chat:  # the template spells out all special tokens, the prefix included
        text_tokenizer, prefix_ids = tokenizer.encode_special_tokens(base_tokenizer), ()
    encoder = ExampleEncoder(text_tokenizer, task, context, prefix_ids)
    splits = {}
    for split in SPLITS:
        if split in examples:
            encoded = encoding.encode_examples(encoder, examples[split])
            splits[split] = encoding.pack_examples(encoded, task, context)
    # All splits use the language-modeling weight of the training examples.
    weight = splits['train'].text_weight
    splits = {
        split: dataclasses.replace(packed, text_weight=weight) for split, packed in splits.items()
    }
    dataset = TaskDataset(
        splits,
        examples,
        base_tokenizer,
        vocab_size=encoding.task_vocab_size(task.kind, base_tokenizer),
        fingerprint=_fingerprint_dataset(encoder, examples),
    )
    for split, count in dataset.count_truncated().items():
        if count:
            log(
                f'data: truncated {count:,} of {len(examples[split]):,} {split} examples to '
                f'{context} tokens: prompts on the {task.truncation_side}, answers at the end'
            )
    return dataset


def _fingerprint_dataset(encoder: ExampleEncoder, examples: Mapping[str, Sequence[Example]]) -> str:
    # The order of batches depends on the fingerprint: changing a key here changes every run.
    task = encoder.task
    fields = {
        'kind': task.kind,
        'cut': task.truncation_side,
        'auxiliary': task.lm_loss_weight,
        'choices': len(task.choices),
    }
    header = [fields, encoder.tokenizer.fingerprint, encoder.context, encoder.prefix_ids]
    digest = hashlib.sha256(json.dumps(header).encode())
    for split in SPLITS:
        for example in examples.get(split, ()):
            digest.update(json.dumps([split, example]).encode())
    return digest.hexdigest()


def collect_texts(examples: Sequence[Example]) -> list[str]:
    """Return the text of each example, for training a tokenizer."""
    return ['\n'.join(_iterate_strings(example)) for example in examples]


def _iterate_strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from _iterate_strings(part)
