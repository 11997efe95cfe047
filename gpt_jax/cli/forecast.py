"""Predict the loss of a run in advance, and append it to a ledger with its interval and date.

examples:
  gpt-jax forecast runs.jsonl --params=1e9 --tokens=2e10
  gpt-jax forecast runs.jsonl --config=configs/gpt_350m.py --ledger=forecasts.jsonl
  gpt-jax forecast runs.csv --targets=planned.csv --json=forecasts.json
"""

import argparse
from typing import TYPE_CHECKING

from gpt_jax.cli import arguments as shared
from gpt_jax.core.errors import UserError

if TYPE_CHECKING:
    from gpt_jax.scaling.plan import shapes
    from gpt_jax.scaling.rollouts import Rollout
    from gpt_jax.scaling.runs import Runs

FORECAST_LAWS = (*shared.LAWS_OF_TWO_VARIABLES, 'power', 'broken')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared.add_data_argument(parser)
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
        '--unique_tokens',
        type=shared.parse_positive,
        default=float('nan'),
        metavar='U',
        help='distinct tokens of the run, if it repeats some; auto and repeated use it '
        '(default: all are distinct)',
    )
    parser.add_argument(
        '--params_total',
        type=shared.parse_positive,
        default=float('nan'),
        metavar='N',
        help='parameters with all experts, where --params are the active ones; for --law=experts',
    )
    parser.add_argument(
        '--trial', default='', metavar='NAME', help='the trial, if --config is a sweep'
    )
    parser.add_argument('--name', default='', help='name of the run in the ledger')
    parser.add_argument(
        '--law',
        default='auto',
        help=f'form of the law: {", ".join(FORECAST_LAWS)}, or a dotted path; auto allows for the '
        'error of the form; power and broken are over N alone, for a ladder at one token count '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--draws',
        type=shared.parse_required_draws,
        default=500,
        help='bootstrap resamples; auto needs none (default: %(default)s)',
    )
    shared.add_seed_argument(parser)
    parser.add_argument(
        '--targets',
        type=shared.parse_path,
        metavar='FILE',
        help='forecast every run of this table by one fit: columns params, tokens, perhaps name, '
        'unique_tokens and params_total',
    )
    parser.add_argument(
        '--json',
        type=shared.parse_path,
        metavar='PATH',
        help='write the forecasts of --targets as a list: params, tokens, loss, low, high, level, '
        'law, ...',
    )
    parser.add_argument(
        '--ledger',
        type=shared.parse_path,
        metavar='PATH',
        help='file to append to (default: forecasts.jsonl; with --targets, none)',
    )


def run(arguments: argparse.Namespace) -> None:
    _check_arguments(arguments)
    from gpt_jax.scaling import rollouts
    from gpt_jax.scaling.runs import read_runs

    planned = None if arguments.targets else _find_planned_run(arguments)
    runs = read_runs(arguments.data, **shared.table_options(arguments))
    made = rollouts.run_own_backtest(runs) if arguments.law == 'auto' else []
    if planned is None:
        _forecast_targets(arguments, runs, made)
    else:
        _forecast_one(arguments, runs, made, planned)


def _check_arguments(arguments: argparse.Namespace) -> None:
    sizes = [size for size in (arguments.params, arguments.tokens) if size is not None]
    if arguments.config and sizes:
        raise UserError('--config: not with --params or --tokens, which it determines')
    if arguments.targets and (arguments.config or sizes or arguments.name):
        raise UserError('--targets: not with --config, --params, --tokens or --name')
    if not arguments.config and not arguments.targets and len(sizes) < 2:
        raise UserError(
            'the run is missing: give --config=PATH, --params=N and --tokens=D, or --targets=FILE'
        )
    shared.check_law(arguments.law, FORECAST_LAWS)
    if arguments.trial and not arguments.config:
        raise UserError('--trial: needs --config, the sweep that the trial is part of')
    if arguments.json and not arguments.targets:
        raise UserError('--json: needs --targets; one forecast is written to the --ledger')
    if arguments.targets and arguments.law in ('power', 'broken'):
        raise UserError(f'--targets: not with --law={arguments.law}, which is for one token count')


def _find_planned_run(arguments: argparse.Namespace) -> 'shapes.PlannedRun':
    from gpt_jax.scaling.plan import shapes

    if arguments.config:
        return shapes.read_planned_run(
            arguments.config, count=arguments.count, trial=arguments.trial
        )
    name = f'{arguments.params:.4g} on {arguments.tokens:.4g}'
    return shapes.PlannedRun(name, arguments.params, arguments.tokens, '')


def _forecast_one(
    arguments: argparse.Namespace, runs: 'Runs', made: 'list[Rollout]', planned: 'shapes.PlannedRun'
) -> None:
    """Forecast a run, and append it to the ledger."""
    from gpt_jax.scaling import forecast_ledger, rollouts
    from gpt_jax.scaling.forecast import forecast_run
    from gpt_jax.scaling.report import terminal

    widening, scores = rollouts.find_widening(made, runs, planned.params, planned.tokens)
    forecast = forecast_run(
        runs,
        planned.params,
        planned.tokens,
        law=arguments.law,
        draws=arguments.draws,
        seed=arguments.seed,
        name=arguments.name or planned.name,
        widening=widening,
        more={'unique_tokens': arguments.unique_tokens, 'params_total': arguments.params_total},
    )
    if scores:
        forecast['rollouts'] = scores
    if planned.config_hash:
        forecast['config_hash'] = planned.config_hash
    terminal.print_lines(
        [*terminal.format_notes(runs.notes), *terminal.format_left_out(forecast['left_out'])]
    )
    ledger = arguments.ledger or 'forecasts.jsonl'
    line = forecast_ledger.append_forecast(ledger, forecast)
    terminal.print_lines(terminal.format_forecast(line, ledger))


def _forecast_targets(arguments: argparse.Namespace, runs: 'Runs', made: 'list[Rollout]') -> None:
    """Forecast all runs of a table by one fit, and write them where the user asks for it."""
    from gpt_jax.scaling import forecast_ledger, rollouts
    from gpt_jax.scaling.forecast import fit_forecaster, predict_run
    from gpt_jax.scaling.report import terminal
    from gpt_jax.scaling.runs import read_targets

    targets = read_targets(arguments.targets, columns=arguments.columns, count=arguments.count)
    law = arguments.law
    fitted = fit_forecaster(runs, law, draws=arguments.draws, seed=arguments.seed)
    forecasts = []
    for name, params, tokens, unique_tokens, params_total in targets:
        more = {'unique_tokens': unique_tokens, 'params_total': params_total}
        widening, scores = rollouts.find_widening(made, runs, params, tokens)
        forecast = predict_run(
            fitted, params, tokens, law=law, name=name, widening=widening, more=more
        )
        forecasts.append(forecast | ({'rollouts': scores} if scores else {}))
    terminal.print_lines(
        [*terminal.format_notes(runs.notes), *terminal.format_left_out(fitted.runs.left_out)]
    )
    terminal.print_lines(terminal.format_forecasts(forecasts))
    terminal.write_numbers(forecasts, arguments.json)
    for forecast in forecasts if arguments.ledger else []:
        forecast_ledger.append_forecast(arguments.ledger, forecast)
