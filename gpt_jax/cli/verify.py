"""Score every forecast of a ledger against the finished runs: its error and its interval.

example:
  gpt-jax verify forecasts.jsonl --runs=records.jsonl
"""

import argparse
import functools
from typing import Any

from gpt_jax.cli import arguments as shared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('ledger', metavar='LEDGER', help='ledger written by gpt-jax forecast')
    parser.add_argument('--runs', required=True, metavar='DATA', help='the finished runs')
    shared.add_table_arguments(parser)
    parser.add_argument('--json', metavar='PATH', help='write all numbers as JSON')


def run(arguments: argparse.Namespace) -> None:
    from gpt_jax.scaling import forecast_ledger, rows
    from gpt_jax.scaling.report import terminal
    from gpt_jax.scaling.runs import read_runs

    forecasts = forecast_ledger.read_ledger(arguments.ledger)
    runs = read_runs(arguments.runs, **shared.table_options(arguments), for_fitting=False)
    counts = set() if arguments.count else rows.list_param_counts(arguments.runs, arguments.columns)

    def runs_by_count(count: str) -> Any:
        """Return the runs, with N counted as in the forecast if the file has that count."""
        if count not in counts:
            return runs
        return read_runs(arguments.runs, columns=arguments.columns, count=count, for_fitting=False)

    result = forecast_ledger.verify_forecasts(forecasts, functools.cache(runs_by_count))
    result['left_out'] = runs.left_out
    terminal.print_lines(
        [*terminal.format_left_out(runs.left_out), *terminal.format_verification(result)]
    )
    terminal.write_numbers(result, arguments.json)
