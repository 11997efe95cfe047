"""Score a model on tasks, by log-probability and generated text, and write reports on it.

With --records: measure the loss of several models on one text, and append a row for each to a file
that `gpt-jax fit` reads; models that the file has already are skipped.

Tasks are names from gpt_jax/tasks/catalog.py or paths of config files. Reports: text (bits per byte
and perplexity), bias, degeneration (repetition) and memorization.

examples:
  gpt-jax eval runs/tiny_192 --tasks=sentiment,pairs,translation --output=scores.json
  gpt-jax eval runs/tiny_192 --tasks=pairs --num_fewshot=1
  gpt-jax eval runs/tiny_192 --tasks=bias:crows_pairs:crows_pairs.csv
  gpt-jax eval runs/small runs/large --text=heldout.txt --records=ours.jsonl
"""

import argparse
import dataclasses
import json
from pathlib import Path

from gpt_jax.cli.arguments import add_model_arguments, check_output, parse_natural, parse_path
from gpt_jax.core import command, files
from gpt_jax.core.config import REPORTS_ON_TEXT, SuiteConfig
from gpt_jax.core.errors import UserError

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
SUITE_FLAGS = ('num_fewshot', 'max_examples', 'seed', 'contamination_ngram')
REPORTS = (*REPORTS_ON_TEXT, 'bias')
SUITE_FIELDS = {field.name: field.metadata for field in dataclasses.fields(SuiteConfig)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser, nargs='+')
    parser.add_argument(
        '--tasks',
        metavar='NAME,...',
        help=f'tasks and reports (default: {",".join(DEFAULT_TASKS)})',
    )
    parser.add_argument(
        '--output', type=parse_path, metavar='FILE', help='write all numbers as JSON'
    )
    for name in SUITE_FLAGS:
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
    parser.add_argument(
        '--records',
        type=parse_path,
        metavar='FILE',
        help='append the loss of each model on --text, a row for each, to this .jsonl file',
    )
    parser.add_argument(
        '--text',
        metavar='SOURCE',
        help='the text for --records, all of it: a file, a glob, files:GLOB or tfds:NAME',
    )
    parser.add_argument(
        '--tokens',
        metavar='NUMBER|TABLE',
        help='tokens that the models were trained on: a number for all, or a table with the '
        'columns checkpoint and tokens; runs know their own',
    )
    parser.add_argument(
        '--context',
        type=parse_natural,
        default=0,
        help="input tokens per window of --text (default: each model's context)",
    )


def run(arguments: argparse.Namespace) -> None:
    _check_mode(arguments)
    if arguments.records is not None:
        _write_records(arguments)
    else:
        _run_suite(arguments)


def _check_mode(arguments: argparse.Namespace) -> None:
    """Raise UserError for flags that do not go together with or without --records."""
    is_ladder = arguments.records is not None
    if not is_ladder and len(arguments.model) > 1:
        raise UserError(f'MODEL: must be one without --records, got {len(arguments.model)}')
    if is_ladder and arguments.text is None:
        raise UserError(
            '--records: must be used with --text, the text that the models are scored on'
        )
    defaults = {name: SUITE_FIELDS[name]['default'] for name in SUITE_FLAGS}
    defaults |= {'tasks': None, 'output': None, 'corpus': '', 'run_code': False}
    if not is_ladder:
        defaults = {'text': None, 'tokens': None, 'context': 0}
    for name, default in defaults.items():
        if getattr(arguments, name) != default:
            word = 'without' if is_ladder else 'with'
            raise UserError(f'--{name}: must be used {word} --records')


def _write_records(arguments: argparse.Namespace) -> None:
    check_output(arguments.records, '--records')
    from gpt_jax.evaluation import ladder_checkpoints, ladder_records

    is_source = arguments.text.startswith(('files:', 'tfds:'))
    options = ladder_records.RecordOptions(
        source=arguments.text if is_source else f'files:{arguments.text}',
        context=arguments.context,
        stride=arguments.stride,
        weight_dtype=arguments.weight_dtype,
        devices=arguments.devices,
    )
    if arguments.tokens is None:
        tokens = {}
    elif (table := files.check_path(arguments.tokens, '--tokens')).is_file():
        tokens = ladder_checkpoints.read_tokens_table(table)
    else:
        number = ladder_checkpoints.parse_tokens(arguments.tokens, '--tokens')
        tokens = dict.fromkeys(arguments.model, number)
    path = Path(arguments.records)
    rows = []
    for row in ladder_records.write_records(arguments.model, tokens, path, options, command.log):
        print(ladder_records.describe_row(row), flush=True)
        rows.append(row)
    for line in ladder_records.describe_comparability(rows, path):
        command.log(line)


def _run_suite(arguments: argparse.Namespace) -> None:
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
    results = suite.run_suite(arguments.model[0], suite_config, mode, command.log)
    print(suite.format_table(results['tasks']))
    if arguments.output is not None:
        with files.name_errors(arguments.output):
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
