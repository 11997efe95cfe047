"""Measure the compute multiplier of two recipes: what A needs for a loss over what B needs.

example:
  gpt-jax compare old.jsonl new.jsonl --plots=figures
"""

import argparse

from gpt_jax.cli import arguments as shared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('a', type=shared.parse_path, metavar='A', help='runs of the first recipe')
    parser.add_argument('b', type=shared.parse_path, metavar='B', help='runs of the second recipe')
    shared.add_table_arguments(parser)
    parser.add_argument(
        '--draws',
        type=shared.parse_required_draws,
        default=500,
        help='bootstrap resamples (default: %(default)s)',
    )
    shared.add_seed_argument(parser)
    parser.add_argument(
        '--json', type=shared.parse_path, metavar='PATH', help='write all numbers as JSON'
    )
    parser.add_argument(
        '--plots', type=shared.parse_path, metavar='FOLDER', help='write the figure as PNG and SVG'
    )


def run(arguments: argparse.Namespace) -> None:
    from gpt_jax.scaling import comparison, rows
    from gpt_jax.scaling.report import terminal
    from gpt_jax.scaling.runs import read_runs

    paths = (arguments.a, arguments.b)
    names = [rows.list_columns(path) for path in paths]
    runs = []
    for path, columns_here, columns_there in zip(paths, names, reversed(names), strict=True):
        # A column that only the other file has is not required of this one.
        columns = {
            theirs: ours
            for theirs, ours in arguments.columns.items()
            if theirs in columns_here or theirs not in columns_there
        }
        runs.append(read_runs(path, **shared.table_options(arguments) | {'columns': columns}))
    result = comparison.compare_recipes(*runs, draws=arguments.draws, seed=arguments.seed)
    result['files'] = [arguments.a, arguments.b]
    notes = [line for one in runs for line in terminal.format_notes(one.notes)]
    dropped = [line for rows_ in result['left_out'] for line in terminal.format_left_out(rows_)]
    terminal.print_lines([*notes, *dropped, *terminal.format_comparison(result)])
    terminal.write_numbers(result, arguments.json)
    if arguments.plots:
        from gpt_jax.scaling.report import fit_figures

        terminal.print_figure_paths(fit_figures.draw_comparison(result, arguments.plots))
