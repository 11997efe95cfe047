"""Encoding of task examples as token ids and their packing into the rows of a batch.

GPT-1 (Radford et al. 2018, section 3.3) turns every task into segments of text with special tokens:
one before the text, one between two texts, and one at the end, whose features the task's head
takes. These three have ids above the tokenizer's own. A token attends only to its own segment, so
several examples share a row without seeing each other.
"""

import bisect
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.core.config import TaskConfig
from gpt_jax.core.errors import UserError
from gpt_jax.data.loader import Batch
from gpt_jax.data.tokenizer import Tokenizer
from gpt_jax.tasks.examples import (
    ClassificationExample,
    CompletionExample,
    Example,
    MultipleChoiceExample,
    PreferenceExample,
    TokenClassificationExample,
)

START, DELIMITER, EXTRACT = range(3)  # offsets from the tokenizer's vocab_size
NUM_MARKS = 3
KINDS_WITH_MARKS = ('classification', 'multiple_choice')  # task kinds that use the three marks
MIN_SEGMENT_TOKENS = 8  # below this, a segment has no room for a meaningful text


def task_vocab_size(kind: str, tokenizer: Tokenizer) -> int:
    """Return the vocabulary size of a model for a task kind: the tokenizer's, plus the marks."""
    return tokenizer.vocab_size + (NUM_MARKS if kind in KINDS_WITH_MARKS else 0)


class Segment(NamedTuple):
    """Tokens that attend only to each other.

    Attributes:
      ids: int32 [T].
      is_target: bool [T], whether the token counts in the language-modeling loss.
      loss_positions: int32 [T], the question decided at each token, numbered from 1; 0 for none.
      candidate: index of the candidate answer that this segment scores.
      labels: index of the right candidate of each question; question k has labels[k - 1].
      num_inputs: how many of the ids are inputs: T, or T - 1 if the last is only a target.
    """

    ids: np.ndarray
    is_target: np.ndarray
    loss_positions: np.ndarray
    candidate: int
    labels: tuple[int, ...]
    num_inputs: int


class EncodedExample(NamedTuple):
    """The segments of one example, which share a row, and the number of tokens cut to fit."""

    segments: tuple[Segment, ...]
    num_truncated: int

    @property
    def num_inputs(self) -> int:
        """The number of positions that the example takes up in a row."""
        return sum(segment.num_inputs for segment in self.segments)


