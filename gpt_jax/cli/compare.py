"""Measure the compute multiplier of recipes: what A needs for a loss over what another needs.

The loss that each recipe reaches with a budget is fitted to all of its runs. Costs are counted
alike in all files, or the files are refused. With more than two recipes, they are ranked.

examples:
  gpt-jax compare old.jsonl new.jsonl --plots=figures
  gpt-jax compare base.csv b.csv c.csv --at_flops=1e22 --at_loss=2.5,2.4
  gpt-jax compare dense.csv experts.csv --by=seconds
"""

import argparse

from gpt_jax.cli import arguments as shared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'base', type=shared.parse_path, metavar='A', help='runs of the recipe to compare with'
    )
    parser.add_argument(
        'others',
        type=shared.parse_path,
        nargs='+',
        metavar='B',
        help='runs of one or more other recipes',
    )
    shared.add_table_arguments(parser)
    parser.add_argument(
        '--by',
        default='flops',
        choices=['flops', 'seconds'],
        help='cost: training FLOPs, or the column seconds (default: %(default)s)',
    )
    parser.add_argument(
        '--at_loss',
        type=shared.parse_numbers,
        default=(),
        metavar='LOSS,...',
        help='losses to compare at (default: the lowest that all reach)',
    )
    for cost in ('flops', 'seconds'):
        parser.add_argument(
            f'--at_{cost}',
            type=shared.parse_numbers,
            default=(),
            metavar='BUDGET,...',
            help=f'budgets to compare at with --by={cost} (default: the largest that all have)',
        )
    parser.add_argument(
        '--shared_exponents',
        action='store_true',
        help='fit one set of exponents to all recipes (arXiv 2602.07712), with own E, A and B',
    )
    parser.add_argument(
        '--draws',
        type=shared.parse_required_draws,
        default=1000,
        help='refits with new noise, for the intervals (default: %(default)s)',
    )
    shared.add_seed_argument(parser)
    parser.add_argument(
        '--json', type=shared.parse_path, metavar='PATH', help='write all numbers as JSON'
    )
    parser.add_argument(
        '--plots', type=shared.parse_path, metavar='FOLDER', help='write the figure as PNG and SVG'
    )


def run(arguments: argparse.Namespace) -> None:
    from gpt_jax.core.errors import UserError
    from gpt_jax.scaling import comparison, recipe_files
    from gpt_jax.scaling.report import comparison_text, terminal

    other = 'seconds' if arguments.by == 'flops' else 'flops'
    if getattr(arguments, f'at_{other}'):
        raise UserError(
            f'--at_{other}: requires --by={other}; a budget here is --at_{arguments.by}'
        )
    paths = [arguments.base, *arguments.others]
    options = shared.table_options(arguments)
    recipes, notes = recipe_files.read_recipes(paths, by=arguments.by, **options)
    result = comparison.compare_recipes(
        recipes,
        by=arguments.by,
        at_loss=arguments.at_loss,
        at_cost=getattr(arguments, f'at_{arguments.by}'),
        shared_exponents=arguments.shared_exponents,
        draws=arguments.draws,
        seed=arguments.seed,
    )
    result['files'] = paths
    result['conventions'] = recipe_files.describe_conventions(recipes, arguments.by)
    result['notes'] = [*(note for one in recipes for note in one.notes), *notes]
    dropped = [line for rows in result['left_out'] for line in terminal.format_left_out(rows)]
    lines = comparison_text.format_comparison(result)
    terminal.print_lines([*terminal.format_notes(result['notes']), *dropped, *lines])
    terminal.write_numbers(result, arguments.json)
    if arguments.plots:
        from gpt_jax.scaling.report import comparison_figure

        terminal.print_figure_paths(comparison_figure.draw_comparison(result, arguments.plots))
