"""The laboratory's commands. Each prints a table; --json writes every number, --plots the figures.

    python -m gpt_jax.scaling fit runs.jsonl                              the law, its intervals, the top predicted
    python -m gpt_jax.scaling fit runs.csv --approach=all --at-flops=1e21 three ways to split compute, side by side
    python -m gpt_jax.scaling fit runs.csv --columns N=params,D=tokens,val=loss
    python -m gpt_jax.scaling plan --flops=1e18 --runs=runs.jsonl         the model to train with that compute
    python -m gpt_jax.scaling plan --isoflop=1e18,4e18,2e19 --runs=small.jsonl --config=sweep.py   a sweep, recentred
    python -m gpt_jax.scaling plan --cooldowns=1e9,2e9,4e9 --params=1e8 --config=trunk.py   branches of one trunk
    python -m gpt_jax.scaling forecast runs.jsonl --params=1e9 --tokens=2e10 --ledger=forecasts.jsonl
    python -m gpt_jax.scaling verify forecasts.jsonl --runs=runs.jsonl    how good the forecasts were
    python -m gpt_jax.scaling compare a.jsonl b.jsonl                     how much compute B saves over A
    python -m gpt_jax.scaling report runs.jsonl --ledger=forecasts.jsonl  all of it as one HTML file

DATA is our records.jsonl, or a CSV, JSONL or JSON of anyone's with the columns params, tokens and loss. Exit codes: 0
done, 2 bad input or output, said in one line, 141 whoever read the output left before its end.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from gpt_jax.errors import EXIT_BAD_INPUT, UserError

PLAN_EXAMPLES = """examples:
  python -m gpt_jax.scaling plan --hours=24 --device=h100 --devices=8 --config=planned.py
  python -m gpt_jax.scaling plan --isoflop=1e18,4e18,2e19 --runs=runs/small/records.jsonl --config=configs/sweep.py
  python -m gpt_jax.scaling plan --isoflop=2e11,1e12 --head-dim=16 --layers=2 --context=128 --vocab=256 --base=cpu
  python -m gpt_jax.scaling plan --cooldowns=1e9,2e9,4e9 --params=1e8 --config=configs/trunk.py
"""

EXIT_PIPE_CLOSED = 141  # 128 + SIGPIPE: what the shell reports of any program whose reader, head say, had enough
LAWS = ('chinchilla', 'tied', 'kaplan', 'repeated', 'power')


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    # Before NumPy is imported: the fits are many small products, over which BLAS's threads only wait for each other.
    os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
    from gpt_jax.scaling import commands

    try:
        getattr(commands, arguments.run)(arguments)
        print(end='', flush=True)  # what a pipe or a full disk refuses is said here, not while Python shuts down
    except UserError as error:
        _leave(str(error))
    except BrokenPipeError:
        _drop_output()
        sys.exit(EXIT_PIPE_CLOSED)
    except OSError as error:
        said = 'a file, not a folder' if isinstance(error, FileExistsError) else error.strerror or str(error)
        if not error.filename:
            _drop_output()
        _leave(f'{error.filename or "output"}: {said}')


def _leave(message: str) -> NoReturn:
    print(f'gpt_jax.scaling: {" ".join(message.split())}', file=sys.stderr)
    sys.exit(EXIT_BAD_INPUT)


def _drop_output() -> None:
    """What stdout still holds goes nowhere: the flush at exit would raise once more."""
    with open(os.devnull, 'w') as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog='python -m gpt_jax.scaling', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    for name, text, flags in (
        ('fit', 'fit a law to runs', _fit_flags),
        ('plan', 'what to train with a budget', _plan_flags),
        ('forecast', 'write down the loss of a run before it is made', _forecast_flags),
        ('verify', 'score the forecasts on the runs that were made', _verify_flags),
        ('compare', 'how much compute one recipe saves over another', _compare_flags),
        ('report', 'one HTML file with the law, the figures and every run', _report_flags),
    ):
        flags(commands.add_parser(name, help=text, formatter_class=_Formatter))
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, and not the whole usage before it."""
        self.exit(EXIT_BAD_INPUT, f'{self.prog}: {message}; --help tells more\n')


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    pass


class _Examples(_Formatter, argparse.RawDescriptionHelpFormatter):
    """Examples stay one to a line."""


def _data_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--columns', type=_pairs, default={}, metavar='THEIRS=OURS,...', help='other column names')
    parser.add_argument(
        '--count', default='', metavar='WHICH', help='total, non_embedding, without_positions, active: what N is'
    )
    parser.add_argument(
        '--flops', default='', choices=['', '6ND', 'with_attention', 'causal', 'column'], help='what C is'
    )
    parser.add_argument('--drop-highest', type=_natural, default=0, metavar='K', help='leave out the K highest losses')


