"""What of the suite is asked for? Its flags; light, for every command defines them."""

import json
from collections.abc import Callable
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
    from gpt_jax.modes import suite_run, suite_table
    from gpt_jax.modes.suite_run import Way

    seed = int(flags.FLAGS.seed or 0)
    asked = SuiteConfig(tuple(names), 0, numbers['examples'], numbers['shots'], seed, numbers['overlap'])
    way = Way(given['corpus'] or '', numbers['stride'] or None, weights, devices, run_code, bool(given['tasks']))
    found = suite_run.suite(checkpoint, asked, way, say)
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
