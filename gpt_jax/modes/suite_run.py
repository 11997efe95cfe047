"""What can a trained model do? Tasks, zero- or few-shot, and reports on it, as a table and in a file."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from gpt_jax import schema
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
    names = [name for name in (given['tasks'] or ','.join(USUAL)).split(',') if name]
    if output is not None and not Path(output).resolve().parent.is_dir():
        raise UserError(f'--output={output}: there is no such folder')
    from gpt_jax.evaluate.config import SuiteConfig

    asked = SuiteConfig(tuple(names), 0, numbers['examples'], numbers['shots'], int(flags.FLAGS.seed or 0))
    found = _suite(checkpoint, asked, given['corpus'] or '', numbers, weights, devices, run_code, say)
    print(table(found['tasks']))
    if output is not None:
        Path(output).write_text(json.dumps(found, indent=1) + '\n')
        say(f'{output}: written')


def _suite(
    checkpoint: str, asked: Any, corpus: str, numbers: dict[str, int], weights: str, devices: dict[str, int],
    run_code: bool, say: Say,
) -> dict[str, Any]:  # fmt: skip
    from gpt_jax import language_model, overrides
    from gpt_jax.modes import suite_reports, suite_tasks
    from gpt_jax.modes.suite_reports import REPORTS, About
    from gpt_jax.observe.progress import Progress
    from gpt_jax.train import manifest

    words = {word: REPORTS[word.partition(':')[0]] for word in asked.tasks if word.partition(':')[0] in REPORTS}
    for name in asked.tasks:
        if name not in words:
            suite_tasks.read(name)  # what is wrong with it is said before the model is loaded
    model = language_model.load(checkpoint, draft=None, weights=weights, say=say, **devices)
    folder = Path(checkpoint)
    meta = manifest.newest_meta(folder / 'checkpoints') if (folder / 'checkpoints').is_dir() else None
    known = None if meta is None else overrides.defaults() | meta['config']
    own = str(known['data']['source']) if known and meta and meta['fingerprint'] and not known['init_from'] else ''
    line = Progress(sys.stderr, trial=None, name='suite', steps=len(asked.tasks))
    about = About(
        model, known, corpus or own, asked.examples or 1 << 30, asked.seed, numbers['stride'] or None, line, say
    )  # fmt: skip
    tasks = [suite_tasks.load(name, asked, (known or overrides.defaults())['data']['cache'], say)
             for name in asked.tasks if name not in words]  # fmt: skip
    context = model.config.context
    tasks = [suite_tasks.fitting(task, model.tokenizer.encode_batch, context, say) for task in tasks]
    found: dict[str, Any] = {}
    dirty = _dirty(tasks, about, numbers['overlap'], suite_reports.documents)
    for task in tasks:
        line.note(f'asking {task.name}')
        results = suite_tasks.ask(task, model.score, blank=True)
        said: dict[str, Any] = {'questions': len(results), **suite_tasks.scores(results)}
        if results[0].question.right is None:
            said |= _answered(task, model, line, asked, run_code, say)
        said |= _clean(results, dirty.get(task.name), suite_tasks.scores)
        found[task.name] = said
    for word, report in words.items():
        line.note(word)
        found[word] = report(about, word.partition(':')[2])
    line.close()
    return {
        'checkpoint': checkpoint, 'step': None if meta is None else meta['next_batch'], 'weights': weights,
        'shots': asked.shots, 'seed': asked.seed, 'examples': asked.examples, 'tasks': found,
    }  # fmt: skip


def _dirty(tasks: Sequence[Any], about: Any, overlap: int, documents: Callable[..., Any]) -> dict[str, Any]:
    """Of each task, which questions stand in the training text; {} where that is not known or not to be looked at."""
    from gpt_jax.evaluate import contamination

    if not overlap or not tasks:
        return {}
    if not about.corpus:
        about.say('contamination: not looked for, for no run says what the model was trained on; --corpus names it')
        return {}
    about.line.note(f'looking for the questions in {about.corpus}')
    texts = [task.texts for task in tasks]
    found = contamination.find([text for some in texts for text in some], documents(about, '', 'train'), overlap)
    made, at = {}, 0
    for task, some in zip(tasks, texts, strict=True):
        part = slice(at, at + len(some))
        made[task.name] = found._replace(share=found.share[part], short=found.short[part])
        at += len(some)
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


def table(found: dict[str, dict[str, Any]]) -> str:
    """A line for each task, and for each number of a report."""
    rows = [('task', 'score', '', 'found in training')]
    for name, said in found.items():
        if 'questions' not in said:
            rows += [(name, key, _shown(value), '') for key, value in _flat(said)]
            continue
        dirty = said['contamination']
        overlap = '-' if dirty is None else f'{dirty["fraction_contaminated"]:.1%} of {dirty["examples"]}'
        about = [key for key in said if key not in ('questions', 'contamination', 'chance', 'error')]
        for number, key in enumerate(about):
            shown = _shown(said[key]) + (f' (chance {said["chance"]:.3f})' if key == 'accuracy' else '')
            rows.append((name if number == 0 else '', key, shown, overlap if number == 0 else ''))
    widths = [max(len(row[n]) for row in rows) for n in range(4)]
    rows.insert(1, tuple('-' * width for width in widths))  # type: ignore[arg-type]
    return '\n'.join(
        '  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _flat(said: dict[str, Any], before: str = '') -> list[tuple[str, Any]]:
    return [
        pair
        for key, value in said.items()
        for pair in (_flat(value, f'{before}{key} ') if isinstance(value, dict) else [(f'{before}{key}', value)])
    ]


def _shown(value: Any) -> str:
    return '-' if value is None else f'{value:,}' if isinstance(value, int) else f'{value:.4g}'
