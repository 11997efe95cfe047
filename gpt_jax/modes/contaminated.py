"""Did a model read what it is asked? Questions are looked for in its training text, once: the finding is kept."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from gpt_jax import files
from gpt_jax.data import chat, sources, template
from gpt_jax.data.config import DataConfig, cache_folder
from gpt_jax.data.rows import Row
from gpt_jax.data.task import TaskConfig
from gpt_jax.errors import UserError
from gpt_jax.evaluate import contamination
from gpt_jax.evaluate.contamination import Contamination
from gpt_jax.modes import training_text
from gpt_jax.observe.progress import Progress

Texts = tuple[str, ...]
OFTEN = 1000  # documents between two words of how far the reading has come
FORMAT = 1  # of what is kept


def texts(task: TaskConfig, row: Row) -> Texts:
    """What a row asks about, as its source has it, without the template's words: the columns of the prompt, each by
    itself; of a dialogue, its turns; of words that are tagged, their sentence."""
    if task.messages:
        held = row.columns[template.parse_path(task.messages, 'task.messages').column]
        return tuple(turn['content'] for turn in chat.turns(held, row.place))
    if task.words:
        return (
            ' '.join(template.texts(template.parse_path(task.words, 'task.words'), row.columns, row.place, 'task')),
        )
    columns = [name for field in ('prompt', 'second')
               for name in template.parse(getattr(task, field), f'task.{field}').columns]  # fmt: skip
    return tuple(text for name in columns if isinstance(text := row.columns.get(name), str) and text.strip())


def look(
    questions: Sequence[Texts], read: Sequence[DataConfig], words: int, line: Progress, say: Callable[[str], None], *,
    whole: bool = False,
) -> Contamination | None:  # fmt: skip
    """Of each question, how much of any of its texts stands in what the model has read; None where that is not known,
    or not to be looked at.

    Args:
      read: the texts, of each its train split.
      words: in a row, that are found or not; 0: none are looked for.
      say: is told of a text that is no longer there.
      whole: all splits were read, and a text that is not there is an error.

    Raises:
      UserError: there is no such text.
    """
    if not words or not read or not questions:
        return None
    found = []
    for data in read:
        try:
            found.append(_kept(questions, data, words, line.note, whole))
        except UserError as error:
            if whole:
                raise
            say(f'contamination: not looked for in {data.source}: {error}')
    if not found:
        return None
    share = np.maximum.reduce([one.share for one in found])
    return found[0]._replace(share=share, documents=sum(one.documents for one in found))


def among(questions: Sequence[Texts], others: Sequence[Texts], words: int) -> Contamination | None:
    """The same of other questions, those that were trained on."""
    return _find(questions, ('\n'.join(some) for some in others), words) if words and questions else None


def _kept(
    questions: Sequence[Texts], data: DataConfig, words: int, note: Callable[[str], None], whole: bool
) -> Contamination:
    """Read from the cache; where it is not there yet, one process reads the text and the others wait."""
    key = [FORMAT, words, whole, dataclasses.asdict(data), sources.describe('source', data.source), questions]
    name = hashlib.sha256(json.dumps(key).encode('utf-8', 'surrogatepass')).hexdigest()[:24]
    path = Path(cache_folder(data.cache)) / 'contamination' / f'{name}.json'
    with files.lock(path.with_suffix('.lock'), wait=True):
        if path.exists():
            kept = files.read_json(path)
            return Contamination(np.array(kept['share']), np.array(kept['short'], bool), words, kept['documents'])
        reading = training_text.documents(data, *(() if whole else ('train',)))
        found = _find(questions, _noted(reading, data.source, note), words)
        files.write_json(
            path, {'share': found.share.tolist(), 'short': found.short.tolist(), 'documents': found.documents}
        )
    return found


def _noted(reading: Iterator[str], source: str, note: Callable[[str], None]) -> Iterator[str]:
    for number, document in enumerate(reading):
        if number % OFTEN == 0:
            note(f'looking for the questions in {source}, {number:,} documents')
        yield document


def _find(questions: Sequence[Texts], reading: Iterator[str], words: int) -> Contamination:
    """By question: the most that is found of any of its texts."""
    parts = contamination.find([text for some in questions for text in some], reading, words)
    ends = np.cumsum([len(some) for some in questions])
    share = np.array([part.max(initial=0.0) for part in np.split(parts.share, ends)[:-1]])
    short = np.array([bool(part.all()) for part in np.split(parts.short, ends)[:-1]])
    return parts._replace(share=share, short=short)
