"""What does the suite ask of a task, and what do the answers say? For any model that predicts text, tuned or not.

A task is named by its config: 'sentiment' is configs/finetune/sentiment.py, and a path is a config file anywhere. Of
its validation examples some are chosen, the same ones for every model. What is classified, chosen or preferred is
decided by the log-probabilities of the answers; of an answer that is written, that of the right one is taken here
(modes/suite.py writes them too).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpt_jax import assemble, overrides, schema
from gpt_jax.data import shots, task_set
from gpt_jax.data.config import DataConfig
from gpt_jax.data.examples import Example
from gpt_jax.data.task import TaskConfig
from gpt_jax.errors import UserError
from gpt_jax.evaluate import calibration, choices
from gpt_jax.evaluate.config import SuiteConfig
from gpt_jax.evaluate.contamination import Contamination
from gpt_jax.evaluate.scoring import Scored
from gpt_jax.modes import contaminated
from gpt_jax.observe.progress import Progress

Score = Callable[[Sequence[tuple[str, str]]], list[Scored]]
TASKS = overrides.CONFIGS / 'finetune'
MOVED = 8  # tokens of white space at a context's end, at most, that count to the answer (evaluate/pairs.py)
BLANK = 'Answer:'  # a context that asks nothing


class Question(NamedTuple):
    """choices: what may go on from the context, of which number `right` is right; the right answer alone, and None.

    texts: what is asked about, as it stands in the source: without the template's words.
    """

    context: str
    choices: tuple[str, ...]
    right: int | None
    example: Example
    texts: tuple[str, ...]


class Asked(NamedTuple):
    """A task with its questions. cut: how many of them lose their beginning, for the context is too short. found: how
    much of each the model has read, as far as is known."""

    name: str
    task: TaskConfig
    questions: list[Question]
    cut: int
    found: Contamination | None


def load(name: str, suite: SuiteConfig, cache: str, say: Callable[[str], None]) -> Asked:
    """The questions of a task.

    Args:
      name: of its config.
      cache: `data.cache`.

    Raises:
      UserError: no such task, one that no text can ask, or what its source says.
    """
    task = read(name)
    found = task_set.load(task, cache, None, say)
    pairs = list(found.pairs('validation'))
    pool = [example for _, example in pairs]
    numbers = np.arange(len(pool))
    if 0 < suite.examples < len(pool):
        numbers = np.sort(np.random.default_rng(suite.seed).permutation(len(pool))[: suite.examples])
    before = list(found.examples('train')) if suite.shots else []
    made = []
    for number in numbers:
        shown = shots.draw(before, pool[number], int(number), suite.shots, suite.seed)
        texts = contaminated.texts(task, pairs[number][0])
        made.append(Question(*shots.few_shot(shown, pool[number], task.labels), pool[number], texts))
    return Asked(Path(name).stem, task, made, 0, None)


def fitting(asked: Asked, encode: Callable[[list[str]], Any], context: int, say: Callable[[str], None]) -> Asked:
    """The questions whose answers the context has room for, the rest being counted; a question itself loses its
    beginning where it is too long, shots first, which is counted too.

    Args:
      encode: texts to ids.
      context: tokens.

    Raises:
      UserError: none is left.
    """
    texts = [answer for one in asked.questions for answer in one.choices]
    sizes = iter([len(ids) for ids in encode(texts)])
    longest = [max(next(sizes) for _ in one.choices) for one in asked.questions]
    before = [len(ids) for ids in encode([one.context for one in asked.questions])]
    kept = [one for one, size in zip(asked.questions, longest, strict=True) if size + MOVED < context]
    cut = sum(size + MOVED < context < size + rest for size, rest in zip(longest, before, strict=True))
    if cut:
        say(f'{asked.name}: {cut} of {len(kept)} questions lose their beginning in a context of {context} tokens')
    if not kept:
        raise UserError(f'config.suite.tasks: {asked.name}: no question has answers of less than {context} tokens')
    if gone := len(asked.questions) - len(kept):
        say(f'{asked.name}: {gone} of {len(asked.questions)} questions are left out: an answer longer than the context')
    return asked._replace(questions=kept, cut=cut)


def beside(
    tasks: Sequence[Asked], read: Sequence[DataConfig], words: int, line: Progress, say: Callable[[str], None], *,
    whole: bool = False,
) -> list[Asked]:  # fmt: skip
    """The tasks, with what the model has read of their questions (modes/contaminated.py)."""
    found = contaminated.look(
        [one.texts for task in tasks for one in task.questions], read, words, line, say, whole=whole
    )
    made, at = [], 0
    for task in tasks:
        part = slice(at, at + len(task.questions))
        own = found and found._replace(share=found.share[part], short=found.short[part])
        made.append(task._replace(found=own))
        at += len(task.questions)
    return made


def read(name: str) -> TaskConfig:
    """The task of that name.

    Raises:
      UserError: there is none, or no text can ask it.
    """
    path = Path(name) if name.endswith('.py') else TASKS / f'{name}.py'
    if not path.is_file():
        there = sorted(one.stem for one in TASKS.glob('*.py') if one.stem not in ('local', 'published', 'by_size'))
        near = schema.nearest(name, there)
        raise UserError(f'config.suite.tasks: no task {name!r}{near}; there are {", ".join(there)}')
    task = assemble.task_config(overrides.read(path))
    if task.kind in ('none', 'label') or task.chat:
        whys = {'none': 'is none', 'label': 'tags words, which takes a head; tune a model on it'}
        why = whys.get(task.kind, 'is put into a chat template, which this does not; tune a model on it')
        raise UserError(f'config.suite.tasks: {name} {why}')
    return task


class Result(NamedTuple):
    """What a model makes of a question: the scores of its choices, and of these after a context that asks nothing."""

    question: Question
    scored: Sequence[Scored]
    blank: Sequence[Scored]


def ask(asked: Asked, score: Score, *, blank: bool = False) -> list[Result]:
    """The model's scores of all questions.

    Args:
      score: the model.
      blank: whether to ask for choices without a question, too ('accuracy_normalized').
    """
    pairs = [(one.context, choice) for one in asked.questions for choice in one.choices]
    blank = blank and asked.questions[0].right is not None
    found = score([*pairs, *([(BLANK, choice) for _, choice in pairs] if blank else [])])
    made, at = [], 0
    for one in asked.questions:
        size = len(one.choices)
        without = found[len(pairs) + at : len(pairs) + at + size] if blank else ()
        made.append(Result(one, found[at : at + size], without))
        at += size
    return made


def scores(results: Sequence[Result]) -> dict[str, float]:
    """Of written answers: 'loss' of the right one in nats per token, 'bits_per_byte' of it, and 'exact', how often it
    is what the model writes itself, token by token the likeliest. Of the others: 'accuracy' by log p as it is, and by
    each other way to weigh it (evaluate/choices.py) 'accuracy_WAY'; 'chance', the accuracy of guessing; 'loss' in nats
    per question and 'ece', the expected calibration error, both of the probabilities that the choices have among each
    other. Of all 'error', the share that is wrong: 1 - accuracy, or 1 - exact.
    """
    found = _written(results) if results[0].question.right is None else _chosen(results)
    return found | {'error': 1 - found.get('accuracy', found.get('exact', 0.0))}


def _written(results: Sequence[Result]) -> dict[str, float]:
    scored = [one.scored[0] for one in results]
    nats = -sum(one.log_p for one in scored)
    size = sum(_bytes(one.question) for one in results)
    return {
        'loss': nats / max(1, sum(one.tokens for one in scored)),
        'bits_per_byte': nats / np.log(2) / max(1, size),
        'exact': float(np.mean([one.greedy for one in scored])),
    }


def _bytes(question: Question) -> int:
    """Of what is scored of a written answer: with the white space that counts to it."""
    moved = len(question.context) - len(question.context.rstrip())
    return moved + len(question.choices[0].encode('utf-8'))


def _chosen(results: Sequence[Result]) -> dict[str, float]:
    made = []
    for question, scored, blank in results:
        texts, without = [choice.lstrip() for choice in question.choices], [one.log_p for one in blank] or None
        made.append(choices.of([one.log_p for one in scored], [one.tokens for one in scored], texts, without))
    right = [int(one.question.right or 0) for one in results]
    accuracy = choices.accuracy(made, right)
    sure = [choices.probabilities(one) for one in made]
    confidences = np.array([p_Y.max() for p_Y in sure])
    hits = np.array([int(np.argmax(p_Y)) == answer for p_Y, answer in zip(sure, right, strict=True)])
    return {
        'accuracy': accuracy['raw'],
        **{f'accuracy_{way}': share for way, share in accuracy.items() if way != 'raw'},
        'chance': float(np.mean([1 / len(one.log_p) for one in made])),
        'loss': float(np.mean([-np.log(max(p_Y[answer], 1e-300)) for p_Y, answer in zip(sure, right, strict=True)])),
        'ece': calibration.expected_calibration_error(calibration.reliability(confidences, hits)),
    }
