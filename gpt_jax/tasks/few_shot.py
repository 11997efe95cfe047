"""Zero-shot and few-shot text prompts for a language model, made from task examples.

The shots (solved examples) before a test example depend only on its index in the split and on the
seed, not on the order of scoring or on which examples are scored. The word 'Label:' before a class
and the blank line between examples are choices of this code base; scores depend on them, so state
them in comparisons.
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
      context: the text given to the model.
      continuations: candidate texts that follow; for a completion, the right answer alone.
      answer_index: index of the right continuation; None for a completion, which is generated.
    """

    context: str
    continuations: tuple[str, ...]
    answer_index: int | None


def make_prompt(example: Example, labels: Sequence[str] = ()) -> Prompt:
    """Format an example as text.

    For a completion, the context is the text before its last answer. For multiple choice, context
    and choices stay as they are. For classification, the texts, one per line, and 'Label:' precede
    the names of all classes. For a preference, the better answer comes first.

    Args:
      example: an example of any kind but token classification.
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
      index: index of the test example in its split.
      count: number of shots.
      seed: seed of the draw.
      balanced: for classification, whether to draw classes in turn; a class that runs out is
        skipped.

    Raises:
      UserError: the pool has too few other examples, or `balanced` is set for another task kind.
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
    """Shuffle 0 to size - 1 (Fisher-Yates); the cost grows only with the number drawn."""
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
