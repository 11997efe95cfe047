"""What is one example of a task, and how is it made of a row? Text with what is to be learned of it, before tokens."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from gpt_jax.data import chat, labels, template
from gpt_jax.data.chat import Chat
from gpt_jax.data.rows import Row
from gpt_jax.data.task import MOST_CHOICES, WRITTEN, TaskConfig
from gpt_jax.errors import UserError


class Answer(NamedTuple):
    """Text to be gone on with: `parts` are (text, whether it is learned) in order; of a dialogue every answer is.

    references: all answers that count as right, the learned one first; of a dialogue, its last answer.
    program: what stands before and after the written answer in a program that tests it; () without one.
    """

    parts: tuple[tuple[str, bool], ...]
    references: tuple[str, ...]
    program: tuple[str, ...] = ()


class Classified(NamedTuple):
    """One text, or two, and the number of its class. symmetric: the two may change places (similarity)."""

    texts: tuple[str, ...]
    label: int
    symmetric: bool


class Choice(NamedTuple):
    """A context, several texts that may go on from it, and the number of the right one."""

    context: str
    choices: tuple[str, ...]
    label: int


class Labelled(NamedTuple):
    """Words in order, and the number of each one's tag."""

    words: tuple[str, ...]
    tags: tuple[int, ...]


class Preference(NamedTuple):
    """Two texts that go on from a prompt, the better one first."""

    prompt: str
    chosen: str
    rejected: str


Example = Answer | Classified | Choice | Labelled | Preference
Words = Mapping[str, tuple[str, ...]]  # of the source's own classes, by column


def make(row: Row, task: TaskConfig, words: Words, how: Chat | None) -> Example | None:
    """The example that the task makes of the row; None: there is nothing to learn from it.

    That is a row without a label, without words to be tagged, or whose two answers are the same.

    Args:
      words: of the source's own classes, by column (rows.Rows.words).
      how: the tokenizer's chat template; used where task.chat is set.

    Raises:
      UserError: a column that is not there, a label outside the set, an empty answer; names the row's place.
    """
    return KINDS[task.kind](row, task, words, how)


def _answer(row: Row, task: TaskConfig, words: Words, how: Chat | None) -> Answer | None:
    if task.messages:
        path = template.parse_path(task.messages, 'task.messages')
        turns = chat.turns(template.value(path, row.columns, row.place, 'task.messages'), row.place)
        written = chat.parts(turns, _chosen(task, how), row.place)
        return Answer(written, (next(turn['content'] for turn in reversed(turns) if turn['role'] == chat.LEARNED),))
    columns = row.columns
    if task.labels:
        label = _label(row, task, words)
        if label is None:
            return None
        columns = {**columns, 'label': task.labels[label]}
    prompt, answer = _text(row, task, 'prompt'), _text(row._replace(columns=columns), task, 'answer')
    if not answer.strip():
        raise UserError(f'{row.place}: task.answer is empty; leave the row out, or change config.task.answer')
    references = [answer]
    if task.references:
        path = template.parse_path(task.references, 'task.references')
        references += template.texts(path, row.columns, row.place, 'task.references')
    parts: tuple[tuple[str, bool], ...] = ((prompt, False), (answer, True)) if prompt else ((answer, True),)
    if task.chat:
        turns = [{'role': 'user', 'content': prompt}, {'role': chat.LEARNED, 'content': answer}]
        parts = chat.parts(turns, _chosen(task, how), row.place)
    kept: dict[str, str] = {}
    for text in references:
        kept.setdefault(text.strip(), text)
    return Answer(parts, tuple(kept.values()), _program(row, task))


def _program(row: Row, task: TaskConfig) -> tuple[str, ...]:
    columns = template.parse(task.program, 'task.program').columns if task.program else ()
    # A program of which a part is missing, such as its test, tests nothing.
    if not task.program or any(row.columns.get(column) == '' for column in columns):
        return ()
    gap = '\0'  # that no source of Python holds
    around = _text(row._replace(columns={**row.columns, WRITTEN: gap}), task, 'program')
    return tuple(around.split(gap))


