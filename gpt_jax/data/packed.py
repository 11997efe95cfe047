"""How do examples become rows of a batch? Several in a row where they fit, none of which sees another."""

import bisect
import dataclasses
from collections.abc import Sequence

import numpy as np

from gpt_jax.data.encoded import Encoded, Stretch
from gpt_jax.data.packing import Batch
from gpt_jax.data.task import TaskConfig

TEXT = ('inputs', 'targets', 'segments', 'positions', 'weights')
# What a task's kind has besides, [B, L] each: where in a row a question is decided (its number in the row, from 1), for
# which candidate, and which one is right.
QUESTIONS = ('questions', 'slots', 'answers')
FIELDS = {
    'answer': TEXT, 'classify': TEXT + QUESTIONS, 'choose': TEXT + QUESTIONS, 'label': TEXT + QUESTIONS,
    'prefer': (*TEXT, *QUESTIONS, 'reference'),
}  # fmt: skip
TYPES = {'weights': np.float32, 'reference': np.float32}  # of fields that are not int32


@dataclasses.dataclass(frozen=True)
class Packed:
    """Encoded examples, and the rows that they lie in.

    examples: in their order. rows: of each row its examples' numbers. context: places of a row. text_weight: of a
    target in the loss of the text itself. references: for 'prefer', of each example its stretches' log p of each
    target under the model that training began with; else None.
    """

    examples: Sequence[Encoded]
    rows: Sequence[Sequence[int]]
    context: int
    kind: str
    text_weight: float
    references: Sequence[Sequence[np.ndarray]] | None = None

    def __len__(self) -> int:
        """Rows."""
        return len(self.rows)

    @property
    def questions(self) -> int:
        return sum(len(one.stretches[0].answers) for one in self.examples)

    @property
    def learned(self) -> int:
        """Targets."""
        return sum(int(one.learned[1:].sum()) for example in self.examples for one in example.stretches)

    @property
    def cut(self) -> int:
        """Examples that did not fit whole."""
        return sum(one.cut > 0 for one in self.examples)

    def take(self, numbers: Sequence[int] | np.ndarray) -> Batch:
        """The rows of these numbers; a number that is no row's is an empty row. Fields as in FIELDS."""
        shape = (len(numbers), self.context)
        batch = {name: np.zeros(shape, TYPES.get(name, np.int32)) for name in FIELDS[self.kind]}
        for row, number in enumerate(numbers):
            if number < len(self.rows):
                self._fill({name: array[row] for name, array in batch.items()}, self.rows[number])
        return batch

    def _fill(self, row: Batch, examples: Sequence[int]) -> None:
        place, segment, questions = 0, 0, 0
        for number in examples:
            example = self.examples[number]
            for which, one in enumerate(example.stretches):
                segment += 1
                part = slice(place, place + one.inputs)
                _write(row, part, segment, one, self.text_weight, self.kind)
                if 'questions' in row:
                    _ask(row, part, one, questions, self.kind)
                if self.references is not None:
                    row['reference'][part] = self.references[number][which]
                place += one.inputs
            questions += len(example.stretches[0].answers)


def _write(row: Batch, part: slice, segment: int, one: Stretch, text_weight: float, kind: str) -> None:
    following = one.ids[1 : one.inputs + 1]
    row['inputs'][part] = one.ids[: one.inputs]
    row['targets'][part][: len(following)] = following
    row['segments'][part] = segment
    row['positions'][part] = np.arange(one.inputs)
    if kind != 'prefer' or one.slot == 0:  # nobody learns to write what is not preferred
        row['weights'][part][: len(following)] = one.learned[1 : one.inputs + 1] * text_weight


def _ask(row: Batch, part: slice, one: Stretch, before: int, kind: str) -> None:
    # A target is scored where it is predicted, one place before it is read.
    read = one.read[1 : one.inputs + 1] if kind == 'prefer' else one.read[: one.inputs]
    asked = read > 0
    row['questions'][part][: len(read)] = np.where(asked, read + before, 0)
    row['slots'][part][: len(read)] = np.where(asked, one.slot, 0)
    row['answers'][part][: len(read)] = np.where(asked, np.array([0, *one.answers], np.int32)[read], 0)


def best_fit(sizes: Sequence[int], room: int) -> list[list[int]]:
    """Which of the sizes lie together in rows of `room` places: of each row their numbers, the longest first."""
    free: list[tuple[int, int]] = []  # (free places, row), sorted
    rows: list[list[int]] = []
    for number in sorted(range(len(sizes)), key=lambda n: (-sizes[n], n)):
        found = bisect.bisect_left(free, (sizes[number], -1))
        if found == len(free):
            rows.append([number])
            left, row = room, len(rows) - 1
        else:
            left, row = free.pop(found)
            rows[row].append(number)
        bisect.insort(free, (left - sizes[number], row))
    return rows


def pack(examples: Sequence[Encoded], task: TaskConfig, context: int) -> Packed:
    """Best fit, the longest first: rows are few, and which examples share one depends on nothing but the examples.

    The loss of the text beside a task's own is weighed by the mean number of its targets, so that
    `task.auxiliary` is what it is in GPT-1 (section 3.2) with both losses as means.
    """
    rows = best_fit([one.inputs for one in examples], context)
    packed = Packed(examples, rows, context, task.kind, 1.0)
    if task.kind == 'answer':
        return packed
    return dataclasses.replace(packed, text_weight=task.auxiliary * packed.questions / max(1, packed.learned))
