"""Score every forecast of a ledger against the finished runs: its error and its interval.

example:
  gpt-jax verify forecasts.jsonl --runs=records.jsonl
"""

import argparse

from gpt_jax.cli import arguments as shared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'ledger',
        type=shared.parse_path,
        metavar='LEDGER',
        help='ledger written by gpt-jax forecast',
    )
    parser.add_argument(
        '--runs', type=shared.parse_path, required=True, metavar='DATA', help='the finished runs'
    )
    shared.add_column_arguments(parser)
    parser.add_argument(
        '--json', type=shared.parse_path, metavar='PATH', help='write all numbers as JSON'
    )


def run(arguments: argparse.Namespace) -> None:
    from gpt_jax.scaling import forecast_ledger
    from gpt_jax.scaling.report import terminal

    result = forecast_ledger.verify_ledger(
        arguments.ledger,
        arguments.runs,
        columns=arguments.columns,
        count=arguments.count,
        loss_unit=arguments.loss_unit,
    )
    terminal.print_lines(
        [
            *terminal.format_notes(result['notes']),
            *terminal.format_left_out(result['left_out']),
            *terminal.format_verification(result),
        ]
    )
    terminal.write_numbers(result, arguments.json)
