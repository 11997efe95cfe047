"""Multiple-choice scoring: the likeliest answer under four normalizations of its score.

The scores are log p(choice | context) itself, the same per token and per UTF-8 byte, and the same
minus log p(choice | a context without a question), which corrects for how common the words of the
answer are (Brown et al. 2020, section 2.4).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gpt_jax.core.errors import UserError


class ChoiceScores(NamedTuple):
    """Scores of the answers to one question, each float64 [Y].

    log_p: log p given the question, in nats. tokens, bytes: lengths of the answers. unconditional:
    log p after a context without a question, such as 'Answer:'; None: unknown.
    """

    log_p: np.ndarray
    tokens: np.ndarray
    bytes: np.ndarray
    unconditional: np.ndarray | None


def make_choice_scores(
    log_p: Sequence[float],
    tokens: Sequence[int],
    texts: Sequence[str],
    unconditional: Sequence[float] | None = None,
) -> ChoiceScores:
    """Make ChoiceScores; `texts` are the answers without the space before them."""
    lengths = [len(text.encode('utf-8')) for text in texts]
    return ChoiceScores(
        np.asarray(log_p, np.float64),
        np.asarray(tokens, np.float64),
        np.array(lengths, np.float64),
        None if unconditional is None else np.asarray(unconditional, np.float64),
    )


def _subtract_unconditional(scores: ChoiceScores) -> np.ndarray:
    if scores.unconditional is None:
        raise UserError(
            'normalized: needs log p of the choices after a context without a question as well'
        )
    return scores.log_p - scores.unconditional


NORMALIZATIONS: Mapping[str, Callable[[ChoiceScores], np.ndarray]] = {
    'raw': lambda scores: scores.log_p,
    'token': lambda scores: scores.log_p / np.maximum(scores.tokens, 1),
    'byte': lambda scores: scores.log_p / np.maximum(scores.bytes, 1),
    'normalized': _subtract_unconditional,
}


def pick_answers(scores: ChoiceScores) -> dict[str, int]:
    """Return the likeliest answer (the first if tied) by each available normalization."""
    return {
        name: int(np.argmax(normalize(scores)))
        for name, normalize in NORMALIZATIONS.items()
        if name != 'normalized' or scores.unconditional is not None
    }


def choice_probabilities(scores: ChoiceScores, normalization: str = 'raw') -> np.ndarray:
    """Return float64 [Y]: the softmax of the normalized scores."""
    scores_Y = NORMALIZATIONS[normalization](scores)
    return np.exp(scores_Y - np.logaddexp.reduce(scores_Y))


def compute_accuracy(questions: Sequence[ChoiceScores], answers: Sequence[int]) -> dict[str, float]:
    """Return the share of right answers by each normalization that all questions allow.

    Raises:
      UserError: no questions, or a different number of answers.
    """
    if len(questions) != len(answers) or not questions:
        raise UserError(
            f'answers: must be one per question, got {len(answers)} for {len(questions)} questions'
        )
    picks = [pick_answers(question) for question in questions]
    return {
        name: float(
            np.mean([pick[name] == answer for pick, answer in zip(picks, answers, strict=True)])
        )
        for name in NORMALIZATIONS
        if all(name in pick for pick in picks)
    }
