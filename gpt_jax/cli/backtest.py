"""Measure how good forecasts would have been on your own runs: fit the smaller, predict the larger.

For growing extrapolation (3, 10, 30 and 100 times the compute), prints the errors and the share of
intervals that contain the loss, beside two baselines: no change, and a line through the last two
amounts of compute.

examples:
  gpt-jax backtest runs.csv --plots=figures
  gpt-jax backtest runs/isoflop/records.jsonl --law=all --json=backtest.json
  gpt-jax backtest curves.csv --over=D --group=task,model --split=training --law=auto,power
"""

import argparse
import sys

from gpt_jax.cli import arguments as shared
from gpt_jax.core.errors import UserError

BACKTEST_LAWS = (*shared.LAWS_OF_TWO_VARIABLES, 'all')
CURVE_LAWS = ('auto', 'power', 'broken', 'ladder')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared.add_data_argument(parser)
    shared.add_table_arguments(parser)
    parser.add_argument(
        '--law',
        default='',
        metavar='NAME,...',
        help=f'laws to compare: {", ".join(BACKTEST_LAWS)} (every law that the columns allow), or '
        f'dotted paths; with --over: {", ".join(CURVE_LAWS)} (default: auto,chinchilla, or with '
        '--over auto,power)',
    )
    parser.add_argument(
        '--over',
        choices=['N', 'D', 'C'],
        help='DATA are points of curves over this one variable, such as checkpoints',
    )
    parser.add_argument(
        '--group',
        default='',
        metavar='COLUMN,...',
        help='with --over: the columns that name a curve',
    )
    parser.add_argument(
        '--split',
        default='',
        metavar='COLUMN',
        help='with --over: the column that is 1 for the points to fit and 0 for those to forecast '
        '(default: those above 1/2, 1/4 and 1/8 of the largest are forecast)',
    )
    shared.add_seed_argument(parser)
    parser.add_argument(
        '--json',
        type=shared.parse_path,
        metavar='PATH',
        help='write the scores and every rollout as JSON',
    )
    parser.add_argument(
        '--plots', type=shared.parse_path, metavar='FOLDER', help='write the figure as PNG and SVG'
    )


def run(arguments: argparse.Namespace) -> None:
    if arguments.over:
        _run_curves(arguments)
        return
    for name in ('group', 'split'):
        if getattr(arguments, name):
            raise UserError(f'--{name}: needs --over, the variable of the curves')
    laws = tuple((arguments.law or 'auto,chinchilla').split(','))
    for law in laws:
        shared.check_law(law, BACKTEST_LAWS)
    from gpt_jax.core.progress import Progress
    from gpt_jax.scaling import rollouts
    from gpt_jax.scaling.report import terminal
    from gpt_jax.scaling.runs import read_runs

    runs = read_runs(arguments.data, **shared.table_options(arguments))
    terminal.print_lines(
        [*terminal.format_notes(runs.notes), *terminal.format_left_out(runs.left_out)]
    )
    if 'all' in laws:
        laws = rollouts.list_laws(runs)
    progress = Progress(sys.stderr, trial=None, name='backtest', steps=1)
    try:
        made = rollouts.run_backtest(runs, laws=laws, seed=arguments.seed, note=progress.note)
    finally:
        progress.close()
    rows = rollouts.summarize_rollouts(made)
    terminal.print_lines(terminal.format_backtest(rows))
    for law in sorted(set(laws) - {row['law'] for row in rows}):
        terminal.print_lines([f'law {law}: the runs of no origin can determine it'])
    numbers = {'scores': rows, 'rollouts': [rollout._asdict() for rollout in made]}
    terminal.write_numbers(numbers, arguments.json)
    if arguments.plots:
        from gpt_jax.scaling.report import rollout_figures

        terminal.print_figure_paths(rollout_figures.draw_rollouts(made, arguments.plots))


def _run_curves(arguments: argparse.Namespace) -> None:
    """Forecast the later points of curves from the earlier ones."""
    laws = tuple((arguments.law or 'auto,power').split(','))
    for law in laws:
        if law not in CURVE_LAWS:
            raise UserError(f'--law: with --over, one of {", ".join(CURVE_LAWS)}, got {law!r}')
    from gpt_jax.core.progress import Progress
    from gpt_jax.scaling import analysis, curves
    from gpt_jax.scaling.report import terminal

    read = curves.read_curves(
        arguments.data,
        over=arguments.over,
        group=tuple(filter(None, arguments.group.split(','))),
        split=arguments.split,
        columns=arguments.columns,
    )
    progress = Progress(sys.stderr, trial=None, name='backtest', steps=1)
    try:
        scores = curves.score_curves(read, laws, note=progress.note)
    finally:
        progress.close()
    if not scores:
        raise UserError(
            f'{arguments.data}: no curve has enough points to fit and others to forecast; --group '
            'names the columns that tell curves apart, --split the points to fit'
        )
    rows = curves.summarize_scores(scores)
    terminal.print_lines(terminal.format_curve_scores(rows))
    numbers = {'scores': rows, 'curves': [score._asdict() for score in scores]}
    terminal.write_numbers(analysis.nan_to_none(numbers), arguments.json)
