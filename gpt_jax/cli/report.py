"""Write one self-contained HTML file: the law, the split, the forecasts, the figures, every run.

If no law over N and D can be fitted, a power law takes its place.

example:
  gpt-jax report runs.jsonl --html=report.html --ledger=forecasts.jsonl
"""

import argparse
import sys

from gpt_jax.cli import arguments as shared
from gpt_jax.core.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared.add_data_argument(parser)
    shared.add_table_arguments(parser)
    shared.add_law_arguments(parser, approach='all')
    parser.add_argument(
        '--html',
        type=shared.parse_path,
        default='report.html',
        metavar='PATH',
        help='file to write (default: %(default)s)',
    )
    parser.add_argument(
        '--ledger',
        type=shared.parse_path,
        metavar='PATH',
        help='ledger of gpt-jax forecast, to score on DATA',
    )
    parser.add_argument(
        '--no_backtest',
        action='store_true',
        help='leave out how good forecasts of the larger runs would have been (saves seconds)',
    )


def run(arguments: argparse.Namespace) -> None:
    shared.resolve_law_arguments(arguments, approach='all')
    if arguments.law == 'broken':
        raise UserError('--law: broken is not in the report; use gpt-jax fit --law=broken')
    from gpt_jax.core.progress import Progress
    from gpt_jax.scaling.report import html_report, terminal

    progress = Progress(sys.stderr, trial=None, name='backtest', steps=1)
    try:
        lines = html_report.write_records_report(
            arguments.data,
            arguments.html,
            arguments.ledger,
            **shared.table_options(arguments),
            backtest=not arguments.no_backtest,
            note=progress.note,
            over=arguments.over,
            irreducible=not arguments.no_irreducible,
            **shared.fit_options(arguments),
        )
    finally:
        progress.close()
    terminal.print_lines(lines)