def _fit_flags(parser: argparse.ArgumentParser) -> None:
    parser.description = 'Fits a scaling law to runs, with intervals, held-out errors and every dropped row named.'
    parser.epilog = 'example: python -m gpt_jax.scaling fit runs.csv --approach=all --at-flops=5.88e23 --plots=figures'
    parser.add_argument('data', metavar='DATA', help='runs: .csv, .jsonl or .json')
    _data_flags(parser)
    _law_flags(parser, approach='3')
    parser.add_argument('--json', metavar='PATH', help='write every number')
    parser.add_argument('--plots', metavar='DIR', help='write the figures, PNG and SVG')
    parser.set_defaults(run='fit')


def _law_flags(parser: argparse.ArgumentParser, *, approach: str) -> None:
    parser.add_argument('--law', default='chinchilla', choices=LAWS, help='the form of the law')
    parser.add_argument('--over', choices=['N', 'D', 'C'], help='the variable of --law=power; N')
    parser.add_argument('--no-irreducible', action='store_true', help='--law=power without E')
    parser.add_argument('--approach', choices=['1', '2', '3', 'all'], help=f'to the optimal split; {approach}')
    parser.add_argument('--at-flops', type=_numbers, default=(), metavar='C,...', help='budgets to split')
    parser.add_argument('--delta', type=_positive, default=1e-3, help='where the Huber loss turns linear')
    parser.add_argument('--starts', type=_several, help='searches begun, the best ones of the grid; all of them')
    parser.add_argument('--draws', type=_natural, default=1000, help='bootstrap resamples; 0: none')
    parser.add_argument('--seed', type=_natural, default=0, help='of the bootstrap')
    parser.add_argument(
        '--holdout', default='', metavar='COND', help="what to predict from the rest, 'flops>=1e21' say"
    )
    parser.add_argument('--keep-outliers', action='store_true', help='leave no run out for its residual')
    parser.add_argument('--base', type=_constants, default=None, metavar='E=..,A=..,B=..,alpha=..,beta=..',
                        help='the base law that --law=repeated holds fixed')  # fmt: skip


def _plan_flags(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        'The compute-optimal model for a budget: sizes, a shape of whole layers, hours, a config file. '
        'Or a sweep: isoFLOP curves around each N*, or one trunk and the branches that cool down from it.'
    )
    parser.epilog = PLAN_EXAMPLES
    parser.formatter_class = _Examples
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument('--flops', type=_positive, dest='budget', metavar='C', help='training FLOPs')
    budget.add_argument('--hours', type=_positive, metavar='H', help='hours on --devices of --device')
    budget.add_argument('--tokens', type=_positive, metavar='D', help='tokens that there are')
    budget.add_argument('--isoflop', type=_numbers, metavar='C,...', help='a sweep: budgets of training FLOPs')
    budget.add_argument('--cooldowns', type=_numbers, metavar='D,...', help='a trunk: tokens where branches end')
    parser.add_argument('--runs', metavar='DATA', help="fit the law to these; without, Besiroglu et al.'s of 2024")
    parser.add_argument('--columns', type=_pairs, default={}, metavar='THEIRS=OURS,...', help='other column names')
    parser.add_argument('--count', default='', choices=['', 'total', 'non_embedding', 'without_positions'],
                        help='which parameters the law counts; total where nothing is said')  # fmt: skip
    parser.add_argument('--draws', type=_natural, default=300, help='bootstrap resamples for the intervals')
    parser.add_argument('--context', type=_several, help="tokens of a sequence; the runs' own, or 2048")
    parser.add_argument('--vocab', type=_several, help="tokens of the vocabulary; the runs' own, or 50257")
    parser.add_argument('--device', default='h100', help='h100, h200, a100, v4, v5e, v5p, v6e')
    parser.add_argument('--peak', type=_positive, default=None, help='FLOP/s of one device, if it is another')
    parser.add_argument('--devices', type=_several, default=1, help='how many')
    parser.add_argument('--utilization', type=_positive, default=0.4, help='share of the peak that training reaches')
    parser.add_argument('--measured', metavar='PATH', help='peak and utilization from run.py --mode=benchmark '
                        '--benchmark_output=PATH on one such machine')  # fmt: skip
    parser.add_argument('--price', type=_positive, default=None, help='of one device for an hour')
    parser.add_argument('--config', metavar='PATH', help='write a config file that trains the plan')
    parser.add_argument('--json', metavar='PATH', help='write every number')
    _sweep_flags(parser)
    parser.set_defaults(run='plan')


