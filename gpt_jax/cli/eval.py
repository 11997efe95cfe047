"""Score a model on tasks, by log-probability and generated text, and write reports on it.

Tasks are names from gpt_jax/tasks/catalog.py or paths of config files. Reports: text (bits per byte
and perplexity), bias, degeneration (repetition) and memorization.

examples:
  gpt-jax eval runs/tiny_192 --tasks=sentiment,pairs,translation --output=scores.json
  gpt-jax eval runs/tiny_192 --tasks=pairs --num_fewshot=1
  gpt-jax eval runs/tiny_192 --tasks=bias:crows_pairs:crows_pairs.csv
"""

import argparse
import dataclasses
import json
from pathlib import Path

from gpt_jax.cli.arguments import add_model_arguments, check_output, parse_natural, parse_path
from gpt_jax.core import command
from gpt_jax.core.config import REPORTS_ON_TEXT, SuiteConfig

DEFAULT_TASKS = (
    'sentiment',
    'pairs',
    'choices',
    'preferences',
    'translation',
    'text',
    'bias',
    'degeneration',
)
REPORTS = (*REPORTS_ON_TEXT, 'bias')
SUITE_FIELDS = {field.name: field.metadata for field in dataclasses.fields(SuiteConfig)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument(
        '--tasks',
        metavar='NAME,...',
        help=f'tasks and reports (default: {",".join(DEFAULT_TASKS)})',
    )
    parser.add_argument(
        '--output', type=parse_path, metavar='FILE', help='write all numbers as JSON'
    )
    for name in ('num_fewshot', 'max_examples', 'seed', 'contamination_ngram'):
        default, doc = SUITE_FIELDS[name]['default'], SUITE_FIELDS[name]['doc']
        text = f'{doc[0].lower()}{doc[1:].removesuffix(".")} (default: %(default)s)'
        parser.add_argument(f'--{name}', type=parse_natural, default=default, help=text)
    parser.add_argument(
        '--stride',
        type=parse_natural,
        default=0,
        help="tokens from one window of a long text to the next (default: the model's context)",
    )
    parser.add_argument(
        '--corpus',
        default='',
        metavar='SOURCE',
        help="the model's training text, files:GLOB or tfds:NAME, if no run folder names it",
    )
    parser.add_argument(
        '--run_code',
        action='store_true',
        help='run generated programs for pass@k, with your permissions; not sandboxed',
    )


def run(arguments: argparse.Namespace) -> None:
    check_output(arguments.output)
    suite_config = SuiteConfig(
        tasks=tuple(split_tasks(arguments.tasks or ','.join(DEFAULT_TASKS))),
        every=0,
        max_examples=arguments.max_examples,
        num_fewshot=arguments.num_fewshot,
        seed=arguments.seed,
        contamination_ngram=arguments.contamination_ngram,
    )
    from gpt_jax.evaluation import suite

    mode = suite.EvalMode(
        arguments.corpus,
        arguments.stride or None,
        arguments.weight_dtype,
        arguments.devices,
        arguments.run_code,
        bool(arguments.tasks),
    )
    results = suite.run_suite(arguments.model, suite_config, mode, command.log)
    print(suite.format_table(results['tasks']))
    if arguments.output is not None:
        Path(arguments.output).write_text(json.dumps(results, indent=1) + '\n')
        command.log(f'{arguments.output}: written')


def split_tasks(text: str) -> list[str]:
    """Split at commas, except between the files of a report: 'bias:winobias:A,B' is one task."""
    from gpt_jax.tasks.catalog import TASKS

    names: list[str] = []
    for part in filter(None, text.split(',')):
        is_file = names and ':' in names[-1] and part.partition(':')[0] not in (*REPORTS, *TASKS)
        if is_file:
            names[-1] += f',{part}'
        else:
            names.append(part)
    return names