class ExampleEncoder(NamedTuple):
    """Encoder of the examples of one task.

    Attributes:
      tokenizer: the tokenizer of the texts.
      task: the checked task section.
      context: number of positions in a row.
      prefix_ids: ids in front of every text, such as a beginning-of-sequence token.
    """

    tokenizer: Tokenizer
    task: TaskConfig
    context: int
    prefix_ids: tuple[int, ...]

    def tokenize(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of each text, int32."""
        return [np.asarray(ids, np.int32) for ids in self.tokenizer.encode_batch(list(texts))]

    def mark(self, offset: int) -> np.ndarray:
        """Return the id of START, DELIMITER or EXTRACT, int32 [1]."""
        return np.array([self.tokenizer.vocab_size + offset], np.int32)

    @property
    def prefix(self) -> np.ndarray:
        """The prefix ids, int32 [P]."""
        return np.array(self.prefix_ids, np.int32)

    @property
    def end(self) -> np.ndarray:
        """The end-of-document id, int32 [1]; empty for a tokenizer without one."""
        end = self.tokenizer.end_of_document
        return np.array([] if end is None else [end], np.int32)


def encode_examples(encoder: ExampleEncoder, examples: Sequence[Example]) -> list[EncodedExample]:
    """Encode examples as their task kind requires.

    Raises:
      UserError: a character has no id, or the context is too short for an example's segments.
    """
    encode = ENCODERS[encoder.task.kind]
    encoded = [encode(encoder, example) for example in examples]
    num_segments = max((len(example.segments) for example in encoded), default=1)
    if encoder.context // num_segments < MIN_SEGMENT_TOKENS:
        raise UserError(
            f'model.context: must be at least {MIN_SEGMENT_TOKENS * num_segments} for examples of '
            f'{num_segments} texts, got {encoder.context}'
        )
    return encoded


def _truncate(
    parts: Sequence[np.ndarray], required: Sequence[bool], max_length: int, side: str
) -> tuple[list[np.ndarray], int]:
    """Cut parts to `max_length` ids in total, optional parts first and the longest of them first.

    Returns:
      (the parts, the number of ids cut).
    """
    parts = list(parts)
    excess = sum(map(len, parts)) - max_length
    num_truncated = max(0, excess)
    for is_required in (False, True):
        group = [index for index, value in enumerate(required) if value == is_required]
        while excess > 0 and any(len(parts[index]) for index in group):
            longest = max(group, key=lambda index: len(parts[index]))
            second = max((len(parts[index]) for index in group if index != longest), default=0)
            # Down to the length of the second longest, so that two long texts end up equally long.
            count = min(excess, max(1, len(parts[longest]) - second))
            # A required part loses its end, because its beginning continues the prompt.
            if side == 'left' and not is_required:
                parts[longest] = parts[longest][count:]
            else:
                parts[longest] = parts[longest][:-count]
            excess -= count
    return parts, num_truncated


def _make_segment(
    parts: Sequence[np.ndarray],
    are_targets: Sequence[bool],
    candidate: int = 0,
    labels: tuple[int, ...] = (),
) -> Segment:
    """Join parts into a segment that decides no question yet and whose last id is only a target."""
    ids = np.concatenate([np.asarray(part, np.int32) for part in parts])
    is_target = np.repeat(are_targets, [len(part) for part in parts])
    loss_positions = np.zeros(len(ids), np.int32)
    return Segment(ids, is_target, loss_positions, candidate, labels, num_inputs=len(ids) - 1)


def _encode_completion(encoder: ExampleEncoder, example: CompletionExample) -> EncodedExample:
    parts, are_targets = [encoder.prefix], [False]
    ids = encoder.tokenize([text for text, _ in example.parts])
    for index, (part, (_, is_target)) in enumerate(zip(ids, example.parts, strict=True)):
        is_last = index == len(ids) - 1
        parts.append(np.concatenate([part, encoder.end]) if is_target and is_last else part)
        are_targets.append(is_target)
    side = encoder.task.truncation_side
    parts, num_truncated = _truncate(parts, are_targets, encoder.context + 1, side)
    return EncodedExample((_make_segment(parts, are_targets),), num_truncated)


def _encode_classification(
    encoder: ExampleEncoder, example: ClassificationExample
) -> EncodedExample:
    texts = encoder.tokenize(example.texts)
    orders = [texts, texts[::-1]] if example.symmetric and len(texts) > 1 else [texts]
    max_length = encoder.context // len(orders) - (2 + len(texts) - 1)  # without the marks
    segments, num_truncated = [], 0
    for order in orders:
        required = [False] * len(order)
        parts, count = _truncate(order, required, max_length, encoder.task.truncation_side)
        segments.append(_make_marked_segment(encoder, parts, candidate=0, label=example.label))
        num_truncated += count
    return EncodedExample(tuple(segments), num_truncated)


def _make_marked_segment(
    encoder: ExampleEncoder, texts: Sequence[np.ndarray], *, candidate: int, label: int
) -> Segment:
    """Put START, DELIMITER and EXTRACT around texts; the question is decided at EXTRACT."""
    delimited = [part for text in texts for part in (encoder.mark(DELIMITER), text)][1:]
    parts = [encoder.mark(START), *delimited, encoder.mark(EXTRACT)]
    segment = _make_segment(parts, [True] * len(parts), candidate, (label,))
    segment.loss_positions[-1] = 1
    return segment._replace(num_inputs=len(segment.ids))


def _encode_multiple_choice(
    encoder: ExampleEncoder, example: MultipleChoiceExample
) -> EncodedExample:
    context, *choices = encoder.tokenize([example.context, *example.choices])
    max_length = encoder.context // len(choices) - NUM_MARKS
    side = encoder.task.truncation_side
    segments, num_truncated = [], 0
    for index, choice in enumerate(choices):
        parts, count = _truncate([context, choice], [False, True], max_length, side)
        segments.append(_make_marked_segment(encoder, parts, candidate=index, label=example.label))
        num_truncated += count
    return EncodedExample(tuple(segments), num_truncated)


def _encode_token_classification(
    encoder: ExampleEncoder, example: TokenClassificationExample
) -> EncodedExample:
    """Encode tagged words; a tag is decided at the last token of its word."""
    words = [word if index == 0 else f' {word}' for index, word in enumerate(example.words)]
    ids = [part if len(part) else np.zeros(1, np.int32) for part in encoder.tokenize(words)]
    ends = len(encoder.prefix_ids) + np.cumsum([len(part) for part in ids])
    count = int(np.sum(ends <= encoder.context))
    parts = [encoder.prefix, *ids[:count]]
    segment = _make_segment(parts, [True] * (count + 1), labels=example.tags[:count])
    segment.loss_positions[ends[:count] - 1] = np.arange(1, count + 1)
    segment = segment._replace(num_inputs=len(segment.ids))
    return EncodedExample((segment,), sum(len(part) for part in ids[count:]))


def _encode_preference(encoder: ExampleEncoder, example: PreferenceExample) -> EncodedExample:
    prompt, *answers = encoder.tokenize([example.prompt, example.chosen, example.rejected])
    max_length = encoder.context // 2 + 1
    are_targets = [False, False, True]
    segments, num_truncated = [], 0
    for index, answer in enumerate(answers):
        parts = [encoder.prefix, prompt, np.concatenate([answer, encoder.end])]
        parts, count = _truncate(parts, are_targets, max_length, encoder.task.truncation_side)
        segment = _make_segment(parts, are_targets, candidate=index, labels=(0,))
        segments.append(segment._replace(loss_positions=segment.is_target.astype(np.int32)))
        num_truncated += count
    return EncodedExample(tuple(segments), num_truncated)


# By task.kind.
ENCODERS: Mapping[str, Callable[[ExampleEncoder, Any], EncodedExample]] = {
    'completion': _encode_completion,
    'classification': _encode_classification,
    'multiple_choice': _encode_multiple_choice,
    'token_classification': _encode_token_classification,
    'preference': _encode_preference,
}

TEXT_FIELDS = ('inputs', 'targets', 'segments', 'positions', 'weights')
# [B, L] each: the question that is decided at a position (numbered from 1 within the row), the
# candidate that it scores, and the index of the right candidate.
QUESTION_FIELDS = ('question_ids', 'candidates', 'labels')
# Fields of a batch by task.kind.
BATCH_FIELDS = {
    'completion': TEXT_FIELDS,
    'classification': TEXT_FIELDS + QUESTION_FIELDS,
    'multiple_choice': TEXT_FIELDS + QUESTION_FIELDS,
    'token_classification': TEXT_FIELDS + QUESTION_FIELDS,
    'preference': (*TEXT_FIELDS, *QUESTION_FIELDS, 'reference_log_probs'),
}
# Fields that are not int32.
FIELD_DTYPES = {'weights': np.float32, 'reference_log_probs': np.float32}


@dataclasses.dataclass(frozen=True)
class PackedExamples:
    """Encoded examples and their assignment to rows.

    Attributes:
      examples: the examples in the order of the split.
      rows: indices of the examples in each row.
      context: number of positions in a row.
      kind: task.kind.
      text_weight: weight of each target in the language-modeling loss.
      reference_log_probs: for 'preference', log p of each target of each example's segments under
        the model at the start of training; otherwise None.
    """

    examples: Sequence[EncodedExample]
    rows: Sequence[Sequence[int]]
    context: int
    kind: str
    text_weight: float
    reference_log_probs: Sequence[Sequence[np.ndarray]] | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    @property
    def num_questions(self) -> int:
        return sum(len(example.segments[0].labels) for example in self.examples)

    @property
    def num_targets(self) -> int:
        """The number of targets of the language-modeling loss."""
        segments = [segment for example in self.examples for segment in example.segments]
        return sum(int(segment.is_target[1:].sum()) for segment in segments)

    @property
    def num_truncated(self) -> int:
        """The number of truncated examples."""
        return sum(example.num_truncated > 0 for example in self.examples)

    def make_batch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """Return the rows with these indices; an index past the end gives an empty row.

        Returns:
          The fields of BATCH_FIELDS, [len(indices), context] each.
        """
        shape = (len(indices), self.context)
        fields = BATCH_FIELDS[self.kind]
        batch = {name: np.zeros(shape, FIELD_DTYPES.get(name, np.int32)) for name in fields}
        for row, index in enumerate(indices):
            if index < len(self.rows):
                self._fill_row({name: array[row] for name, array in batch.items()}, index)
        return batch

    def _fill_row(self, row: Batch, index: int) -> None:
        start, segment_id, question_offset = 0, 0, 0
        for example_index in self.rows[index]:
            example = self.examples[example_index]
            for which, segment in enumerate(example.segments):
                segment_id += 1
                span = slice(start, start + segment.num_inputs)
                _write_text_fields(row, span, segment, segment_id, self.text_weight, self.kind)
                if 'question_ids' in row:
                    _write_question_fields(row, span, segment, question_offset, self.kind)
                if self.reference_log_probs is not None:
                    log_probs = self.reference_log_probs[example_index][which]
                    row['reference_log_probs'][span] = log_probs
                start = span.stop
            question_offset += len(example.segments[0].labels)


def _write_text_fields(
    row: Batch, span: slice, segment: Segment, segment_id: int, text_weight: float, kind: str
) -> None:
    targets = segment.ids[1 : segment.num_inputs + 1]
    row['inputs'][span] = segment.ids[: segment.num_inputs]
    row['targets'][span][: len(targets)] = targets
    row['segments'][span] = segment_id
    row['positions'][span] = np.arange(segment.num_inputs)
    # The language-modeling loss does not train on rejected answers.
    if kind != 'preference' or segment.candidate == 0:
        is_target = segment.is_target[1 : segment.num_inputs + 1]
        row['weights'][span][: len(targets)] = is_target * text_weight


def _write_question_fields(
    row: Batch, span: slice, segment: Segment, question_offset: int, kind: str
) -> None:
    # A preference is scored where its targets are predicted, one position before they are inputs.
    shift = 1 if kind == 'preference' else 0
    question_ids = segment.loss_positions[shift : segment.num_inputs + shift]
    decided = question_ids > 0
    size, labels = len(question_ids), np.array([0, *segment.labels], np.int32)
    row['question_ids'][span][:size] = np.where(decided, question_ids + question_offset, 0)
    row['candidates'][span][:size] = np.where(decided, segment.candidate, 0)
    row['labels'][span][:size] = np.where(decided, labels[question_ids], 0)


def pack_best_fit(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Assign sizes to rows of `capacity` positions by best fit, in decreasing order of size.

    Returns:
      The indices of the sizes in each row, the longest first.
    """
    free: list[tuple[int, int]] = []  # (free positions, row), sorted
    rows: list[list[int]] = []
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        tightest = bisect.bisect_left(free, (sizes[index], -1))
        if tightest == len(free):
            rows.append([index])
            remaining, row = capacity, len(rows) - 1
        else:
            remaining, row = free.pop(tightest)
            rows[row].append(index)
        bisect.insort(free, (remaining - sizes[index], row))
    return rows


def pack_examples(
    examples: Sequence[EncodedExample], task: TaskConfig, context: int
) -> PackedExamples:
    """Pack examples into few rows; which of them share a row depends only on the examples.

    The language-modeling loss is weighted by the mean number of its targets per question, so that
    `task.lm_loss_weight` is the lambda of GPT-1 (section 3.2), where both losses are means.
    """
    rows = pack_best_fit([example.num_inputs for example in examples], context)
    packed = PackedExamples(examples, rows, context, task.kind, 1.0)
    if task.kind == 'completion':
        return packed
    text_weight = task.lm_loss_weight * packed.num_questions / max(1, packed.num_targets)
    return dataclasses.replace(packed, text_weight=text_weight)
