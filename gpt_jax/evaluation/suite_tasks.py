"""Tasks as questions for any language model, and the scores of its answers.

A task is named by its entry in the catalog (tasks/catalog.py), or by the path of a config file. A
seeded random subset of its validation examples is used, the same for every model. Classes, choices
and preferences are decided by the log-probabilities of the answers. For generated answers, the
reference's log-probability is computed here (suite.py also generates answers).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.core import config_cli
from gpt_jax.core.config import DataConfig, SuiteConfig, TaskConfig, parse_section
from gpt_jax.core.errors import UserError
from gpt_jax.core.progress import LogFn, Progress
from gpt_jax.evaluation import contamination
from gpt_jax.evaluation.contamination import Contamination
from gpt_jax.evaluation.statistics import bin_by_confidence, expected_calibration_error
from gpt_jax.inference.scoring import ContinuationScore
from gpt_jax.tasks import catalog, few_shot, task_dataset
from gpt_jax.tasks.examples import Example


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
    """Collect the scores of a question's answers, for every normalization.

    They are log p(choice | context) itself, the same per token and per UTF-8 byte, and the same
    minus log p(choice | a context without a question), which corrects for how common the words of
    the answer are (Brown et al. 2020, section 2.4).

    Args:
      log_p: of every answer, in nats.
      tokens: number of tokens of every answer.
      texts: the answers, without the space before them.
      unconditional: log p of every answer after the context without a question, in nats.
    """
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


ScoreFn = Callable[[Sequence[tuple[str, str]]], list[ContinuationScore]]
# Upper bound on the tokens of trailing white space that move from a context to the answer
# (inference/text_scoring.py).
MAX_MOVED_TOKENS = 8
BLANK_CONTEXT = 'Answer:'  # a context without a question


class EvalQuestion(NamedTuple):
    """One question to a model.

    Attributes:
      context: text before the answer, including the shots.
      choices: possible continuations; for a generated answer, only the reference.
      answer_index: index of the right choice; None for a generated answer.
      example: the example in the task's dataset.
      source_texts: the question's texts as they are in its source, without the template's words.
    """

    context: str
    choices: tuple[str, ...]
    answer_index: int | None
    example: Example
    source_texts: tuple[str, ...]


class EvalRequest(NamedTuple):
    """A task with its questions.

    truncated: number of questions whose context is truncated on the left. contamination: overlap
    of each question with the training text, if known.
    """

    name: str
    task: TaskConfig
    questions: list[EvalQuestion]
    truncated: int
    contamination: Contamination | None


def load_task(name: str, suite_config: SuiteConfig, cache: str, log: LogFn) -> EvalRequest:
    """Load the questions of a task.

    Args:
      name: name in the catalog, or path of a config file.
      cache: data.cache.

    Raises:
      UserError: no such task, a task that has no text form, or an error in its source.
    """
    task = find_task(name)
    examples = task_dataset.load_examples(task, cache, None, log)
    rows = list(examples.pairs('validation'))
    indices = np.arange(len(rows))
    count, seed, num_shots = suite_config.max_examples, suite_config.seed, suite_config.num_fewshot
    if 0 < count < len(rows):
        indices = np.sort(np.random.default_rng(seed).permutation(len(rows))[:count])
    train = list(examples.examples('train')) if num_shots else []
    questions = []
    for index in indices:
        row, example = rows[index]
        shots = few_shot.draw_shots(train, example, int(index), num_shots, seed)
        prompt = few_shot.make_few_shot_prompt(shots, example, task.labels)
        source_texts = contamination.question_texts(task, row)
        questions.append(EvalQuestion(*prompt, example, source_texts))
    return EvalRequest(Path(name).stem, task, questions, 0, None)


def find_task(name: str) -> TaskConfig:
    """Return the task with this name.

    Raises:
      UserError: there is no such task, or it has no text form.
    """
    if name.endswith('.py'):
        path = Path(name)
        if not path.is_file():
            raise UserError(f'config.suite.tasks: {name}: no such file')
        raw_config = config_cli.read_config_file(str(path))
    else:
        try:
            raw_config = {'task': catalog.task_section(name)}
        except UserError as error:
            raise UserError(f'config.suite.tasks: {error}') from None
    task: TaskConfig = parse_section(raw_config, 'task')
    reason = ''
    if task.kind == 'none':
        reason = 'must have a task section'
    elif task.kind == 'token_classification':
        reason = 'tags tokens, which needs a head; fine-tune a model on it'
    elif task.chat:
        reason = 'uses a chat template, which the suite does not apply; fine-tune a model on it'
    if reason:
        raise UserError(f'config.suite.tasks: {name} {reason}')
    return task


def fit_context(
    request: EvalRequest, encode: Callable[[list[str]], Any], context: int, log: LogFn
) -> EvalRequest:
    """Drop questions whose answers do not fit in the context, and count truncated questions.

    A question that is too long is truncated on the left, shots first.

    Args:
      encode: texts to ids.
      context: context length in tokens.

    Raises:
      UserError: no question fits.
    """
    questions = request.questions
    answers = [answer for question in questions for answer in question.choices]
    answer_sizes = iter([len(ids) for ids in encode(answers)])
    longest = [max(next(answer_sizes) for _ in question.choices) for question in questions]
    context_sizes = [len(ids) for ids in encode([question.context for question in questions])]
    fits = [size + MAX_MOVED_TOKENS < context for size in longest]
    fitting = [question for question, fit in zip(questions, fits, strict=True) if fit]
    sizes = zip(fits, longest, context_sizes, strict=True)
    truncated = sum(fit and context < answer + question for fit, answer, question in sizes)
    if truncated:
        log(
            f'{request.name}: {truncated} of {len(fitting)} questions are truncated on the left '
            f'to a context of {context} tokens'
        )
    if not fitting:
        raise UserError(
            f'config.suite.tasks: {request.name}: no question has answers of fewer than '
            f'{context} tokens'
        )
    if dropped := len(questions) - len(fitting):
        log(
            f'{request.name}: {dropped} of {len(questions)} questions are dropped: '
            'an answer does not fit in the context'
        )
    return request._replace(questions=fitting, truncated=truncated)


def attach_contamination(
    requests: Sequence[EvalRequest],
    training_data: Sequence[DataConfig],
    ngram: int,
    progress: Progress,
    log: LogFn,
    *,
    all_splits: bool = False,
) -> list[EvalRequest]:
    """Attach the overlap of the questions with the training text (contamination.py)."""
    texts = [question.source_texts for request in requests for question in request.questions]
    overlap = contamination.find_contamination(
        texts, training_data, ngram, progress, log, all_splits=all_splits
    )
    if overlap is None:
        return [request._replace(contamination=None) for request in requests]
    checked, start = [], 0
    for request in requests:
        part = slice(start, start + len(request.questions))
        request_overlap = overlap._replace(share=overlap.share[part], short=overlap.short[part])
        checked.append(request._replace(contamination=request_overlap))
        start += len(request.questions)
    return checked


class QuestionResult(NamedTuple):
    """Scores of the choices of a question.

    blank: scores of the choices after BLANK_CONTEXT; (): not computed.
    """

    question: EvalQuestion
    scores: Sequence[ContinuationScore]
    blank: Sequence[ContinuationScore]


def score_questions(
    request: EvalRequest, score: ScoreFn, *, blank: bool = False
) -> list[QuestionResult]:
    """Score the choices of all questions.

    Args:
      score: the model's scoring function.
      blank: whether to score the choices also without a question, for 'accuracy_normalized'.
    """
    pairs = [
        (question.context, choice) for question in request.questions for choice in question.choices
    ]
    blank = blank and request.questions[0].answer_index is not None
    blank_pairs = [(BLANK_CONTEXT, choice) for _, choice in pairs] if blank else []
    scores = score([*pairs, *blank_pairs])
    choice_scores, blank_scores = scores[: len(pairs)], scores[len(pairs) :]
    results, start = [], 0
    for question in request.questions:
        part = slice(start, start + len(question.choices))
        without = blank_scores[part] if blank else ()
        results.append(QuestionResult(question, choice_scores[part], without))
        start += len(question.choices)
    return results


def summarize_scores(results: Sequence[QuestionResult]) -> dict[str, float]:
    """Compute the scores of a task.

    Returns:
      For generated answers:
        loss: loss of the reference, in nats per token.
        bits_per_byte: the same loss, in bits per byte.
        exact: share of references that greedy decoding generates.
      For others:
        accuracy: by raw log p.
        accuracy_NAME: by each other normalization (suite_tasks.py).
        chance: accuracy of guessing.
        loss: nats per question, from the choices' probabilities normalized to sum to 1.
        ece: expected calibration error of the same probabilities.
      For all:
        error: 1 - accuracy, or 1 - exact.
    """
    if results[0].question.answer_index is None:
        scores = _summarize_completions(results)
        return scores | {'error': 1 - scores['exact']}
    scores = _summarize_choices(results)
    return scores | {'error': 1 - scores['accuracy']}


def _summarize_completions(results: Sequence[QuestionResult]) -> dict[str, float]:
    references = [result.scores[0] for result in results]
    nats = -sum(score.log_p for score in references)
    size = sum(_count_scored_bytes(result.question) for result in results)
    return {
        'loss': nats / max(1, sum(score.tokens for score in references)),
        'bits_per_byte': nats / np.log(2) / max(1, size),
        'exact': float(np.mean([score.greedy for score in references])),
    }


def _count_scored_bytes(question: EvalQuestion) -> int:
    """Count the bytes of the reference and of the white space that moves to it from the context."""
    moved = question.context[len(question.context.rstrip()) :]
    return len((moved + question.choices[0]).encode('utf-8'))


def _summarize_choices(results: Sequence[QuestionResult]) -> dict[str, float]:
    questions = [
        make_choice_scores(
            [score.log_p for score in scores],
            [score.tokens for score in scores],
            [choice.lstrip() for choice in question.choices],
            [score.log_p for score in blank] or None,
        )
        for question, scores, blank in results
    ]
    answers = [int(result.question.answer_index or 0) for result in results]
    accuracy = compute_accuracy(questions, answers)
    probabilities = [choice_probabilities(question) for question in questions]
    confidences = np.array([p_Y.max() for p_Y in probabilities])
    pairs = list(zip(probabilities, answers, strict=True))
    hits = np.array([int(np.argmax(p_Y)) == answer for p_Y, answer in pairs])
    losses = [-np.log(max(p_Y[answer], 1e-300)) for p_Y, answer in pairs]
    return {
        'accuracy': accuracy['raw'],
        **{f'accuracy_{name}': share for name, share in accuracy.items() if name != 'raw'},
        'chance': float(np.mean([1 / len(question.log_p) for question in questions])),
        'loss': float(np.mean(losses)),
        'ece': expected_calibration_error(bin_by_confidence(confidences, hits)),
    }
