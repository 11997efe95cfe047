"""How does an example become ids, and what is read of the model at which of them? Whatever the task's kind.

GPT-1 (Radford et al. 2018, section 3.3) puts every task into stretches of text between tokens of their own: one before,
one between two texts, one after, where the task's head reads. They are three ids beyond the tokenizer's.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.data.examples import Answer, Choice, Classified, Example, Labelled, Preference
from gpt_jax.data.task import TaskConfig
from gpt_jax.data.tokenizer import Tokenizer
from gpt_jax.errors import UserError

START, DELIMITER, EXTRACT = range(3)  # added to the tokenizer's vocab_size
MARKS = 3
MARKED = ('classify', 'choose')  # kinds whose stretches have these three
SMALLEST = 8  # places that a text cannot do without


def vocab_size(kind: str, tokenizer: Tokenizer) -> int:
    """Of a model of a task of this kind: the tokenizer's, and room for the marks."""
    return tokenizer.vocab_size + (MARKS if kind in MARKED else 0)


class Stretch(NamedTuple):
    """Text that is read on its own: what lies beside it in a row is not seen.

    ids: int32 [T]. learned: bool [T], whether the id is a target. read: int32 [T], the question that is decided at this
    id, from 1 (0: none). slot: the candidate that this stretch speaks for. answers: of question k the right candidate
    is answers[k - 1]. inputs: how many of the ids the model reads: all, or all but the last, which is a target alone.
    """

    ids: np.ndarray
    learned: np.ndarray
    read: np.ndarray
    slot: int
    answers: tuple[int, ...]
    inputs: int


class Encoded(NamedTuple):
    """An example's stretches, which stay in one row. cut: tokens that found no room."""

    stretches: tuple[Stretch, ...]
    cut: int

    @property
    def inputs(self) -> int:
        """Places of a row that it takes."""
        return sum(one.inputs for one in self.stretches)


class Coder(NamedTuple):
    """What turns examples into ids.

    room: places of a row, the context. before: ids that go before every text.
    """

    tokenizer: Tokenizer
    task: TaskConfig
    room: int
    before: tuple[int, ...]

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.asarray(ids, np.int32) for ids in self.tokenizer.encode_batch(list(texts))]

    def mark(self, which: int) -> np.ndarray:
        return np.array([self.tokenizer.vocab_size + which], np.int32)

    @property
    def end(self) -> np.ndarray:
        end = self.tokenizer.end_of_document
        return np.array([] if end is None else [end], np.int32)


def encode(coder: Coder, examples: Sequence[Example]) -> list[Encoded]:
    """The examples in ids, as the task's kind wants them.

    Raises:
      UserError: the tokenizer has no id for a character, or the context has no room for the stretches of an example.
    """
    made = [CODERS[coder.task.kind](coder, one) for one in examples]
    widest = max((len(one.stretches) for one in made), default=1)
    if coder.room // widest < SMALLEST:
        raise UserError(
            f'model.context: {coder.room} places for {widest} texts of one example leave less than {SMALLEST} each; '
            'take a longer context'
        )
    return made


def _fitted(parts: Sequence[np.ndarray], keep: Sequence[bool], room: int, side: str) -> tuple[list[np.ndarray], int]:
    """The parts cut to `room` ids in all: those that need not be kept first, the longest of them most.

    Returns:
      (the parts, how many ids were cut).
    """
    parts = list(parts)
    over = sum(map(len, parts)) - room
    cut = max(0, over)
    for kept in (False, True):
        while over > 0 and any(len(part) for part, keeps in zip(parts, keep, strict=True) if keeps == kept):
            which = max((n for n in range(len(parts)) if keep[n] == kept), key=lambda n: len(parts[n]))
            others = [len(parts[n]) for n in range(len(parts)) if keep[n] == kept and n != which]
            # Down to the second longest, so that two long texts are cut alike.
            gone = min(over, max(1, len(parts[which]) - max(others, default=0)))
            # What is kept at all costs loses its end, for its beginning is what the prompt leads to.
            parts[which] = (
                parts[which][gone:] if side == 'left' and not kept else parts[which][: len(parts[which]) - gone]
            )
            over -= gone
    return parts, cut


