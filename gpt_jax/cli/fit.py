"""Fit a scaling law to runs: constants, intervals, held-out errors, and the rows left out.

examples:
  gpt-jax fit runs/ladder_cpu/records.jsonl
  gpt-jax fit runs.csv --approach=all --at_flops=5.88e23 --plots=figures --json=fit.json
  gpt-jax fit runs.csv --columns=N=params,D=tokens,val=loss --holdout='flops>=1e21'
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_jax.cli import arguments as shared
from gpt_jax.core.errors import UserError

if TYPE_CHECKING:
    from gpt_jax.scaling.runs import Runs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared.add_data_argument(parser)
    shared.add_table_arguments(parser)
    shared.add_law_arguments(parser, approach='3')
    parser.add_argument(
        '--json', type=shared.parse_path, metavar='PATH', help='write all numbers as JSON'
    )
    parser.add_argument(
        '--plots', type=shared.parse_path, metavar='FOLDER', help='write the figures as PNG and SVG'
    )


def run(arguments: argparse.Namespace) -> None:
    shared.resolve_law_arguments(arguments, approach='3')
    from gpt_jax.scaling import analysis
    from gpt_jax.scaling.report import terminal
    from gpt_jax.scaling.runs import read_runs

    runs = read_runs(arguments.data, **shared.table_options(arguments))
    try:
        result, lines = _fit(runs, arguments)
    except UserError:  # may be due to how the runs were read
        terminal.print_lines(terminal.format_notes(runs.notes))
        raise
    terminal.print_lines(lines)
    terminal.write_numbers(result, arguments.json)
    if arguments.plots and arguments.law == 'power':
        from gpt_jax.scaling.report import scaling_curve

        if 'forecast' not in result:
            raise UserError(
                '--plots: too few sizes to hold out the largest, as the figure requires'
            )
        path = Path(arguments.plots) / f'power_{arguments.over}.png'
        terminal.print_figure_paths(
            scaling_curve.draw_scaling_curve(*analysis.to_ladder_records(result), path)
        )
    elif arguments.plots:
        from gpt_jax.scaling.report import fit_figures

        terminal.print_figure_paths(fit_figures.draw_fit_figures(result, arguments.plots))


def _fit(runs: 'Runs', arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Return the result of the fit, and its lines for the terminal."""
    from gpt_jax.scaling import analysis
    from gpt_jax.scaling.report import terminal
    from gpt_jax.scaling.robust_fit import HUBER_DELTA

    if arguments.law == 'broken':
        for name in ('plots', 'no_irreducible'):
            if getattr(arguments, name):
                raise UserError(f'--{name}: not with --law=broken')
        result = analysis.analyze_broken_law(
            runs,
            arguments.over,
            delta=arguments.delta or HUBER_DELTA,
            keep_outliers=arguments.keep_outliers,
        )
        return result, terminal.format_broken_fit(result, arguments.over)
    if arguments.law == 'power':
        result = analysis.analyze_power_law(
            runs,
            arguments.over,
            irreducible=not arguments.no_irreducible,
            delta=arguments.delta or HUBER_DELTA,
            draws=arguments.draws,
            seed=arguments.seed,
            keep_outliers=arguments.keep_outliers,
        )
        return result, terminal.format_power_fit(result, arguments.over)
    result = analysis.analyze_parametric(runs, **shared.fit_options(arguments))
    lines = terminal.format_fit(result)
    if 'downstream' in result:
        lines += terminal.format_downstream(result['downstream'])
    return result, lines
