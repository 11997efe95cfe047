"""Which of several answers does a model take? The likeliest, by one of four ways to weigh answers of unlike lengths.

log p(choice | context) as it is, per token, per UTF-8 byte, or less log p(choice | a context that asks nothing), which
takes away how common the words of the answer are (Brown et al. 2020, section 2.4).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gpt_jax.errors import UserError


class Choices(NamedTuple):
    """The answers to one question, in float64 [Y] each.

    log_p: of each answer given the question, in nats. tokens, bytes: its lengths. unconditional: its log p after a
    context that asks nothing, such as 'Answer:'; None: not known.
    """

    log_p: np.ndarray
    tokens: np.ndarray
    bytes: np.ndarray
    unconditional: np.ndarray | None


def of(
    log_p: Sequence[float], tokens: Sequence[int], texts: Sequence[str], unconditional: Sequence[float] | None = None
) -> Choices:
    """Choices of numbers, and of the answers' texts without the space before them."""
    lengths = [len(text.encode('utf-8')) for text in texts]
    other = None if unconditional is None else np.asarray(unconditional, np.float64)
    return Choices(np.asarray(log_p, np.float64), np.asarray(tokens, np.float64), np.array(lengths, np.float64), other)


def _normalized(one: Choices) -> np.ndarray:
    if one.unconditional is None:
        raise UserError('normalized: wants log p of the choices after a context that asks nothing as well')
    return one.log_p - one.unconditional


WAYS: Mapping[str, Callable[[Choices], np.ndarray]] = {
    'raw': lambda one: one.log_p,
    'token': lambda one: one.log_p / np.maximum(one.tokens, 1),
    'byte': lambda one: one.log_p / np.maximum(one.bytes, 1),
    'normalized': _normalized,
}


def ways(one: Choices) -> list[str]:
    """Those of WAYS that can be told."""
    return [way for way in WAYS if way != 'normalized' or one.unconditional is not None]


def choose(one: Choices) -> dict[str, int]:
    """By each way the answer that is taken; of equal ones the first."""
    return {way: int(np.argmax(WAYS[way](one))) for way in ways(one)}


def probabilities(one: Choices, way: str = 'raw') -> np.ndarray:
    """How sure the model is: the softmax of what is compared, float64 [Y]."""
    scores_Y = WAYS[way](one)
    return np.exp(scores_Y - np.logaddexp.reduce(scores_Y))


def accuracy(questions: Sequence[Choices], answers: Sequence[int]) -> dict[str, float]:
    """The share of questions whose right answer is taken, by each way that can be told of all of them."""
    if len(questions) != len(answers) or not questions:
        raise UserError(f'answers: {len(answers)} of them for {len(questions)} questions; wants one for each')
    picks = [choose(one) for one in questions]
    return {
        way: float(np.mean([pick[way] == answer for pick, answer in zip(picks, answers, strict=True)]))
        for way in WAYS
        if all(way in pick for pick in picks)
    }
