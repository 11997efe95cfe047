"""What does each command do with its flags? Reads, calls one room, prints, writes; cli.py knows the flags."""

import argparse
import functools
from pathlib import Path
from typing import Any

from gpt_jax.errors import UserError
from gpt_jax.scaling import analysis, comparison, ledger, rows
from gpt_jax.scaling import runs as table
from gpt_jax.scaling.plan import command, subject
from gpt_jax.scaling.runs import Runs
from gpt_jax.scaling.view import out, show

OVER_BOTH = ('chinchilla', 'tied', 'kaplan', 'repeated')
LAW_FLAGS = {  # the laws that each goes with, and why no others
    'over': (('power',), 'it is the variable of --law=power'),
    'no_irreducible': (('power',), 'it leaves E out of --law=power'),
    'base': (('repeated',), 'it is what --law=repeated holds fixed'),
    'approach': (OVER_BOTH, 'a law over one variable splits no compute'),
    'at_flops': (OVER_BOTH, 'a law over one variable splits no compute'),
    'holdout': (OVER_BOTH, 'it leaves the largest out, and no other runs'),
    'starts': (OVER_BOTH, 'its search has starts of its own'),
}


plan = command.plan  # the longest of them has a room of its own


def fit(arguments: argparse.Namespace) -> None:
    _suited(arguments, approach='3')
    given = _read(arguments, arguments.data)
    if arguments.law == 'power':
        result = analysis.power(
            given, arguments.over, irreducible=not arguments.no_irreducible, delta=arguments.delta,
            draws=arguments.draws, seed=arguments.seed, keep_outliers=arguments.keep_outliers,
        )  # fmt: skip
        lines = show.power(result, arguments.over)
    else:
        result = analysis.fit(given, **_fitting(arguments))
        lines = show.fit(result)
        if 'downstream' in result:
            lines += show.downstream(result['downstream'])
    out.say(lines)
    out.numbers(result, arguments.json)
    if arguments.plots and arguments.law != 'power':
        from gpt_jax.scaling.view import figures

        out.figures(figures.fit(result, arguments.plots))
    elif arguments.plots:
        from gpt_jax.scaling.view import plots

        if 'forecast' not in result:
            raise UserError('--plots: too few sizes to leave the largest out, and that is what the figure shows')
        path = Path(arguments.plots) / f'power_{arguments.over}.png'
        out.figures(plots.scaling_curve(*analysis.as_ladder(result), path))


def report(arguments: argparse.Namespace) -> None:
    from gpt_jax.scaling.view import report as pages

    _suited(arguments, approach='all')
    lines = pages.from_records(
        arguments.data, arguments.html, arguments.ledger, columns=arguments.columns, count=arguments.count,
        flops=arguments.flops, drop_highest=arguments.drop_highest, over=arguments.over,
        irreducible=not arguments.no_irreducible, **_fitting(arguments),
    )  # fmt: skip
    out.say(lines)


def _suited(arguments: argparse.Namespace, *, approach: str) -> None:
    """Raises UserError for a flag that the law makes no use of; fills in the approach and the variable if not said."""
    for name, (laws, why) in LAW_FLAGS.items():
        if getattr(arguments, name) and arguments.law not in laws:
            raise UserError(f'--{name.replace("_", "-")}: not with --law={arguments.law}; {why}')
    if arguments.law == 'kaplan' and (arguments.approach or arguments.at_flops):
        raise UserError(
            f"--{'approach' if arguments.approach else 'at-flops'}: not with --law=kaplan; Kaplan et al.'s law is of "
            'models trained on D tokens until they improve no more, whose compute is not 6ND: it has no such split'
        )
    arguments.approach = arguments.approach or approach
    arguments.over = arguments.over or 'N'


def forecast(arguments: argparse.Namespace) -> None:
    said = [one for one in (arguments.params, arguments.tokens) if one is not None]
    if len(said) != (0 if arguments.config else 2):
        raise UserError('say which run: --config=PATH, or --params=N and --tokens=D')
    if arguments.trial and not arguments.config:
        raise UserError('--trial: goes with --config, whose sweep it is of')
    if arguments.config:
        run = subject.of_config(arguments.config, count=arguments.count, trial=arguments.trial)
    else:
        named = f'{arguments.params:.4g} on {arguments.tokens:.4g}'
        run = subject.Subject(named, arguments.params, arguments.tokens, '')
    given = _read(arguments, arguments.data)
    made = ledger.forecast(
        given, run.params, run.tokens, law=arguments.law, draws=arguments.draws, seed=arguments.seed,
        name=arguments.name or run.name,
    )  # fmt: skip
    if run.config_hash:
        made['config_hash'] = run.config_hash
    out.say(show.left_out(made['left_out']))
    out.say(show.forecast(ledger.add(arguments.ledger, made), arguments.ledger))


def verify(arguments: argparse.Namespace) -> None:
    forecasts = ledger.read(arguments.ledger)
    given = _read(arguments, arguments.runs, for_fitting=False)
    counts = set() if arguments.count else rows.counts(arguments.runs, arguments.columns)

    def under(count: str) -> Runs:
        if count not in counts:
            return given
        return table.read(arguments.runs, columns=arguments.columns, count=count, for_fitting=False)

    result = ledger.verify(forecasts, functools.cache(under)) | {'left_out': given.left_out}
    out.say([*show.left_out(given.left_out), *show.verify(result)])
    out.numbers(result, arguments.json)


def compare(arguments: argparse.Namespace) -> None:
    # Each file is asked for its own of the columns, so that two that name them differently can be compared.
    there = [rows.names(path) for path in (arguments.a, arguments.b)]
    both = [
        _read(arguments, path, {old: new for old, new in arguments.columns.items() if old in own or old not in other})
        for path, own, other in zip((arguments.a, arguments.b), there, reversed(there), strict=True)
    ]
    result = comparison.compare(*both, draws=arguments.draws, seed=arguments.seed)
    result |= {'files': [arguments.a, arguments.b]}
    out.say([*(line for gone in result['left_out'] for line in show.left_out(gone)), *show.compare(result)])
    out.numbers(result, arguments.json)
    if arguments.plots:
        from gpt_jax.scaling.view import comparison_figure

        out.figures(comparison_figure.compare(result, arguments.plots))


def _read(
    arguments: argparse.Namespace, path: str, columns: dict[str, str] | None = None, *, for_fitting: bool = True
) -> Runs:
    return table.read(
        path, columns=arguments.columns if columns is None else columns, count=arguments.count, flops=arguments.flops,
        drop_highest=arguments.drop_highest, for_fitting=for_fitting,
    )  # fmt: skip


def _fitting(arguments: argparse.Namespace) -> dict[str, Any]:
    """The flags of cli.py's _law_flags as analysis.fit takes them."""
    return {
        'law': arguments.law, 'delta': arguments.delta, 'draws': arguments.draws, 'seed': arguments.seed,
        'holdout': arguments.holdout, 'at_flops': arguments.at_flops, 'constants': arguments.base,
        'keep_outliers': arguments.keep_outliers, 'starts': arguments.starts,
        'which': ('1', '2', '3') if arguments.approach == 'all' else (arguments.approach,),
    }  # fmt: skip
