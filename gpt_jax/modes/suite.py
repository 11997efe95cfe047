"""What can a model do at this step of its training? The tasks of config.suite, asked on the training's mesh."""

import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpt_jax.assemble import Program, Settings
from gpt_jax.data import tokenizer as tokenizers
from gpt_jax.evaluate import pairs
from gpt_jax.evaluate.scoring import Scored
from gpt_jax.modes import material, request_scores, suite_tasks, training_text
from gpt_jax.modes.material import Material
from gpt_jax.modes.suite_tasks import Asked
from gpt_jax.observe.progress import Progress

SUITE = 'suite_'  # begins the scores' names: suite_TASK_SCORE
ERROR = '_error'


def asked(settings: Settings, corpus: Material, say: Callable[[str], None]) -> list[Asked]:
    """The tasks of the config, with the questions that the model's context has room for."""
    if not settings.suite.tasks:
        return []
    encode = material.tokenizer_of(corpus).encode_batch
    tasks = [suite_tasks.load(name, settings.suite, settings.data.cache, say) for name in settings.suite.tasks]
    tasks = [suite_tasks.fitting(task, encode, settings.model.context, say) for task in tasks]
    line = Progress(sys.stderr, trial=None, name=settings.name, steps=settings.steps)
    read = training_text.of_run(settings.task.kind, settings.data, settings.init_from)
    tasks = suite_tasks.beside(tasks, read, settings.suite.overlap, line, say)
    line.close()
    return tasks


def scores(
    settings: Settings, program: Program, corpus: Material, tasks: Sequence[Asked], params: Any, line: Progress
) -> dict[str, float]:
    """Of each task what suite_tasks.scores says; where it is known, the share of its questions that stand in the
    training text, 'contaminated', and 'error_clean', of the others alone."""
    if not tasks:
        return {}
    made = material.tokenizer_of(corpus)
    begins = np.array(tokenizers.beginning(made) if settings.task.kind != 'none' else (), np.int32)

    def plain(texts: list[str]) -> list[np.ndarray]:
        return [np.asarray(ids, np.int32) for ids in made.encode_batch(texts)] if texts else []

    def whole(texts: list[str]) -> list[np.ndarray]:
        return [np.concatenate([begins, ids]) for ids in plain(texts)]

    found: dict[str, float] = {}
    for task in tasks:

        def score(given: Sequence[tuple[str, str]], name: str = task.name) -> list[Scored]:
            requests = pairs.requests(given, whole, plain, made.end_of_document)
            note = lambda done, total: line.note(f'asking {name}, batch {done + 1}/{total}')  # noqa: E731
            return request_scores.score(settings, program, params, requests, note)

        results = suite_tasks.ask(task, score)
        said = suite_tasks.scores(results)
        if task.found is not None:
            clean = task.found.clean()
            said['contaminated'] = float(np.mean(~clean))
            if clean.any():
                said['error_clean'] = suite_tasks.scores(list(itertools.compress(results, clean)))['error']
        found |= {f'{SUITE}{task.name}_{name}': value for name, value in said.items()}
    return found


def downstream(values: dict[str, float]) -> dict[str, float]:
    """For the summary: the mean error over the tasks, to which laws of downstream error are fitted (Gadre et al.)."""
    errors = [value for name, value in values.items() if name.startswith(SUITE) and name.endswith(ERROR)]
    return {'downstream_error': float(np.mean(errors))} if errors else {}
