"""Argument types and groups of arguments that several commands share."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from gpt_jax.core import files
from gpt_jax.core.config_fields import nearest
from gpt_jax.core.errors import EXIT_BAD_INPUT, UserError

LAWS_OF_TWO_VARIABLES = (
    'auto',
    'chinchilla',
    'tied',
    'kaplan',
    'kaplan_offset',
    'skaling',
    'interaction',
    'farseer',
    'repeated',
    'experts',
)
LAWS_WITH_SPLIT = ('auto', 'chinchilla', 'tied', 'repeated')
LAWS = (*LAWS_OF_TWO_VARIABLES, 'power', 'broken')
MIN_DRAWS = 10  # of a bootstrap; fewer have no interval


class CommandParser(argparse.ArgumentParser):
    """A parser with one-line errors; --at-flops and --at_flops are the same flag."""

    def parse_args(self, args: Sequence[str], namespace: Any = None) -> Any:  # type: ignore[override]
        return super().parse_args([self._normalize(word) for word in args], namespace)

    def _normalize(self, word: str) -> str:
        match = re.match(r'--([A-Za-z][A-Za-z0-9_-]*)(.*)', word, re.DOTALL)
        return word if match is None else f'--{match[1].replace("-", "_")}{match[2]}'

    def error(self, message: str) -> NoReturn:
        """Print the error in one line, without the usage."""
        self.exit(EXIT_BAD_INPUT, f'{self.prog}: {message}; see --help\n')


def add_model_arguments(parser: argparse.ArgumentParser, *, nargs: str | None = None) -> None:
    """Add MODEL, or several with `nargs`, --weight_dtype and --devices."""
    from gpt_jax.core.config import WEIGHT_DTYPES  # slow to import, and other commands need it not

    parser.add_argument(
        'model',
        nargs=nargs,
        type=parse_path,
        metavar='MODEL',
        help='a run folder, a Hugging Face folder, or NAME[@REVISION] on its hub',
    )
    parser.add_argument(
        '--weight_dtype',
        default='float32',
        choices=WEIGHT_DTYPES,
        help='dtype of the weight matrices (default: float32)',
    )
    parser.add_argument(
        '--devices',
        type=parse_devices,
        default={'data': 1},
        metavar='DATA[xFSDP[xTENSOR]]',
        help='devices that split the texts, the weights and the heads, such as 2x4 (default: 1)',
    )


def parse_path(text: str) -> str:
    """Parse a path, or a name that may be one: a leading ~ becomes the home folder."""
    if not text:
        raise argparse.ArgumentTypeError("must be a path, got ''")
    try:
        return files.expand_home(text, 'path')
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def check_output(path: str | None, flag: str = '--output') -> None:
    """Raise UserError if a flag's file is given and cannot be a file to write."""
    if path is None:
        return
    if not Path(path).resolve().parent.is_dir():
        raise UserError(f'{flag}={path}: no such folder')
    if Path(path).is_dir():
        raise UserError(f'{flag}={path}: must be a file, got a folder')


def parse_devices(text: str) -> dict[str, int]:
    """Parse the sizes of mesh axes: '2x4' is {'data': 2, 'fsdp': 4}."""
    if not re.fullmatch('[1-9][0-9]*(x[1-9][0-9]*){0,2}', text):
        raise argparse.ArgumentTypeError(f'must be DATA[xFSDP[xTENSOR]], such as 2x4, got {text!r}')
    return dict(zip(('data', 'fsdp', 'tensor'), map(int, text.split('x')), strict=False))