def _classify(row: Row, task: TaskConfig, words: Words, how: Chat | None) -> Classified | None:
    del how
    label = _label(row, task, words)
    if label is None:
        return None
    fields = ('prompt', 'second') if task.second else ('prompt',)
    return Classified(tuple(_text(row, task, field) for field in fields), label, task.symmetric)


def _choose(row: Row, task: TaskConfig, words: Words, how: Chat | None) -> Choice | None:
    del how
    if len(task.choices) == 1:
        (path,) = template.parse(task.choices[0], 'task.choices').parts
        assert isinstance(path, template.Path)  # TaskConfig's checks
        choices = tuple(template.texts(path, row.columns, row.place, 'task.choices'))
        if not 1 < len(choices) <= MOST_CHOICES:
            raise UserError(f'{row.place}: config.task.choices: {len(choices)} of them; wants 2 to {MOST_CHOICES}')
    else:
        parsed = [template.parse(choice, 'task.choices') for choice in task.choices]
        choices = tuple(template.fill(one, row.columns, row.place) for one in parsed)
    label = _label(row, task, words, task.labels or tuple(str(number) for number in range(len(choices))))
    if label is None:
        return None
    if label >= len(choices):
        raise UserError(f'{row.place}: config.task.label says that choice {label} is right, from 0 on; there are '
                        f'{len(choices)}')  # fmt: skip
    return Choice(_text(row, task, 'prompt'), choices, label)


def _labelled(row: Row, task: TaskConfig, words: Words, how: Chat | None) -> Labelled | None:
    del how
    texts = template.texts(template.parse_path(task.words, 'task.words'), row.columns, row.place, 'task.words')
    tags = template.value(template.parse_path(task.tags, 'task.tags'), row.columns, row.place, 'task.tags')
    tags = tags.split() if isinstance(tags, str) else tags
    if not isinstance(tags, list) or len(tags) != len(texts):
        count = f'{len(tags)} tags' if isinstance(tags, list) else 'no list'
        raise UserError(f'{row.place}: config.task.tags: {task.tags!r} holds {count} for {len(texts)} words')
    numbers = []
    for tag in tags:
        number = labels.number(tag, task.labels, words.get(task.tags, ()), row.place, 'task.labels')
        if number is None:
            return None
        numbers.append(number)
    return Labelled(tuple(texts), tuple(numbers)) if texts else None


def _prefer(row: Row, task: TaskConfig, words: Words, how: Chat | None) -> Preference | None:
    del words
    prompt, chosen, rejected = (_text(row, task, field) for field in ('prompt', 'chosen', 'rejected'))
    if chosen == rejected:
        return None
    for field, text in (('chosen', chosen), ('rejected', rejected)):
        if not text.strip():
            raise UserError(f'{row.place}: task.{field} is empty; leave the row out, or change config.task.{field}')
    if task.chat:
        wanted = _chosen(task, how)
        begun = [{'role': 'user', 'content': prompt}]
        both = [chat.parts([*begun, {'role': chat.LEARNED, 'content': text}], wanted, row.place)
                for text in (chosen, rejected)]  # fmt: skip
        ((prompt, _), (chosen, _)), (_, (rejected, _)) = both
    return Preference(prompt, chosen, rejected)


def _text(row: Row, task: TaskConfig, field: str) -> str:
    return template.fill(template.parse(getattr(task, field), f'task.{field}'), row.columns, row.place)


def _label(row: Row, task: TaskConfig, words: Words, of: tuple[str, ...] = ()) -> int | None:
    path = template.parse_path(task.label, 'task.label')
    value = template.value(path, row.columns, row.place, 'task.label')
    source = words.get(task.label, ()) if task.labels else ()
    return labels.number(value, of or task.labels, source, row.place, 'task.labels' if task.labels else 'task.choices')


def _chosen(task: TaskConfig, how: Chat | None) -> Chat | None:
    """The chat template to use; None is the plain format of dialogues."""
    return how if task.chat else None


KINDS: dict[str, Callable[[Row, TaskConfig, Words, Chat | None], Example | None]] = {
    'answer': _answer,
    'classify': _classify,
    'choose': _choose,
    'label': _labelled,
    'prefer': _prefer,
}