def _stretch(
    parts: Sequence[np.ndarray], learned: Sequence[bool], slot: int = 0, answers: tuple[int, ...] = ()
) -> Stretch:
    """Nothing is read in it yet; its last id is a target alone."""
    ids = np.concatenate([np.asarray(part, np.int32) for part in parts])
    marks = np.concatenate([np.full(len(part), mark, bool) for part, mark in zip(parts, learned, strict=True)])
    return Stretch(ids, marks, np.zeros(len(ids), np.int32), slot, answers, inputs=len(ids) - 1)


def _answer(coder: Coder, example: Answer) -> Encoded:
    ids = coder.encode([text for text, _ in example.parts])
    parts: list[np.ndarray] = [np.array(coder.before, np.int32)]
    learned = [False]
    for n, (part, (_, mark)) in enumerate(zip(ids, example.parts, strict=True)):
        last = n == len(ids) - 1
        parts.append(np.concatenate([part, coder.end]) if mark and last else part)
        learned.append(mark)
    parts, cut = _fitted(parts, learned, coder.room + 1, coder.task.cut)
    return Encoded((_stretch(parts, learned),), cut)


def _classified(coder: Coder, example: Classified) -> Encoded:
    texts = coder.encode(example.texts)
    orders = [texts, texts[::-1]] if example.symmetric and len(texts) > 1 else [texts]
    stretches, cut = [], 0
    for order in orders:
        marks = 2 + len(order) - 1
        order, gone = _fitted(order, [False] * len(order), coder.room // len(orders) - marks, coder.task.cut)
        stretches.append(_marked(coder, order, slot=0, answers=(example.label,)))
        cut += gone
    return Encoded(tuple(stretches), cut)


def _marked(coder: Coder, texts: Sequence[np.ndarray], *, slot: int, answers: tuple[int, ...]) -> Stretch:
    between = [part for text in texts for part in (coder.mark(DELIMITER), text)][1:]
    one = _stretch([coder.mark(START), *between, coder.mark(EXTRACT)], [True] * (len(between) + 2), slot, answers)
    one.read[-1] = 1
    return one._replace(inputs=len(one.ids))


def _choice(coder: Coder, example: Choice) -> Encoded:
    context, *choices = coder.encode([example.context, *example.choices])
    stretches, cut = [], 0
    for slot, choice in enumerate(choices):
        room = coder.room // len(choices) - 3
        parts, gone = _fitted([context, choice], [False, True], room, coder.task.cut)
        stretches.append(_marked(coder, parts, slot=slot, answers=(example.label,)))
        cut += gone
    return Encoded(tuple(stretches), cut)


def _labelled(coder: Coder, example: Labelled) -> Encoded:
    """A word's tag is read at its last token, where all of it has been seen."""
    words = [word if n == 0 else f' {word}' for n, word in enumerate(example.words)]
    ids = coder.encode(words)
    ids = [part if len(part) else np.zeros(1, np.int32) for part in ids]
    before, ends = np.array(coder.before, np.int32), np.cumsum([len(part) for part in ids])
    kept = int(np.sum(ends + len(before) <= coder.room))
    one = _stretch([before, *ids[:kept]], [True] * (kept + 1), answers=example.tags[:kept])
    one.read[ends[:kept] + len(before) - 1] = np.arange(1, kept + 1)
    return Encoded((one._replace(inputs=len(one.ids)),), sum(len(part) for part in ids[kept:]))


def _preference(coder: Coder, example: Preference) -> Encoded:
    prompt, *answers = coder.encode([example.prompt, example.chosen, example.rejected])
    before, stretches, cut = np.array(coder.before, np.int32), [], 0
    for slot, answer in enumerate(answers):
        given = [before, prompt, np.concatenate([answer, coder.end])]
        parts, gone = _fitted(given, [False, False, True], coder.room // 2 + 1, coder.task.cut)
        one = _stretch(parts, [False, False, True], slot, answers=(0,))
        stretches.append(one._replace(read=one.learned.astype(np.int32)))
        cut += gone
    return Encoded(tuple(stretches), cut)


CODERS: Mapping[str, Callable[[Coder, Any], Encoded]] = {
    'answer': _answer,
    'classify': _classified,
    'choose': _choice,
    'label': _labelled,
    'prefer': _preference,
}