def add_column_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --columns, --count and --loss_unit, the columns of a table of runs."""
    parser.add_argument(
        '--columns',
        type=parse_pairs,
        default={},
        metavar='THEIRS=OURS,...',
        help="columns to rename, such as 'N=params,D=tokens,val=loss'; 'body+head=params' adds two",
    )
    parser.add_argument(
        '--count',
        default='',
        metavar='CONVENTION',
        help='parameters counted as N, the column params_CONVENTION: total, non_embedding, '
        'without_positions or active (default: the column params, or the total)',
    )
    add_loss_unit_argument(parser)


def add_loss_unit_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--loss_unit',
        default='',
        choices=['', 'nats', 'bits', 'bits_per_byte', 'perplexity'],
        help='unit of the loss column; bits (per token) and perplexity are converted to nats '
        "(default: as the column's name says, else nats)",
    )


def add_data_argument(parser: argparse.ArgumentParser) -> None:
    """Add DATA, one or several tables of runs."""
    parser.add_argument(
        'data',
        nargs='+',
        type=parse_path,
        metavar='DATA',
        help='runs: CSV, JSON, JSON Lines or Parquet; a folder of TensorBoard event files; or '
        'wandb:ENTITY/PROJECT; several are read one after the other',
    )


def add_table_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for reading a table of runs: columns and conventions."""
    add_column_arguments(parser)
    parser.add_argument(
        '--flops',
        default='',
        choices=['', '6ND', 'with_attention', 'causal', 'column'],
        help='convention of the compute C (default: the column flops, or 6ND)',
    )
    parser.add_argument(
        '--drop_highest',
        type=parse_natural,
        default=0,
        metavar='K',
        help='leave out the K highest losses (default: %(default)s)',
    )
    parser.add_argument(
        '--keep_untuned',
        action='store_true',
        help='keep runs that differ from a better one only in hyperparameters (default: of equal '
        'N and D, the best)',
    )
    parser.add_argument(
        '--where',
        default='',
        metavar='COLUMN=VALUE,...',
        help="fit only the rows with one of these values in a column, such as 'split=fit'",
    )
    add_checkpoint_argument(parser)


def add_checkpoint_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--checkpoints',
        default='',
        choices=['', 'last', 'half', 'all', 'separate'],
        help='rows of one run that are fitted: the last, those of its second half, or all; '
        'separate: every row is a run (default: last, or half where the last rows are few or of '
        'one length)',
    )


def add_law_arguments(parser: argparse.ArgumentParser, *, approach: str) -> None:
    """Add the arguments for fitting a law; `approach` is the default of --approach."""
    parser.add_argument(
        '--law',
        default='auto',
        help=f"form of the law: {', '.join(LAWS)}, or a dotted path; auto gives Chinchilla's "
        'constants, and a split that allows for the error of the form (default: %(default)s)',
    )
    parser.add_argument(
        '--over', choices=['N', 'D', 'C'], help='variable of --law=power and broken (default: N)'
    )
    parser.add_argument(
        '--no_irreducible', action='store_true', help='fit --law=power without the constant E'
    )
    parser.add_argument(
        '--approach',
        choices=['1', '2', '3', 'all'],
        help=f'compute-optimal split: approach of Hoffmann et al. 2022 (default: {approach})',
    )
    parser.add_argument(
        '--curve',
        choices=['parabola', 'cubic', 'akima'],
        help='approach 2: what goes through the runs of a budget (default: parabola)',
    )
    parser.add_argument(
        '--window',
        type=parse_window,
        metavar='FACTOR',
        help='approach 2: fit the sizes within this factor of the lowest (default: 2.45); all: all '
        'sizes, and every minimum counts the same, as in published fits',
    )
    parser.add_argument(
        '--at_flops', type=parse_numbers, default=(), metavar='C,...', help='FLOP budgets to split'
    )
    parser.add_argument(
        '--delta',
        type=parse_positive,
        help='residual at which the Huber loss turns linear (default: 0.001; 0.05 for few runs)',
    )
    parser.add_argument(
        '--residual',
        choices=['log', 'loss'],
        help='what the law is fitted to: log loss or the loss itself (default: log)',
    )
    parser.add_argument(
        '--loss_function',
        choices=['huber', 'squares'],
        help='what is minimized: the sum of Huber losses or of squares (default: huber)',
    )
    parser.add_argument(
        '--starts', type=parse_count, help='starting points of the search (default: the whole grid)'
    )
    parser.add_argument(
        '--draws',
        type=parse_draws,
        help='bootstrap resamples of the law; 0: none (default: 1000; for more than 2,000 runs '
        'fewer, at least 200)',
    )
    add_seed_argument(parser)
    parser.add_argument(
        '--holdout',
        default='',
        metavar='CONDITION',
        help="runs to predict from the others, such as 'flops>=1e21'",
    )
    parser.add_argument('--keep_outliers', action='store_true', help='keep outliers in the fit')
    parser.add_argument(
        '--base',
        type=parse_constants,
        default=None,
        metavar='E=...,A=...,B=...,alpha=...,beta=...',
        help='base law that --law=repeated holds fixed (default: fitted to the runs without '
        'repetition)',
    )


