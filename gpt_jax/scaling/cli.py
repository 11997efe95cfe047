"""The laboratory's commands. Each prints a table; --json writes every number, --plots the figures.

    python -m gpt_jax.scaling fit runs.jsonl                              the law, its intervals, the top predicted
    python -m gpt_jax.scaling fit runs.csv --approach=all --at-flops=1e21 three ways to split compute, side by side
    python -m gpt_jax.scaling fit runs.csv --columns N=params,D=tokens,val=loss
    python -m gpt_jax.scaling plan --flops=1e18 --runs=runs.jsonl         the model to train with that compute
    python -m gpt_jax.scaling forecast runs.jsonl --params=1e9 --tokens=2e10 --ledger=forecasts.jsonl
    python -m gpt_jax.scaling verify forecasts.jsonl --runs=runs.jsonl    how good the forecasts were
    python -m gpt_jax.scaling compare a.jsonl b.jsonl                     how much compute B saves over A

DATA is our records.jsonl, or a CSV, JSONL or JSON of anyone's with the columns params, tokens and loss. Exit codes: 0
done, 2 bad input, said in one line.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from gpt_jax.errors import EXIT_BAD_INPUT, UserError

LAWS = ('chinchilla', 'tied', 'kaplan', 'repeated', 'power')


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    # Before NumPy is imported: the fits are many small products, over which BLAS's threads only wait for each other.
    os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
    try:
        arguments.run(arguments)
    except UserError as error:
        print(f'gpt_jax.scaling: {" ".join(str(error).split())}', file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m gpt_jax.scaling', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    for name, text, flags in (
        ('fit', 'fit a law to runs', _fit_flags),
        ('plan', 'what to train with a budget', _plan_flags),
        ('forecast', 'write down the loss of a run before it is made', _forecast_flags),
        ('verify', 'score the forecasts on the runs that were made', _verify_flags),
        ('compare', 'how much compute one recipe saves over another', _compare_flags),
    ):
        flags(commands.add_parser(name, help=text, formatter_class=_Formatter))
    return parser


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    pass


def _data_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--columns', type=_pairs, default={}, metavar='THEIRS=OURS,...', help='other column names')
    parser.add_argument(
        '--count', default='', metavar='WHICH', help='total, non_embedding, without_positions: what N is'
    )
    parser.add_argument(
        '--flops', default='', choices=['', '6ND', 'with_attention', 'causal', 'column'], help='what C is'
    )
    parser.add_argument('--drop-highest', type=int, default=0, metavar='K', help='leave out the K highest losses')


def _fit_flags(parser: argparse.ArgumentParser) -> None:
    parser.description = 'Fits a scaling law to runs, with intervals, held-out errors and every dropped row named.'
    parser.epilog = 'example: python -m gpt_jax.scaling fit runs.csv --approach=all --at-flops=5.88e23 --plots=figures'
    parser.add_argument('data', metavar='DATA', help='runs: .csv, .jsonl or .json')
    _data_flags(parser)
    parser.add_argument('--law', default='chinchilla', choices=LAWS, help='the form of the law')
    parser.add_argument('--over', default='N', choices=['N', 'D', 'C'], help='the variable of --law=power')
    parser.add_argument('--no-irreducible', action='store_true', help='--law=power without E')
    parser.add_argument('--approach', default='3', choices=['1', '2', '3', 'all'], help='to the optimal split')
    parser.add_argument('--at-flops', type=_numbers, default=(), metavar='C,...', help='budgets to split')
    parser.add_argument('--delta', type=_positive, default=1e-3, help='where the Huber loss turns linear')
    parser.add_argument('--starts', type=_natural, default=256, help='searches begun; the best ones of the grid')
    parser.add_argument('--draws', type=_natural, default=1000, help='bootstrap resamples; 0: none')
    parser.add_argument('--seed', type=int, default=0, help='of the bootstrap')
    parser.add_argument(
        '--holdout', default='', metavar='COND', help="what to predict from the rest, 'flops>=1e21' say"
    )
    parser.add_argument('--keep-outliers', action='store_true', help='leave no run out for its residual')
    parser.add_argument('--base', type=_constants, default=None, metavar='E=..,A=..,B=..,alpha=..,beta=..',
                        help='the base law that --law=repeated holds fixed')  # fmt: skip
    parser.add_argument('--json', metavar='PATH', help='write every number')
    parser.add_argument('--plots', metavar='DIR', help='write the figures, PNG and SVG')
    parser.set_defaults(run=_fit)


def _fit(arguments: argparse.Namespace) -> None:
    from gpt_jax.scaling import analysis, runs, show

    given = runs.read(
        arguments.data, columns=arguments.columns, count=arguments.count, flops=arguments.flops,
        drop_highest=arguments.drop_highest,
    )  # fmt: skip
    if arguments.law == 'power':
        result = analysis.power(given, arguments.over, irreducible=not arguments.no_irreducible, delta=arguments.delta)
        lines = show.power(result, arguments.over)
    else:
        which = ('1', '2', '3') if arguments.approach == 'all' else (arguments.approach,)
        result = analysis.fit(
            given, law=arguments.law, delta=arguments.delta, draws=arguments.draws, seed=arguments.seed,
            holdout=arguments.holdout, at_flops=arguments.at_flops, constants=arguments.base,
            keep_outliers=arguments.keep_outliers, which=which, starts=max(1, arguments.starts),
        )  # fmt: skip
        lines = show.fit(result)
    if 'error' in given.more and arguments.law != 'power':
        result['downstream'] = analysis.downstream(given)
        lines += show.downstream(result['downstream'])
    print('\n'.join(lines))
    _write(result, arguments.json)
    if arguments.plots:
        from gpt_jax.scaling import figures

        for path in figures.fit(result, arguments.plots):
            print(f'figure: {path}')


def _plan_flags(parser: argparse.ArgumentParser) -> None:
    parser.description = 'The compute-optimal model for a budget: sizes, a shape of whole layers, hours, a config file.'
    parser.epilog = 'example: python -m gpt_jax.scaling plan --hours=24 --device=h100 --devices=8 --config=planned.py'
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument('--flops', type=_positive, dest='budget', metavar='C', help='training FLOPs')
    budget.add_argument('--hours', type=_positive, metavar='H', help='hours on --devices of --device')
    budget.add_argument('--tokens', type=_positive, metavar='D', help='tokens that there are')
    parser.add_argument('--runs', metavar='DATA', help="fit the law to these; without, Besiroglu et al.'s of 2024")
    parser.add_argument('--columns', type=_pairs, default={}, metavar='THEIRS=OURS,...', help='other column names')
    parser.add_argument('--count', default='total', choices=['total', 'non_embedding', 'without_positions'],
                        help='which parameters the law counts')  # fmt: skip
    parser.add_argument('--draws', type=_natural, default=300, help='bootstrap resamples for the intervals')
    parser.add_argument('--context', type=_natural, default=2048, help='tokens of a sequence')
    parser.add_argument('--vocab', type=_natural, default=50257, help='tokens of the vocabulary')
    parser.add_argument('--device', default='h100', help='h100, h200, a100, v4, v5e, v5p, v6e')
    parser.add_argument('--peak', type=_positive, default=None, help='FLOP/s of one device, if it is another')
    parser.add_argument('--devices', type=_natural, default=1, help='how many')
    parser.add_argument('--utilization', type=_positive, default=0.4, help='share of the peak that training reaches')
    parser.add_argument('--price', type=float, default=0.0, help='of one device for an hour')
    parser.add_argument('--config', metavar='PATH', help='write a config file that trains the plan')
    parser.add_argument('--json', metavar='PATH', help='write every number')
    parser.set_defaults(run=_plan)


def _plan(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from gpt_jax import files
    from gpt_jax.scaling import confidence, optimal, planner, runs, show, surface

    if arguments.peak is None and arguments.device not in planner.DEVICES:
        raise UserError(f'--device={arguments.device}: one of {", ".join(planner.DEVICES)}; --peak=FLOPS for another')
    if not 0 < arguments.utilization <= 1:
        raise UserError(f'--utilization={arguments.utilization:g}: a share of the peak, above 0 and at most 1')
    peak = arguments.peak or planner.DEVICES[arguments.device]
    constants, drawn, cost, source = planner.PUBLISHED, [], optimal.SIX, 'Besiroglu et al. 2024'
    if arguments.runs:
        given = runs.read(arguments.runs, columns=arguments.columns)
        data = surface.data(given)
        found = surface.fit('chinchilla', data)
        constants, cost, source = found.constants, optimal.cost(given), arguments.runs
        drawn = confidence.bootstrap(found, data, confidence.counts(given, arguments.draws, 0)[0])
    hardware = {'peak': peak, 'utilization': arguments.utilization, 'devices': arguments.devices}
    flops = arguments.budget or (planner.hours_to_flops(arguments.hours, **hardware) if arguments.hours else None)
    result = planner.plan(
        constants, flops=flops, tokens=arguments.tokens, cost=cost, drawn=drawn, count=arguments.count,
        context=arguments.context, vocab=arguments.vocab, price=arguments.price, **hardware,
    )  # fmt: skip
    result |= {'law': {'source': source, 'constants': constants}, 'device': arguments.device}
    print('\n'.join(show.plan(result)))
    if arguments.config:
        files.write_text(arguments.config, planner.config_file(result, Path(arguments.config).stem))
        print(f'config: {arguments.config}; python run.py --config={arguments.config}')
    _write(result, arguments.json)


def _forecast_flags(parser: argparse.ArgumentParser) -> None:
    parser.description = 'Appends the predicted loss of a run, with its interval and date, to a ledger.'
    parser.epilog = 'example: python -m gpt_jax.scaling forecast runs.jsonl --params=1e9 --tokens=2e10'
    parser.add_argument('data', metavar='DATA', help='the runs to forecast from')
    _data_flags(parser)
    parser.add_argument('--params', type=_positive, required=True, help='of the run, counted as in DATA')
    parser.add_argument('--tokens', type=_positive, required=True, help='of the run')
    parser.add_argument('--name', default='', help='of the run')
    parser.add_argument('--law', default='chinchilla', choices=['chinchilla', 'tied', 'kaplan'], help='the form')
    parser.add_argument('--draws', type=_natural, default=500, help='bootstrap resamples')
    parser.add_argument('--seed', type=int, default=0, help='of the bootstrap')
    parser.add_argument('--ledger', default='forecasts.jsonl', metavar='PATH', help='the file that is added to')
    parser.set_defaults(run=_forecast)


def _forecast(arguments: argparse.Namespace) -> None:
    from gpt_jax.scaling import ledger, runs, show

    given = runs.read(
        arguments.data, columns=arguments.columns, count=arguments.count, flops=arguments.flops,
        drop_highest=arguments.drop_highest,
    )  # fmt: skip
    name = arguments.name or f'{arguments.params:.4g} on {arguments.tokens:.4g}'
    made = ledger.forecast(
        given, arguments.params, arguments.tokens, law=arguments.law, draws=max(arguments.draws, 20),
        seed=arguments.seed, name=name,
    )  # fmt: skip
    print('\n'.join(show.forecast(ledger.add(arguments.ledger, made), arguments.ledger)))


def _verify_flags(parser: argparse.ArgumentParser) -> None:
    parser.description = 'Scores every forecast of a ledger on the finished run: error, inside the interval or not.'
    parser.epilog = 'example: python -m gpt_jax.scaling verify forecasts.jsonl --runs=records.jsonl'
    parser.add_argument('ledger', metavar='LEDGER', help='what forecast wrote')
    parser.add_argument('--runs', required=True, metavar='DATA', help='the finished runs')
    _data_flags(parser)
    parser.add_argument('--json', metavar='PATH', help='write every number')
    parser.set_defaults(run=_verify)


def _verify(arguments: argparse.Namespace) -> None:
    from gpt_jax.scaling import ledger, runs, show

    forecasts = ledger.read(arguments.ledger)
    given = runs.read(
        arguments.runs, columns=arguments.columns, count=arguments.count, flops=arguments.flops,
        drop_highest=arguments.drop_highest,
    )  # fmt: skip
    result = ledger.verify(forecasts, given)
    print('\n'.join(show.verify(result)))
    _write(result, arguments.json)


def _compare_flags(parser: argparse.ArgumentParser) -> None:
    parser.description = 'The compute that recipe A needs for a loss, over what B needs: the compute multiplier.'
    parser.epilog = 'example: python -m gpt_jax.scaling compare old.jsonl new.jsonl --plots=figures'
    parser.add_argument('a', metavar='A', help='runs of the one recipe')
    parser.add_argument('b', metavar='B', help='runs of the other')
    _data_flags(parser)
    parser.add_argument('--draws', type=_natural, default=500, help='bootstrap resamples')
    parser.add_argument('--seed', type=int, default=0, help='of the bootstrap')
    parser.add_argument('--json', metavar='PATH', help='write every number')
    parser.add_argument('--plots', metavar='DIR', help='write the figure, PNG and SVG')
    parser.set_defaults(run=_compare)


def _compare(arguments: argparse.Namespace) -> None:
    from gpt_jax.scaling import comparison, runs, show

    flags = {'columns': arguments.columns, 'count': arguments.count, 'flops': arguments.flops,
             'drop_highest': arguments.drop_highest}  # fmt: skip
    both = [runs.read(path, **flags) for path in (arguments.a, arguments.b)]
    result = comparison.compare(*both, draws=max(arguments.draws, 20), seed=arguments.seed)
    result['files'] = [arguments.a, arguments.b]
    print('\n'.join(show.compare(result)))
    _write(result, arguments.json)
    if arguments.plots:
        from gpt_jax.scaling import figures

        for path in figures.compare(result, arguments.plots):
            print(f'figure: {path}')


def _write(result: dict[str, Any], path: str | None) -> None:
    from gpt_jax import files

    if path:
        files.write_json(path, _plain(result))
        print(f'numbers: {path}')


def _plain(value: Any) -> Any:
    """NaN and infinity become null, for which JSON has a word."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value - value != 0:
        return None
    return value


def _pairs(text: str) -> dict[str, str]:
    pairs = [pair.partition('=') for pair in text.split(',') if pair]
    if not all(equals and old and new for old, equals, new in pairs):
        raise argparse.ArgumentTypeError(f"{text!r}: wants THEIRS=OURS, as in 'N=params,val=loss'")
    return {old.strip(): new.strip() for old, _, new in pairs}


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(_positive(part) for part in text.split(',') if part)


def _constants(text: str) -> dict[str, float]:
    named = {name: _positive(value) for name, value in _pairs(text).items()}
    if set(named) != {'E', 'A', 'B', 'alpha', 'beta'}:
        raise argparse.ArgumentTypeError(f'{text!r}: wants E, A, B, alpha and beta')
    return named


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number') from None
    if not 0 < value < float('inf'):
        raise argparse.ArgumentTypeError(f'{text} must be above zero')
    return value


def _natural(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number of 0 or more')
    return int(text)
