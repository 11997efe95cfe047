"""Predict the loss of a run in advance, and append it to a ledger with its interval and date.

examples:
  gpt-jax forecast runs.jsonl --params=1e9 --tokens=2e10
  gpt-jax forecast runs.jsonl --config=configs/gpt_350m.py --ledger=forecasts.jsonl
"""

import argparse

from gpt_jax.cli import arguments as shared
from gpt_jax.core.errors import UserError

# 'repeated' is missing: a planned run would also need its unique tokens.
FORECAST_LAWS = ('auto', 'chinchilla', 'tied', 'kaplan', 'power')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'data', type=shared.parse_path, metavar='DATA', help='the runs to forecast from'
    )
    shared.add_table_arguments(parser)
    parser.add_argument(
        '--config',
        type=shared.parse_path,
        metavar='PATH',
        help='config file of the run; or give --params and --tokens',
    )
    parser.add_argument(
        '--params', type=shared.parse_positive, help='parameters of the run, counted as in DATA'
    )
    parser.add_argument('--tokens', type=shared.parse_positive, help='training tokens of the run')
    parser.add_argument(
        '--trial', default='', metavar='NAME', help='the trial, if --config is a sweep'
    )
    parser.add_argument('--name', default='', help='name of the run in the ledger')
    parser.add_argument(
        '--law',
        default='auto',
        help=f'form of the law: {", ".join(FORECAST_LAWS)}, or a dotted path; auto allows for the '
        'error of the form; power is over N alone, for a ladder at one token count (default: '
        '%(default)s)',
    )
    parser.add_argument(
        '--draws',
        type=shared.parse_required_draws,
        default=500,
        help='bootstrap resamples; auto needs none (default: %(default)s)',
    )
    shared.add_seed_argument(parser)
    parser.add_argument(
        '--ledger',
        type=shared.parse_path,
        default='forecasts.jsonl',
        metavar='PATH',
        help='file to append to (default: %(default)s)',
    )


def run(arguments: argparse.Namespace) -> None:
    sizes = [size for size in (arguments.params, arguments.tokens) if size is not None]
    if arguments.config and sizes:
        raise UserError('--config: not with --params or --tokens, which it determines')
    if not arguments.config and len(sizes) < 2:
        raise UserError('the run is missing: give --config=PATH, or --params=N and --tokens=D')
    shared.check_law(arguments.law, FORECAST_LAWS)
    if arguments.trial and not arguments.config:
        raise UserError('--trial: needs --config, the sweep that the trial is part of')
    from gpt_jax.scaling import forecast_ledger, rollouts
    from gpt_jax.scaling.forecast import forecast_run
    from gpt_jax.scaling.plan import shapes
    from gpt_jax.scaling.report import terminal
    from gpt_jax.scaling.runs import read_runs

    if arguments.config:
        planned = shapes.read_planned_run(
            arguments.config, count=arguments.count, trial=arguments.trial
        )
    else:
        name = f'{arguments.params:.4g} on {arguments.tokens:.4g}'
        planned = shapes.PlannedRun(name, arguments.params, arguments.tokens, '')
    runs = read_runs(arguments.data, **shared.table_options(arguments))
    widening, scores = 1.0, None
    if arguments.law == 'auto' and rollouts.find_origins(runs.flops):
        made = rollouts.run_backtest(runs, laws=('auto',), baselines=())
        extrapolation = planned.params * planned.tokens / (runs.params * runs.tokens).max()
        widening, scores = rollouts.find_widening(made, extrapolation)
    forecast = forecast_run(
        runs,
        planned.params,
        planned.tokens,
        law=arguments.law,
        draws=arguments.draws,
        seed=arguments.seed,
        name=arguments.name or planned.name,
        widening=widening,
    )
    if scores:
        forecast['rollouts'] = scores
    if planned.config_hash:
        forecast['config_hash'] = planned.config_hash
    terminal.print_lines(
        [*terminal.format_notes(runs.notes), *terminal.format_left_out(forecast['left_out'])]
    )
    line = forecast_ledger.append_forecast(arguments.ledger, forecast)
    terminal.print_lines(terminal.format_forecast(line, arguments.ledger))
