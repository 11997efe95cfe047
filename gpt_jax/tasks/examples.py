"""Task examples as text, made from the rows of a source with the task section's templates."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from gpt_jax.core import template
from gpt_jax.core.config import MAX_CHOICES, WRITTEN, TaskConfig
from gpt_jax.core.config_fields import nearest
from gpt_jax.core.errors import UserError
from gpt_jax.tasks.chat_template import ASSISTANT, ChatTemplate, parse_turns, split_dialogue
from gpt_jax.tasks.row_sources import Row

# TFDS marks rows whose label is secret (GLUE's test splits) or missing (SNLI) with -1, or with -1.0
# where labels are scores.
UNKNOWN_LABELS = ('-1', '-1.0')


class CompletionExample(NamedTuple):
    """Text with answers to learn.

    Attributes:
      parts: (text, whether it is an answer) in order; a dialogue has several answers.
      references: all right answers, the learned one first; for a dialogue, its last answer.
      program: the parts before and after the generated answer of a program that tests it, or ().
    """

    parts: tuple[tuple[str, bool], ...]
    references: tuple[str, ...]
    program: tuple[str, ...] = ()


class ClassificationExample(NamedTuple):
    """One or two texts, and the index of the class; `symmetric` if their order does not matter."""

    texts: tuple[str, ...]
    label: int
    symmetric: bool


class MultipleChoiceExample(NamedTuple):
    """A context, several continuations, and the index of the right one."""

    context: str
    choices: tuple[str, ...]
    label: int


class TokenClassificationExample(NamedTuple):
    """Words in order, and the tag index of each."""

    words: tuple[str, ...]
    tags: tuple[int, ...]


class PreferenceExample(NamedTuple):
    """A prompt with the better and the worse answer."""

    prompt: str
    chosen: str
    rejected: str


Example = (
    CompletionExample
    | ClassificationExample
    | MultipleChoiceExample
    | TokenClassificationExample
    | PreferenceExample
)
ClassNames = Mapping[str, tuple[str, ...]]  # as in row_sources.RowSource


def make_example(
    row: Row, task: TaskConfig, class_names: ClassNames, chat_template: ChatTemplate | None
) -> Example | None:
    """Make the example of a row.

    Args:
      row: a row of the task's source.
      task: the checked task section.
      class_names: the source's class names.
      chat_template: the tokenizer's chat template; used if task.chat is set.

    Returns:
      The example, or None for a row without a label, without words to tag, or with equal answers.

    Raises:
      UserError: a column is missing, a label unknown or an answer empty; the message names the
        row's location.
    """
    return EXAMPLE_MAKERS[task.kind](row, task, class_names, chat_template)


def _make_completion(
    row: Row, task: TaskConfig, class_names: ClassNames, chat_template: ChatTemplate | None
) -> CompletionExample | None:
    template_in_use = chat_template if task.chat else None  # None: the plain dialogue format
    if task.messages:
        path = template.parse_path(task.messages, 'task.messages')
        value = template.get_value(path, row.columns, row.location, 'task.messages')
        turns = parse_turns(value, row.location)
        last = next(turn['content'] for turn in reversed(turns) if turn['role'] == ASSISTANT)
        return CompletionExample(split_dialogue(turns, template_in_use, row.location), (last,))
    columns = row.columns
    if task.labels:
        label = _read_label(row, task, class_names, task.labels)
        if label is None:
            return None
        columns = {**columns, 'label': task.labels[label]}
    prompt = _fill_field(row, task, 'prompt')
    answer = _fill_field(row._replace(columns=columns), task, 'answer')
    _check_not_empty(row, 'answer', answer)
    references = [answer]
    if task.references:
        path = template.parse_path(task.references, 'task.references')
        references += template.get_texts(path, row.columns, row.location, 'task.references')
    unique_references: dict[str, str] = {}
    for reference in references:
        unique_references.setdefault(reference.strip(), reference)
    if task.chat:
        turns = [{'role': 'user', 'content': prompt}, {'role': ASSISTANT, 'content': answer}]
        parts = split_dialogue(turns, template_in_use, row.location)
    else:
        parts = ((prompt, False), (answer, True)) if prompt else ((answer, True),)
    return CompletionExample(parts, tuple(unique_references.values()), _split_program(row, task))


def _split_program(row: Row, task: TaskConfig) -> tuple[str, ...]:
    """Fill `task.program` and split it at the generated answer; () without a test."""
    if not task.program:
        return ()
    # A program with an empty part, such as an empty test, tests nothing.
    columns = template.parse_template(task.program, 'task.program').columns
    if any(row.columns.get(column) == '' for column in columns):
        return ()
    gap = '\0'  # never occurs in Python source
    columns_with_gap = {**row.columns, WRITTEN: gap}
    program = _fill_field(row._replace(columns=columns_with_gap), task, 'program')
    return tuple(program.split(gap))


def _make_classification(
    row: Row, task: TaskConfig, class_names: ClassNames, chat_template: ChatTemplate | None
) -> ClassificationExample | None:
    del chat_template
    label = _read_label(row, task, class_names, task.labels)
    if label is None:
        return None
    fields = ('prompt', 'text_pair') if task.text_pair else ('prompt',)
    texts = tuple(_fill_field(row, task, field) for field in fields)
    return ClassificationExample(texts, label, task.symmetric)


def _make_multiple_choice(
    row: Row, task: TaskConfig, class_names: ClassNames, chat_template: ChatTemplate | None
) -> MultipleChoiceExample | None:
    del chat_template
    templates = [template.parse_template(choice, 'task.choices') for choice in task.choices]
    if len(templates) == 1:
        (path,) = templates[0].parts
        assert isinstance(path, template.ColumnPath)  # TaskConfig checks it
        choices = tuple(template.get_texts(path, row.columns, row.location, 'task.choices'))
        if not 1 < len(choices) <= MAX_CHOICES:
            raise UserError(
                f'{row.location}: config.task.choices: must be 2 to {MAX_CHOICES} texts, got '
                f'{len(choices)}'
            )
    else:
        choices = tuple(
            template.fill_template(choice, row.columns, row.location) for choice in templates
        )
    numbers = tuple(str(index) for index in range(len(choices)))
    label = _read_label(row, task, class_names, task.labels or numbers)
    if label is None:
        return None
    if label >= len(choices):
        raise UserError(
            f'{row.location}: config.task.label: must be the index of one of {len(choices)} '
            f'choices, got {label}'
        )
    return MultipleChoiceExample(_fill_field(row, task, 'prompt'), choices, label)


def _make_token_classification(
    row: Row, task: TaskConfig, class_names: ClassNames, chat_template: ChatTemplate | None
) -> TokenClassificationExample | None:
    del chat_template
    field = 'task.tokens_column'
    path = template.parse_path(task.tokens_column, field)
    words = template.get_texts(path, row.columns, row.location, field)
    field = 'task.tags_column'
    path = template.parse_path(task.tags_column, field)
    tags = template.get_value(path, row.columns, row.location, field)
    tags = tags.split() if isinstance(tags, str) else tags
    if not isinstance(tags, list) or len(tags) != len(words):
        count = f'{len(tags)} tags' if isinstance(tags, list) else 'no list'
        raise UserError(
            f'{row.location}: config.task.tags_column: must have a tag for each of {len(words)} '
            f'words, got {count} in {task.tags_column!r}'
        )
    source_names = class_names.get(task.tags_column, ())
    indices = []
    for tag in tags:
        index = find_label_index(tag, task.labels, source_names, row.location, 'task.labels')
        if index is None:
            return None
        indices.append(index)
    return TokenClassificationExample(tuple(words), tuple(indices)) if words else None


def _make_preference(
    row: Row, task: TaskConfig, class_names: ClassNames, chat_template: ChatTemplate | None
) -> PreferenceExample | None:
    del class_names
    prompt, chosen, rejected = (
        _fill_field(row, task, field) for field in ('prompt', 'chosen', 'rejected')
    )
    if chosen == rejected:
        return None
    _check_not_empty(row, 'chosen', chosen)
    _check_not_empty(row, 'rejected', rejected)
    if task.chat:
        question = {'role': 'user', 'content': prompt}
        (prompt, _), (chosen, _) = split_dialogue(
            [question, {'role': ASSISTANT, 'content': chosen}], chat_template, row.location
        )
        _, (rejected, _) = split_dialogue(
            [question, {'role': ASSISTANT, 'content': rejected}], chat_template, row.location
        )
    return PreferenceExample(prompt, chosen, rejected)


EXAMPLE_MAKERS: dict[
    str, Callable[[Row, TaskConfig, ClassNames, ChatTemplate | None], Example | None]
] = {
    'completion': _make_completion,
    'classification': _make_classification,
    'multiple_choice': _make_multiple_choice,
    'token_classification': _make_token_classification,
    'preference': _make_preference,
}


def _fill_field(row: Row, task: TaskConfig, field: str) -> str:
    parsed = template.parse_template(getattr(task, field), f'task.{field}')
    return template.fill_template(parsed, row.columns, row.location)


def _check_not_empty(row: Row, field: str, text: str) -> None:
    if not text.strip():
        raise UserError(
            f'{row.location}: task.{field}: must not be empty; leave the row out, or change '
            f'config.task.{field}'
        )


def _read_label(
    row: Row, task: TaskConfig, class_names: ClassNames, labels: Sequence[str]
) -> int | None:
    """Return the index in `labels` of the label that the row gives; None if it has none."""
    path = template.parse_path(task.label, 'task.label')
    value = template.get_value(path, row.columns, row.location, 'task.label')
    if task.labels:
        source_names = class_names.get(task.label, ())
        return find_label_index(value, labels, source_names, row.location, 'task.labels')
    return find_label_index(value, labels, (), row.location, 'task.choices')


def find_label_index(
    value: Any, labels: Sequence[str], source_names: Sequence[str], where: str, field: str
) -> int | None:
    """Return the index of a label among `labels`; None if the row has none (-1, null or '').

    A string is matched against the labels, or else parsed as an index into them. A number is an
    index into the source's class names if `labels` shares any of these, and stands for the label of
    that name. If the source names no classes and all labels are numbers, a number stands for the
    label nearest in value, so that a score of 3.8 is '4'. Otherwise it is an index into the labels.

    Args:
      value: the row's value.
      labels: the config's names of the classes.
      source_names: the source's names of the classes, by number; () if it has none.
      where: the row's location, for error messages.
      field: the config field of the labels, for error messages.

    Raises:
      UserError: the label is not one of `labels`.
    """
    if value is None or value == '' or (str(value) in UNKNOWN_LABELS and '-1' not in labels):
        return None
    index = None
    if isinstance(value, str):
        index = _index_of_word(value.strip(), labels)
    elif isinstance(value, int | float) and math.isfinite(value):
        index = _index_of_number(value, labels, source_names)
    if index is None:
        hint = nearest(value, labels) if isinstance(value, str) else ''
        known = ', '.join(f'{label!r} ({number})' for number, label in enumerate(labels))
        raise UserError(f'{where}: label must be in config.{field}: {known}; got {value!r}{hint}')
    return index


def _index_of_word(word: str, labels: Sequence[str]) -> int | None:
    if word in labels:
        return labels.index(word)
    return int(word) if word.isascii() and word.isdecimal() and int(word) < len(labels) else None


def _index_of_number(
    value: int | float, labels: Sequence[str], source_names: Sequence[str]
) -> int | None:
    is_whole = value == int(value)
    if any(name in labels for name in source_names):
        if not (is_whole and 0 <= value < len(source_names)):
            return None
        name = source_names[int(value)]
        return labels.index(name) if name in labels else None
    scores = None if source_names else _parse_scores(labels)
    if not scores:
        return int(value) if is_whole and 0 <= value < len(labels) else None
    if min(scores) - 0.5 <= value <= max(scores) + 0.5:
        return min(range(len(scores)), key=lambda index: abs(scores[index] - value))
    return None


def _parse_scores(labels: Sequence[str]) -> list[float] | None:
    try:
        return [float(label) for label in labels]
    except ValueError:
        return None