def add_seed_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--seed', type=parse_natural, default=0, help='seed of the bootstrap (default: %(default)s)'
    )


RENAMED = "THEIRS=OURS,..., such as 'N=params,val=loss'"


def parse_pairs(text: str, form: str = RENAMED) -> dict[str, str]:
    """Parse 'a=b,c=d'; `form` is what an error message says the text must be."""
    pairs = [pair.partition('=') for pair in text.split(',') if pair]
    if not all(equals and old and new for old, equals, new in pairs):
        raise argparse.ArgumentTypeError(f'must be {form}, got {text!r}')
    return {old.strip(): new.strip() for old, _, new in pairs}


def parse_numbers(text: str) -> tuple[float, ...]:
    numbers = tuple(parse_positive(part) for part in text.split(',') if part)
    if not numbers:
        raise argparse.ArgumentTypeError(f'must be numbers separated by commas, got {text!r}')
    return numbers


def parse_constants(text: str) -> dict[str, float]:
    form = 'E=...,A=...,B=...,alpha=...,beta=...'
    constants = {name: parse_positive(value) for name, value in parse_pairs(text, form).items()}
    if set(constants) != {'E', 'A', 'B', 'alpha', 'beta'}:
        raise argparse.ArgumentTypeError(f'must be {form}, got {text!r}')
    return constants


def parse_positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'must be a number, got {text!r}') from None
    if not 0 < value < float('inf'):
        raise argparse.ArgumentTypeError(f'must be above zero, got {text}')
    return value


def parse_window(text: str) -> float:
    """Parse a factor above 1; 'all' is infinite."""
    if text == 'all':
        return float('inf')
    try:
        if 1 < float(text) < float('inf'):
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"must be a factor above 1, or 'all', got {text!r}")


def parse_natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f'must be an integer of 0 or more, got {text!r}')
    return int(text)


def parse_draws(text: str) -> int:
    """Parse a number of bootstrap resamples."""
    if 0 < parse_natural(text) < MIN_DRAWS:
        raise argparse.ArgumentTypeError(
            f'must be at least {MIN_DRAWS}, or 0 for no interval, got {text}'
        )
    return int(text)


def parse_required_draws(text: str) -> int:
    """Parse a number of bootstrap resamples, without which there is no result."""
    if parse_natural(text) < MIN_DRAWS:
        raise argparse.ArgumentTypeError(f'must be at least {MIN_DRAWS}, got {text}')
    return int(text)


def parse_count(text: str) -> int:
    if parse_natural(text) < 1:
        raise argparse.ArgumentTypeError(f'must be at least 1, got {text}')
    return int(text)


# The laws that an argument applies to, and why it applies to no others.
LAW_ARGUMENTS = {
    'over': (('power', 'broken'), 'it is the variable of --law=power and broken'),
    'no_irreducible': (('power',), 'it leaves E out of --law=power'),
    'base': (('repeated',), 'it is the base law of --law=repeated'),
    'approach': (LAWS_OF_TWO_VARIABLES, 'a law over one variable does not split compute'),
    'at_flops': (LAWS_OF_TWO_VARIABLES, 'a law over one variable does not split compute'),
    'holdout': (LAWS_OF_TWO_VARIABLES, 'that law always holds out the largest runs'),
    'curve': (LAWS_OF_TWO_VARIABLES, 'a law over one variable does not split compute'),
    'window': (LAWS_OF_TWO_VARIABLES, 'a law over one variable does not split compute'),
    'residual': (LAWS_OF_TWO_VARIABLES, 'that law is fitted to log loss'),
    'loss_function': (LAWS_OF_TWO_VARIABLES, 'that law minimizes the Huber loss'),
    'starts': (LAWS_OF_TWO_VARIABLES, 'that law has its own starting points'),
}


