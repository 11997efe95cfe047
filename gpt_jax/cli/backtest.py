"""Measure how good forecasts would have been on your own runs: fit the smaller, predict the larger.

For growing extrapolation (3, 10, 30 and 100 times the compute), prints the errors and the share of
intervals that contain the loss, beside two baselines: no change, and a line through the last two
amounts of compute.

examples:
  gpt-jax backtest runs.csv --plots=figures
  gpt-jax backtest runs/isoflop/records.jsonl --law=auto,chinchilla,kaplan --json=backtest.json
"""

import argparse
import sys

from gpt_jax.cli import arguments as shared

BACKTEST_LAWS = ('auto', 'chinchilla', 'tied', 'kaplan')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared.add_data_argument(parser)
    shared.add_table_arguments(parser)
    parser.add_argument(
        '--law',
        default='auto,chinchilla',
        metavar='NAME,...',
        help=f'laws to compare: {", ".join(BACKTEST_LAWS)}, or dotted paths (default: %(default)s)',
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
    laws = tuple(arguments.law.split(','))
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
