"""What can a trained model do? Tasks, zero- or few-shot, and reports on it, as a table and in a file."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from gpt_jax import overrides, schema
from gpt_jax.errors import UserError

USUAL = ('sentiment', 'pairs', 'choices', 'preferences', 'translation', 'text', 'bias', 'degeneration')
FLAGS = {
    'tasks': 'suite: of configs/finetune/, or text, bias, degeneration, memorization; by default ' + ','.join(USUAL),
    'shots': 'suite: training examples that are shown before each question; 0 by default.',
    'examples': 'suite: of each task, so many, always the same; 200 by default, 0: all.',
    'stride': "suite: tokens between two windows of long texts; the model's context by default.",
    'corpus': "suite: the model's training text, files:GLOB or tfds:NAME, where no run's folder says it.",
    'overlap': 'suite: words in a row that, found in the training text too, make a question dirty; 13, 0: do not look.',
}
NUMBERS = {'shots': 0, 'examples': 200, 'stride': 0, 'overlap': 13}
OF_TEXT = ('text', 'degeneration', 'memorization')  # reports that want the training text where they are given none
REPORT_WORDS = (*OF_TEXT, 'bias')
TASKS = overrides.CONFIGS / 'finetune'
SHOWN = ('accuracy', 'exact', 'bits_per_byte', 'loss', 'ece')
Say = Callable[[str], None]


def define_flags() -> None:
    for name, text in FLAGS.items():
        (flags.DEFINE_integer if name in NUMBERS else flags.DEFINE_string)(name, None, text)


def suite(checkpoint: str, output: str | None, weights: str, devices: dict[str, int], run_code: bool, say: Say) -> None:
    """Asks the model of `checkpoint` what the command line says; prints a table, and writes `output`, JSON.

    Raises:
      UserError: no such model, task or file, or a flag that makes no sense.
    """
    given: dict[str, Any] = {name: flags.FLAGS[name].value for name in FLAGS}
    numbers: dict[str, int] = {name: usual if given[name] is None else given[name] for name, usual in NUMBERS.items()}
    for name, value in numbers.items():
        schema.require(value >= 0, f'--{name}', f'must be 0 or more, got {value}')
    names = _names(given['tasks'] or ','.join(USUAL))
    if output is not None and not Path(output).resolve().parent.is_dir():
        raise UserError(f'--output={output}: there is no such folder')
    from gpt_jax.evaluate.config import SuiteConfig
    from gpt_jax.modes import suite_table

    asked = SuiteConfig(tuple(names), 0, numbers['examples'], numbers['shots'], int(flags.FLAGS.seed or 0))
    found = _suite(
        checkpoint, asked, given['corpus'] or '', numbers, weights, devices, run_code, bool(given['tasks']), say
    )
    print(suite_table.table(found['tasks']))
    if output is not None:
        Path(output).write_text(json.dumps(found, indent=1) + '\n')
        say(f'{output}: written')


def _names(said: str) -> list[str]:
    """What commas part; those of a list of files behind a report's colon part none."""
    names: list[str] = []
    for one in filter(None, said.split(',')):
        word = one.partition(':')[0]
        files = names and ':' in names[-1] and word not in REPORT_WORDS and not (TASKS / f'{one}.py').is_file()
        if files:
            names[-1] += f',{one}'
        else:
            names.append(one)
    return names


def _suite(
    checkpoint: str, asked: Any, corpus: str, numbers: dict[str, int], weights: str, devices: dict[str, int],
    run_code: bool, chosen: bool, say: Say,
) -> dict[str, Any]:  # fmt: skip
    from gpt_jax import language_model, pretrained
    from gpt_jax.modes import suite_reports, suite_tasks
    from gpt_jax.modes.suite_reports import REPORTS, About
    from gpt_jax.observe.progress import Progress
    from gpt_jax.train import manifest

    words = {word: REPORTS[word.partition(':')[0]] for word in asked.tasks if word.partition(':')[0] in REPORTS}
    for name in asked.tasks:
        if name not in words:
            suite_tasks.read(name)  # what is wrong with it is said before the model is loaded
    folder = pretrained.chosen(Path(checkpoint), None)
    data = overrides.defaults()['data'] | {'source': corpus} if corpus else trained_on(folder)
    model = language_model.load(checkpoint, draft=None, weights=weights, say=say, **devices)
    line = Progress(sys.stderr, trial=None, name='suite', steps=len(asked.tasks))
    about = About(
        model, data, bool(corpus), asked.examples or 1 << 30, asked.seed, numbers['stride'] or None, line, say
    )  # fmt: skip
    for word in [word for word in words if word in OF_TEXT and data is None]:
        if chosen:
            about.section()  # raises
        say(f'{word}: left out, for no run says what the model was trained on; --corpus names it')
        del words[word]
    tasks = _fitting([name for name in asked.tasks if name.partition(':')[0] not in REPORTS], asked, model, data, say)
    found: dict[str, Any] = {}
    dirty = _dirty(tasks, about, numbers['overlap'], suite_reports.documents)
    for task in tasks:
        line.note(f'asking {task.name}')
        results = suite_tasks.ask(task, model.score, blank=True)
        said: dict[str, Any] = {'questions': len(results), 'cut': task.cut, **suite_tasks.scores(results)}
        if results[0].question.right is None:
            said |= _answered(task, model, line, asked, run_code, say)
        said |= _clean(results, dirty.get(task.name), suite_tasks.scores)
        found[task.name] = said
    for word, report in words.items():
        line.note(word)
        found[word] = report(about, word.partition(':')[2])
    line.close()
    meta = manifest.newest_meta(folder / 'checkpoints') if (folder / 'checkpoints').is_dir() else None
    return {
        'checkpoint': checkpoint, 'step': None if meta is None else meta['next_batch'], 'weights': weights,
        'shots': asked.shots, 'seed': asked.seed, 'examples': asked.examples, 'tasks': found,
    }  # fmt: skip