def _sweep_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('of a sweep, --isoflop or --cooldowns')
    group.add_argument('--sizes', type=_several, help='--isoflop: sizes per budget, odd for one at N*; 5')
    group.add_argument('--span', type=_positive, help='--isoflop: from N* to the largest size, a factor; 3')
    group.add_argument(
        '--head-dim', type=_several, help="--isoflop: widths are multiples; the runs' own, or 64 and 128"
    )
    group.add_argument('--layers', type=_several, help="depth; --isoflop: the runs' own, or by the width")
    group.add_argument('--width', type=_several, help='--cooldowns: of the model')
    group.add_argument('--heads', type=_several, help='--cooldowns: of the model')
    group.add_argument('--params', type=_positive, metavar='N', help='--cooldowns: the nearest shape')
    group.add_argument('--warmup', type=_several, metavar='STEPS', help="--cooldowns: the trunk's")
    group.add_argument('--batch', type=_several, help="sequences of a step; the runs' own, or DeepSeek-AI 2024's")
    group.add_argument('--learning-rate', type=_positive, help="of all; the runs' own by width, or DeepSeek-AI 2024's")
    group.add_argument('--base', help='the module of configs/ that the config starts from; base')


def _forecast_flags(parser: argparse.ArgumentParser) -> None:
    parser.description = 'Appends the predicted loss of a run, with its interval and date, to a ledger.'
    parser.epilog = 'example: python -m gpt_jax.scaling forecast runs.jsonl --params=1e9 --tokens=2e10'
    parser.add_argument('data', metavar='DATA', help='the runs to forecast from')
    _data_flags(parser)
    parser.add_argument('--config', metavar='PATH', help='the run, as a config file; or say it with')
    parser.add_argument('--params', type=_positive, help='of the run, counted as in DATA')
    parser.add_argument('--tokens', type=_positive, help='of the run')
    parser.add_argument('--trial', default='', metavar='NAME', help='the run, where --config is a sweep')
    parser.add_argument('--name', default='', help='of the run')
    parser.add_argument('--law', default='chinchilla', choices=['chinchilla', 'tied', 'kaplan', 'power'],
                        help='the form; power is over N alone, for a ladder of one length')  # fmt: skip
    parser.add_argument('--draws', type=_several, default=500, help='bootstrap resamples')
    parser.add_argument('--seed', type=_natural, default=0, help='of the bootstrap')
    parser.add_argument('--ledger', default='forecasts.jsonl', metavar='PATH', help='the file that is added to')
    parser.set_defaults(run='forecast')


def _verify_flags(parser: argparse.ArgumentParser) -> None:
    parser.description = 'Scores every forecast of a ledger on the finished run: error, inside the interval or not.'
    parser.epilog = 'example: python -m gpt_jax.scaling verify forecasts.jsonl --runs=records.jsonl'
    parser.add_argument('ledger', metavar='LEDGER', help='what forecast wrote')
    parser.add_argument('--runs', required=True, metavar='DATA', help='the finished runs')
    _data_flags(parser)
    parser.add_argument('--json', metavar='PATH', help='write every number')
    parser.set_defaults(run='verify')


def _compare_flags(parser: argparse.ArgumentParser) -> None:
    parser.description = 'The compute that recipe A needs for a loss, over what B needs: the compute multiplier.'
    parser.epilog = 'example: python -m gpt_jax.scaling compare old.jsonl new.jsonl --plots=figures'
    parser.add_argument('a', metavar='A', help='runs of the one recipe')
    parser.add_argument('b', metavar='B', help='runs of the other')
    _data_flags(parser)
    parser.add_argument('--draws', type=_several, default=500, help='bootstrap resamples')
    parser.add_argument('--seed', type=_natural, default=0, help='of the bootstrap')
    parser.add_argument('--json', metavar='PATH', help='write every number')
    parser.add_argument('--plots', metavar='DIR', help='write the figure, PNG and SVG')
    parser.set_defaults(run='compare')


def _report_flags(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        'Writes one HTML file that loads nothing: the law, the split, the forecasts, the figures, every run. Where no '
        'law over N and D can be fitted, the power law stands in its place.'
    )
    parser.epilog = 'example: python -m gpt_jax.scaling report runs.jsonl --html=report.html --ledger=forecasts.jsonl'
    parser.add_argument('data', metavar='DATA', help='runs: .csv, .jsonl or .json')
    _data_flags(parser)
    _law_flags(parser, approach='all')
    parser.add_argument('--html', default='report.html', metavar='PATH', help='the file to write')
    parser.add_argument('--ledger', metavar='PATH', help='what forecast wrote, to be scored on DATA')
    parser.set_defaults(run='report')


def _pairs(text: str) -> dict[str, str]:
    pairs = [pair.partition('=') for pair in text.split(',') if pair]
    if not all(equals and old and new for old, equals, new in pairs):
        raise argparse.ArgumentTypeError(f"{text!r}: wants THEIRS=OURS, as in 'N=params,val=loss'")
    return {old.strip(): new.strip() for old, _, new in pairs}


def _numbers(text: str) -> tuple[float, ...]:
    numbers = tuple(_positive(part) for part in text.split(',') if part)
    if not numbers:
        raise argparse.ArgumentTypeError(f'{text!r}: wants numbers with commas between them')
    return numbers


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
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number of 0 or more')
    return int(text)


def _several(text: str) -> int:
    if _natural(text) < 1:
        raise argparse.ArgumentTypeError(f'{text} must be at least 1')
    return int(text)
