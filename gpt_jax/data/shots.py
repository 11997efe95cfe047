"""How is an example put to a model that has only learned to go on with text? Written out, after k others or none.

What a test example's shots are is decided by its number in the split and the seed alone: not by the order in which
examples are scored, nor by which of them are. A class is asked for as its word after 'Label:'; this and the blank line
between examples are ours, and scores depend on such things: say so where you compare.
"""

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gpt_jax.data.examples import Answer, Choice, Classified, Example, Preference
from gpt_jax.errors import UserError

SEPARATOR = '\n\n'
ASKED = '\nLabel:'  # and, behind it, a space and the word


class Prompt(NamedTuple):
    """context: what the model is given. continuations: texts that may follow, as they follow; of a written answer the
    learned one alone. right: the number of the right one; None where the answer is to be written."""

    context: str
    continuations: tuple[str, ...]
    right: int | None


def as_prompt(example: Example, labels: Sequence[str] = ()) -> Prompt:
    """The example in words.

    An answer: what stands before it and the answer; of a dialogue, its last one. A choice: as it is. A class: its
    texts, a line each, 'Label:', and the words of all classes. A preference: the better text first.

    Args:
      labels: words of the classes, number 0 first (task.labels).

    Raises:
      UserError: tags of words, which no text asks for.
    """
    if isinstance(example, Answer):
        last = max(number for number, (_, learned) in enumerate(example.parts) if learned)
        before = ''.join(text for text, _ in example.parts[:last])
        return Prompt(before, (example.parts[last][0],), None)
    if isinstance(example, Choice):
        return Prompt(example.context, example.choices, example.label)
    if isinstance(example, Classified):
        return Prompt('\n'.join(example.texts) + ASKED, tuple(f' {word}' for word in labels), example.label)
    if isinstance(example, Preference):
        return Prompt(example.prompt, (example.chosen, example.rejected), 0)
    raise UserError("config.task.kind: 'label' tags words; a prompt can ask for answers, choices, classes, preferences")


def draw(
    pool: Sequence[Example], example: Example, number: int, count: int, seed: int, balanced: bool = False
) -> list[Example]:
    """The `count` examples that are shown before this one; none is the same as it, in whatever place it stands.

    Args:
      pool: the training examples, in their order.
      example, number: what is asked, and its number in its own split.
      balanced: of classes, as many of each as goes, in turn; a class that runs out is made up for by the others.

    Raises:
      UserError: the pool has too few others, or is balanced and not of classes.
    """
    if count == 0:
        return []
    at_random = random.Random(f'shots {seed} {number}')
    others = (pool[place] for place in _order(len(pool), at_random) if pool[place] != example)
    chosen = _in_turn(others, count) if balanced else [one for one, _ in zip(others, range(count), strict=False)]
    if len(chosen) < count:
        raise UserError(f'{count} shots: there are {len(chosen)} training examples besides the one that is asked')
    return chosen


def few_shot(
    shots: Sequence[Example], example: Example, labels: Sequence[str] = (), separator: str = SEPARATOR
) -> Prompt:
    """The example after the others, each with its right continuation: the same continuations, a longer context."""
    asked = as_prompt(example, labels)
    shown = []
    for shot in shots:
        context, continuations, right = as_prompt(shot, labels)
        shown.append(f'{context}{continuations[right or 0]}'.strip('\n'))
    return asked._replace(context=separator.join([*shown, asked.context]))


def _order(size: int, at_random: random.Random) -> Iterator[int]:
    """0 to size - 1, shuffled (Fisher and Yates), at no more cost than what is taken of it."""
    moved: dict[int, int] = {}
    for last in range(size - 1, -1, -1):
        place = at_random.randrange(last + 1)
        yield moved.get(place, place)
        moved[place] = moved.get(last, last)


def _in_turn(others: Iterator[Example], count: int) -> list[Example]:
    """One of each class that there is, then another of each, as long as there are any; classes as they first appear."""
    by_class: dict[int, list[Example]] = {}
    for one in others:
        if not isinstance(one, Classified):
            raise UserError(f'balanced shots want classes; these are examples of the kind {type(one).__name__}')
        some = by_class.setdefault(one.label, [])
        if len(some) < count:
            some.append(one)
    rounds = ((some[turn] for some in by_class.values() if turn < len(some)) for turn in range(count))
    return [one for turn in rounds for one in turn][:count]