def trained_on(folder: Path) -> dict[str, Any] | None:
    """The data section of the run that trained the folder's model on text, its base's where it is tuned; None: no run
    says."""
    from gpt_jax import pretrained
    from gpt_jax.train import manifest

    if not (folder / 'checkpoints').is_dir():
        return None
    meta = manifest.newest_meta(folder / 'checkpoints')
    config = {} if meta is None else meta['config']
    if config.get('init_from'):
        return trained_on(pretrained.chosen(Path(config['init_from']), None))
    known = bool(meta and meta['fingerprint']) and config.get('task', {'kind': 'none'})['kind'] == 'none'
    return overrides.defaults()['data'] | config['data'] if known else None


def _fitting(
    names: Sequence[str], asked: Any, model: Any, data: dict[str, Any] | None, say: Say
) -> list[Any]:  # fmt: skip
    """The tasks with their questions; one of which the context has room for no question is left out, and said."""
    from gpt_jax.modes import suite_tasks

    made = []
    for name in names:
        task = suite_tasks.load(name, asked, (data or {}).get('cache', ''), say)
        try:
            made.append(suite_tasks.fitting(task, model.tokenizer.encode_batch, model.config.context, say))
        except UserError as error:
            if len(names) == 1:
                raise
            say(f'left out: {error}')
    return made


def _dirty(tasks: Sequence[Any], about: Any, overlap: int, documents: Callable[..., Any]) -> dict[str, Any]:
    """Of each task, which questions stand in the training text, any of their texts; {} where that is not known or not
    to be looked at."""
    import numpy as np

    from gpt_jax.evaluate import contamination

    if not overlap or not tasks:
        return {}
    if about.data is None:
        about.say('contamination: not looked for, for no run says what the model was trained on; --corpus names it')
        return {}
    about.line.note(f'looking for the questions in {about.data["source"]}')
    texts = [one.texts for task in tasks for one in task.questions]
    flat = [text for some in texts for text in some]
    # What a person calls the training text is all of it; of a run's source, its train split is.
    read = documents(about, '', *(() if about.given else ('train',)))
    parts = contamination.find(flat, read, overlap)
    ends = np.cumsum([len(some) for some in texts])
    share = np.array([part.max(initial=0.0) for part in np.split(parts.share, ends[:-1])])
    short = np.array([bool(part.all()) for part in np.split(parts.short, ends[:-1])])
    found = parts._replace(share=share, short=short)
    made, at = {}, 0
    for task in tasks:
        part = slice(at, at + len(task.questions))
        made[task.name] = found._replace(share=found.share[part], short=found.short[part])
        at += len(task.questions)
    return made


def _clean(results: Sequence[Any], found: Any, scores: Callable[..., Any]) -> dict[str, Any]:
    """What stands in the training text, and the scores of what does not."""
    from gpt_jax.evaluate import contamination

    if found is None:
        return {'contamination': None}
    clean = [one for one, good in zip(results, found.clean(), strict=True) if good]
    some = scores(clean) if clean and len(clean) < len(results) else {}
    return {
        'contamination': contamination.report(found),
        **{f'clean_{name}': value for name, value in some.items() if name in SHOWN},
    }


def _answered(task: Any, model: Any, line: Any, asked: Any, run_code: bool, say: Say) -> dict[str, Any]:
    """The task's metrics of what the model writes."""
    import numpy as np

    from gpt_jax.data.shots import SEPARATOR
    from gpt_jax.evaluate import code, metrics
    from gpt_jax.generate.batching import Prompt
    from gpt_jax.modes import answers

    names = [name for name in task.task.metrics or answers.USUAL if run_code or not metrics.PASS_AT.fullmatch(name)]
    if len(names) < len(task.task.metrics or answers.USUAL):
        say(f'{task.name}: {code.WARNING}')
    rights = [one.example.references[0] for one in task.questions]
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
        answers.Written(prompt.text, tuple(text for some in each for text in some[number]), one.example)
        for number, (prompt, one) in enumerate(zip(prompts, task.questions, strict=True))
    ]
    return {name: answers.score(name, written, allowed=run_code) for name in names}
