"""Task examples as text prompts for a language model, zero-shot or with k solved examples (shots).

The shots of a test example depend on its index in the split and the seed alone: not on the order of
scoring or on which examples are scored. The word 'Label:' before a class and the blank line between
examples are choices of this code base; scores depend on them, so name them in comparisons.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gpt_jax.core.errors import UserError
from gpt_jax.tasks.examples import (
    ClassificationExample,
    CompletionExample,
    Example,
    MultipleChoiceExample,
    PreferenceExample,
)

SEPARATOR = '\n\n'  # between examples
LABEL_PROMPT = '\nLabel:'  # followed by a space and the class


class Prompt(NamedTuple):
    """A context and its possible continuations.

    Attributes:
      context: what the model reads.
      continuations: candidate texts that follow; for a completion, the right answer alone.
      answer_index: index of the right continuation; None for a completion, which is generated.
    """

    context: str
    continuations: tuple[str, ...]
    answer_index: int | None


def make_prompt(example: Example, labels: Sequence[str] = ()) -> Prompt:
    """Format an example as text.

    A completion: the text before its last answer, and that answer. Multiple choice: as it is. A
    class: the texts, one per line, 'Label:', and the names of all classes. A preference: the better
    answer first.

    Args:
      example: of any kind but token classification.
      labels: names of the classes, as in task.labels.

    Raises:
      UserError: a token classification example, which has no text form.
    """
    match example:
        case CompletionExample():
            last = max(i for i, (_, is_target) in enumerate(example.parts) if is_target)
            context = ''.join(text for text, _ in example.parts[:last])
            return Prompt(context, (example.parts[last][0],), None)
        case MultipleChoiceExample():
            return Prompt(example.context, example.choices, example.label)
        case ClassificationExample():
            context = '\n'.join(example.texts) + LABEL_PROMPT
            return Prompt(context, tuple(f' {label}' for label in labels), example.label)
        case PreferenceExample():
            return Prompt(example.prompt, (example.chosen, example.rejected), 0)
    raise UserError(
        "config.task.kind: must be 'completion', 'multiple_choice', 'classification' or "
        "'preference' for text prompts, got 'token_classification'"
    )


def draw_shots(
    pool: Sequence[Example],
    example: Example,
    index: int,
    count: int,
    seed: int,
    balanced: bool = False,
) -> list[Example]:
    """Draw `count` training examples to show before an example; copies of it are left out.

    Args:
      pool: the training examples, in their order.
      example: the test example.
      index: of the test example in its split.
      count: number of shots.
      seed: of the draw.
      balanced: for classification, draw classes in turn; a class that runs out is replaced by the
        others.

    Raises:
      UserError: too few other examples in the pool, or `balanced` with another task kind.
    """
    if count == 0:
        return []
    rng = random.Random(f'shots {seed} {index}')
    others = (pool[position] for position in _lazy_shuffle(len(pool), rng))
    others = (other for other in others if other != example)
    shots = _draw_balanced(others, count) if balanced else list(itertools.islice(others, count))
    if len(shots) < count:
        raise UserError(
            f'num_fewshot: must be at most {len(shots)}, the number of other training examples, '
            f'got {count}'
        )
    return shots


def make_few_shot_prompt(
    shots: Sequence[Example],
    example: Example,
    labels: Sequence[str] = (),
    separator: str = SEPARATOR,
) -> Prompt:
    """Put solved examples in front of an example's context; the continuations stay the same."""
    prompt = make_prompt(example, labels)
    solved = []
    for shot in shots:
        context, continuations, answer_index = make_prompt(shot, labels)
        solved.append(f'{context}{continuations[answer_index or 0]}'.strip('\n'))
    return prompt._replace(context=separator.join([*solved, prompt.context]))


def _lazy_shuffle(size: int, rng: random.Random) -> Iterator[int]:
    """Shuffle 0 to size - 1 (Fisher and Yates); the cost grows only with the number drawn."""
    swapped: dict[int, int] = {}
    for last in range(size - 1, -1, -1):
        position = rng.randrange(last + 1)
        yield swapped.get(position, position)
        swapped[position] = swapped.get(last, last)


def _draw_balanced(others: Iterator[Example], count: int) -> list[Example]:
    """Draw one example of each class in turn, classes in the order of their first appearance."""
    by_class: dict[int, list[Example]] = {}
    for other in others:
        if not isinstance(other, ClassificationExample):
            raise UserError(
                f'balanced: must be False without classes, got a {type(other).__name__}'
            )
        examples = by_class.setdefault(other.label, [])
        if len(examples) < count:
            examples.append(other)
    turns = itertools.zip_longest(*by_class.values())
    drawn = (example for turn in turns for example in turn if example is not None)
    return list(itertools.islice(drawn, count))