def resolve_law_arguments(arguments: argparse.Namespace, *, approach: str) -> None:
    """Fill in --approach and --over, and reject arguments that the law does not use.

    Args:
      arguments: includes those of `add_law_arguments`; changed in place.
      approach: the default of --approach.

    Raises:
      UserError: an argument does not suit the law; names the argument.
    """
    check_law(arguments.law, LAWS)
    # A user's own law has these arguments, too.
    custom = ('holdout', 'starts', 'residual', 'loss_function') if ':' in arguments.law else ()
    for name, (laws, reason) in LAW_ARGUMENTS.items():
        if getattr(arguments, name) and arguments.law not in laws and name not in custom:
            raise UserError(f'--{name}: not with --law={arguments.law}; {reason}')
    has_split = arguments.law in LAWS_WITH_SPLIT or arguments.law not in LAWS_OF_TWO_VARIABLES
    if not has_split and (arguments.approach or arguments.at_flops):
        why = f'only {", ".join(LAWS_WITH_SPLIT)} have a compute-optimal split in closed form'
        if arguments.law.startswith('kaplan'):
            why = (
                'that law is for models trained to convergence on D tokens, whose compute is not '
                '6ND, so it has no compute-optimal split'
            )
        name = 'approach' if arguments.approach else 'at_flops'
        raise UserError(f'--{name}: not with --law={arguments.law}; {why}')
    arguments.approach = arguments.approach or approach
    for name in ('curve', 'window'):
        if getattr(arguments, name) and arguments.approach not in ('2', 'all'):
            raise UserError(f'--{name}: needs --approach=2 or --approach=all')
    arguments.over = arguments.over or 'N'
    arguments.residual = arguments.residual or 'log'
    arguments.loss_function = arguments.loss_function or 'huber'


def check_law(law: str, known: Sequence[str]) -> None:
    """Raise UserError if a law is neither known nor a dotted path."""
    if law not in known and ':' not in law:
        raise UserError(
            f'--law: must be one of {", ".join(known)} or a dotted path, got '
            f'{law!r}{nearest(law, known)}'
        )


def fit_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `add_law_arguments` as keyword arguments of analyze_parametric."""
    return {
        'law': arguments.law,
        'delta': arguments.delta,
        'residual': arguments.residual,
        'loss_function': arguments.loss_function,
        'draws': arguments.draws,
        'seed': arguments.seed,
        'holdout': arguments.holdout,
        'at_flops': arguments.at_flops,
        'constants': arguments.base,
        'keep_outliers': arguments.keep_outliers,
        'starts': arguments.starts,
        'curve': arguments.curve or 'parabola',
        **({'window': arguments.window} if arguments.window else {}),
        'which': ('1', '2', '3') if arguments.approach == 'all' else (arguments.approach,),
    }


def table_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `add_table_arguments` as keyword arguments of runs.read_runs."""
    # A law over N alone is of one token count, which only the ends of runs may have.
    is_power = getattr(arguments, 'law', '') in ('power', 'broken')
    is_over_params = is_power and getattr(arguments, 'over', '') not in ('D', 'C')
    return {
        'columns': arguments.columns,
        'count': arguments.count,
        'flops': arguments.flops,
        'drop_highest': arguments.drop_highest,
        'loss_unit': arguments.loss_unit,
        'keep_untuned': arguments.keep_untuned,
        'checkpoints': arguments.checkpoints or ('last' if is_over_params else ''),
        'where': arguments.where,
    }
