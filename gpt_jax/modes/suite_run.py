"""What can a trained model do? Tasks, zero- or few-shot, and reports on it."""

import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpt_jax import language_model, pretrained
from gpt_jax.data.examples import Answer
from gpt_jax.data.shots import SEPARATOR
from gpt_jax.errors import UserError
from gpt_jax.evaluate import code, contamination, metrics
from gpt_jax.evaluate.config import SuiteConfig
from gpt_jax.evaluate.contamination import Contamination
from gpt_jax.generate.batching import Prompt
from gpt_jax.language_model import LanguageModel
from gpt_jax.modes import answers, suite_tasks, training_text
from gpt_jax.modes.suite_flags import OF_TEXT
from gpt_jax.modes.suite_reports import REPORTS, About
from gpt_jax.modes.suite_tasks import Asked, Result
from gpt_jax.observe.progress import Progress
from gpt_jax.train import manifest

SHOWN = ('accuracy', 'exact', 'bits_per_byte', 'loss', 'ece')
Say = Callable[[str], None]


class Way(NamedTuple):
    """corpus: the model's training text, where a person names it; ''. stride: of long texts, in tokens; None: the
    context. weights, devices: how and where the model is kept. run_code: whether written programs may be run. chosen:
    whether the tasks and reports were asked for by name."""

    corpus: str
    stride: int | None
    weights: str
    devices: dict[str, int]
    run_code: bool
    chosen: bool


def suite(checkpoint: str, asked: SuiteConfig, way: Way, say: Say) -> dict[str, Any]:
    """What the model of `checkpoint` says to each task and report; JSON.

    Raises:
      UserError: no such model, task or file.
    """
    words = {word: REPORTS[word.partition(':')[0]] for word in asked.tasks if word.partition(':')[0] in REPORTS}
    for name in asked.tasks:
        if name not in words:
            suite_tasks.read(name)  # what is wrong with it is said before the model is loaded
    folder = pretrained.chosen(Path(checkpoint), None)
    read = [training_text.named(way.corpus)] if way.corpus else training_text.of_folder(folder)
    data = read[0] if read else None
    model = language_model.load(checkpoint, draft=None, weights=way.weights, say=say, **way.devices)
    line = Progress(sys.stderr, trial=None, name='suite', steps=len(asked.tasks))
    about = About(model, data, asked.examples or 1 << 30, asked.seed, way.stride, line, say)
    for word in [word for word in words if word in OF_TEXT and data is None]:
        if way.chosen:
            about.text()  # raises
        say(f'{word}: left out, for no run says what the model was trained on; --corpus names it')
        del words[word]
    names = [name for name in asked.tasks if name.partition(':')[0] not in REPORTS]
    tasks = _fitting(names, asked, model, data.cache if data else '', say)
    if tasks and asked.overlap and not read:
        say('contamination: not looked for, for no run says what the model was trained on; --corpus names it')
    # What a person calls the training text is all of it; of a run's source, its train split is.
    tasks = suite_tasks.beside(tasks, read, asked.overlap, line, say, whole=bool(way.corpus))
    found: dict[str, Any] = {task.name: _scores(task, model, line, asked, way.run_code, say) for task in tasks}
    for word, report in words.items():
        line.note(word)
        found[word] = report(about, word.partition(':')[2])
    line.close()
    meta = manifest.newest_meta(folder / 'checkpoints') if (folder / 'checkpoints').is_dir() else None
    return {
        'checkpoint': checkpoint, 'step': None if meta is None else meta['next_batch'], 'weights': way.weights,
        'shots': asked.shots, 'seed': asked.seed, 'examples': asked.examples, 'tasks': found,
    }  # fmt: skip


def _fitting(names: Sequence[str], asked: SuiteConfig, model: LanguageModel, cache: str, say: Say) -> list[Asked]:
    """The tasks with their questions; one of which the context has room for no question is left out, and said."""
    made = []
    for name in names:
        task = suite_tasks.load(name, asked, cache, say)
        try:
            made.append(suite_tasks.fitting(task, model.tokenizer.encode_batch, model.config.context, say))
        except UserError as error:
            if len(names) == 1:
                raise
            say(f'left out: {error}')
    return made


def _scores(
    task: Asked, model: LanguageModel, line: Progress, asked: SuiteConfig, run_code: bool, say: Say
) -> dict[str, Any]:
    line.note(f'asking {task.name}')
    results = suite_tasks.ask(task, model.score, blank=True)
    said: dict[str, Any] = {'questions': len(results), 'cut': task.cut, **suite_tasks.scores(results)}
    if results[0].question.right is None:
        said |= _answered(task, model, line, asked, run_code, say)
    return said | _clean(results, task.found)


def _clean(results: Sequence[Result], found: Contamination | None) -> dict[str, Any]:
    """What stands in the training text, and the scores of what does not."""
    if found is None:
        return {'contamination': None}
    clean = list(itertools.compress(results, found.clean()))
    some = suite_tasks.scores(clean) if clean and len(clean) < len(results) else {}
    return {
        'contamination': contamination.report(found),
        **{f'clean_{name}': value for name, value in some.items() if name in SHOWN},
    }


def _answered(
    task: Asked, model: LanguageModel, line: Progress, asked: SuiteConfig, run_code: bool, say: Say
) -> dict[str, Any]:
    """The task's metrics of what the model writes."""
    names = [name for name in task.task.metrics or answers.USUAL if run_code or not metrics.PASS_AT.fullmatch(name)]
    if len(names) < len(task.task.metrics or answers.USUAL):
        say(f'{task.name}: {code.WARNING}')
    examples = [one.example for one in task.questions if isinstance(one.example, Answer)]
    rights = [one.references[0] for one in examples]
    longest = max(len(ids) for ids in model.tokenizer.encode_batch(list(rights))) + 2
    longest = min(longest, model.config.context // 2)
    prompts = []
    for one in task.questions:
        ids = np.asarray(model.encode(one.context))[-(model.config.context - longest) :]
        prompts.append(Prompt(model.tokenizer.decode(ids), ids))
    # A model that was not tuned on the task does not end its answer; the next example would begin with a blank line.
    stop = {} if any(SEPARATOR in right for right in rights) else {'stop': (SEPARATOR,)}
    drawn = max((int(name.partition('@')[2]) for name in names if metrics.PASS_AT.fullmatch(name)), default=1)
    ways: list[dict[str, Any]] = [{}]
    if drawn > 1:
        ways.append({'num_return_sequences': drawn, 'temperature': answers.TEMPERATURE, 'seed': asked.seed})
    each = [answers.continued(model, prompts, {'max_new_tokens': longest} | stop | way, line) for way in ways]
    written = [
        answers.Written(prompt.text, tuple(text for some in each for text in some[number]), one)
        for number, (prompt, one) in enumerate(zip(prompts, examples, strict=True))
    ]
    return {name: answers.score(name, written, allowed=run_code) for name in names}
