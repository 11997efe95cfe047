"""What does each command do with its flags? Reads, calls one room, prints, writes; cli.py knows the flags."""

import argparse
import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gpt_jax import files
from gpt_jax.errors import UserError
from gpt_jax.scaling import analysis, comparison, confidence, ledger, optimal, outliers, rows, surface
from gpt_jax.scaling import runs as table
from gpt_jax.scaling.plan import past, planner, shapes, subject, sweepfile, sweeps, trials, trunks
from gpt_jax.scaling.runs import Runs
from gpt_jax.scaling.view import show

HOURS_TRIES = 6
CONTEXT, VOCAB = 2048, 50257  # of a plan, where nothing says others
SIZES, SPAN = 5, 3.0  # of an isoFLOP sweep; sweeps.py says why
SWEEP_FLAGS = {  # the ways of planning that each goes with
    'sizes': ('isoflop',), 'span': ('isoflop',), 'head_dim': ('isoflop',), 'layers': ('isoflop', 'cooldowns'),
    'width': ('cooldowns',), 'heads': ('cooldowns',), 'params': ('cooldowns',), 'warmup': ('cooldowns',),
    'batch': ('isoflop', 'cooldowns'), 'learning_rate': ('isoflop', 'cooldowns'), 'base': ('isoflop', 'cooldowns'),
}  # fmt: skip

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
    _print(lines)
    _write(result, arguments.json)
    if arguments.plots and arguments.law != 'power':
        from gpt_jax.scaling.view import figures

        _name_figures(figures.fit(result, arguments.plots))
    elif arguments.plots:
        from gpt_jax.scaling.view import plots

        if 'forecast' not in result:
            raise UserError('--plots: too few sizes to leave the largest out, and that is what the figure shows')
        path = Path(arguments.plots) / f'power_{arguments.over}.png'
        _name_figures(plots.scaling_curve(*analysis.as_ladder(result), path))


def report(arguments: argparse.Namespace) -> None:
    from gpt_jax.scaling.view import report as pages

    _suited(arguments, approach='all')
    lines = pages.from_records(
        arguments.data, arguments.html, arguments.ledger, columns=arguments.columns, count=arguments.count,
        flops=arguments.flops, drop_highest=arguments.drop_highest, over=arguments.over,
        irreducible=not arguments.no_irreducible, **_fitting(arguments),
    )  # fmt: skip
    _print(lines)


def plan(arguments: argparse.Namespace) -> None:
    _allowed(arguments)
    if arguments.isoflop:
        return _isoflop(arguments)
    if arguments.cooldowns:
        return _cooldowns(arguments)
    constants, drawn, cost, source = planner.PUBLISHED, [], optimal.SIX, 'Besiroglu et al. 2024'
    if arguments.runs:
        given = table.read(arguments.runs, columns=arguments.columns, count=arguments.count)
        given, delta, _ = outliers.cleaned('chinchilla', given)
        _print(show.left_out(given.left_out))
        found = surface.fit('chinchilla', surface.data(given), delta=delta, tries=analysis.TRIES)
        constants, cost, source = found.constants, optimal.cost(given), arguments.runs
        drawn = confidence.bootstrap(found, surface.data(given), confidence.counts(given, arguments.draws, 0)[0])
    hardware = _hardware(arguments)
    flops = planner.hours_to_flops(arguments.hours, **hardware) if arguments.hours else arguments.budget
    for _ in range(HOURS_TRIES if arguments.hours else 1):
        result = planner.plan(
            constants, flops=flops, tokens=arguments.tokens, cost=cost, drawn=drawn, count=arguments.count or 'total',
            context=arguments.context or CONTEXT, vocab=arguments.vocab or VOCAB, price=arguments.price, **hardware,
        )  # fmt: skip
        if arguments.hours:  # the hours are spent on attention too, which a law's FLOPs may leave out
            flops *= arguments.hours / result['hours']
    result |= {'law': {'source': source, 'constants': constants}, 'device': _device(arguments)}
    _print(show.plan(result))
    if arguments.config:
        files.write_text(arguments.config, planner.config_file(result, Path(arguments.config).stem))
        print(f'config: {arguments.config}; python run.py --config={arguments.config}')
    _write(result, arguments.json)


def _isoflop(arguments: argparse.Namespace) -> None:
    there = past.read(arguments.runs, arguments.columns, arguments.count) if arguments.runs else None
    frame = shapes.Frame(
        counted=arguments.count or 'without_positions',  # what train.flops counts
        context=_own(arguments, there, 'context', 'context') or CONTEXT,
        vocab=_own(arguments, there, 'vocab', 'vocab_size') or VOCAB,
        head_dim=arguments.head_dim or (past.head_dim(there) if there else None),
        layers=arguments.layers or (past.own(there, 'layers') if there else None),
    )
    batch = arguments.batch or (past.own(there, 'batch') if there else None)
    result = sweeps.isoflop(
        arguments.isoflop, sizes=arguments.sizes or SIZES, span=arguments.span or SPAN, frame=frame,
        rules=trials.Rules(arguments.learning_rate, batch, there), hardware=_hardware(arguments),
        price=arguments.price,
    )  # fmt: skip
    result |= {'device': _device(arguments), 'left_out': there.runs.left_out if there else []}
    _print([*show.left_out(result['left_out']), *show.isoflop(result)])
    _write_config(arguments, sweepfile.isoflop, result)
    _write(result, arguments.json)


def _cooldowns(arguments: argparse.Namespace) -> None:
    shape = trunks.shape(
        arguments.layers, arguments.width, arguments.heads, arguments.params, count=arguments.count or 'total',
        context=arguments.context or CONTEXT, vocab=arguments.vocab or VOCAB,
    )  # fmt: skip
    result = trunks.cooldowns(
        arguments.cooldowns, shape, batch=arguments.batch, warmup=arguments.warmup, rate=arguments.learning_rate,
        hardware=_hardware(arguments), price=arguments.price,
    )  # fmt: skip
    result['device'] = _device(arguments)
    _print(show.cooldowns(result))
    _write_config(arguments, sweepfile.cooldowns, result)
    _write(result, arguments.json)


def _own(arguments: argparse.Namespace, there: past.Past | None, flag: str, column: str) -> int | None:
    """What the runs share, or the flag."""
    said, own = getattr(arguments, flag), past.own(there, column) if there else None
    if said and own and said != own:
        raise UserError(f'--{flag}={said}: that of the runs is {own}, and a sweep has one; leave the flag out')
    return said or own


def _allowed(arguments: argparse.Namespace) -> None:
    """Raises UserError for a flag that the way of planning makes no use of."""
    way = 'isoflop' if arguments.isoflop else 'cooldowns' if arguments.cooldowns else ''
    for name, ways in SWEEP_FLAGS.items():
        if getattr(arguments, name) is not None and way not in ways:
            raise UserError(f'--{name.replace("_", "-")}: goes with --{" or --".join(ways)}')
    if arguments.columns and not arguments.runs:
        raise UserError('--columns: goes with --runs, whose columns it names')
    if arguments.base and not arguments.base.isidentifier():
        raise UserError(f'--base={arguments.base}: the name of a module of configs/, cpu say')


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


def _hardware(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.measured:
        return _measured(arguments.measured, arguments.devices)
    if arguments.peak is None and arguments.device not in planner.DEVICES:
        raise UserError(f'--device={arguments.device}: one of {", ".join(planner.DEVICES)}; --peak=FLOPS for another')
    if arguments.utilization > 1:
        raise UserError(f'--utilization={arguments.utilization:g}: a share of the peak, above 0 and at most 1')
    return {
        'peak': arguments.peak or planner.DEVICES[arguments.device],
        'utilization': arguments.utilization,
        'devices': arguments.devices,
    }


def _device(arguments: argparse.Namespace) -> str:
    return 'the measured device' if arguments.measured else str(arguments.device)


def _measured(path: str, devices: int) -> dict[str, Any]:
    """What run.py --mode=benchmark --benchmark_output=PATH found, of one device."""
    found = files.read_json(path)
    try:
        here = int(found['devices'])
        return {
            'peak': found['peak_flops'] / here, 'utilization': found['model_flops_utilization'], 'devices': devices
        }  # fmt: skip
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f'--measured={path}: not what --benchmark_output writes ({error!r})') from None


def _write_config(arguments: argparse.Namespace, text: Callable[[Any, str, str], str], result: dict[str, Any]) -> None:
    if arguments.config:
        files.write_text(arguments.config, text(result, arguments.config, arguments.base or 'base'))
        print(f'config: {arguments.config}; python run.py --config={arguments.config}')


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
    _print(show.left_out(made['left_out']))
    _print(show.forecast(ledger.add(arguments.ledger, made), arguments.ledger))


def verify(arguments: argparse.Namespace) -> None:
    forecasts = ledger.read(arguments.ledger)
    given = _read(arguments, arguments.runs, for_fitting=False)
    counts = set() if arguments.count else rows.counts(arguments.runs, arguments.columns)

    def under(count: str) -> Runs:
        if count not in counts:
            return given
        return table.read(arguments.runs, columns=arguments.columns, count=count, for_fitting=False)

    result = ledger.verify(forecasts, functools.cache(under)) | {'left_out': given.left_out}
    _print([*show.left_out(given.left_out), *show.verify(result)])
    _write(result, arguments.json)


def compare(arguments: argparse.Namespace) -> None:
    # Each file is asked for its own of the columns, so that two that name them differently can be compared.
    there = [rows.names(path) for path in (arguments.a, arguments.b)]
    both = [
        _read(arguments, path, {old: new for old, new in arguments.columns.items() if old in own or old not in other})
        for path, own, other in zip((arguments.a, arguments.b), there, reversed(there), strict=True)
    ]
    result = comparison.compare(*both, draws=arguments.draws, seed=arguments.seed)
    result |= {'files': [arguments.a, arguments.b]}
    _print([*(line for gone in result['left_out'] for line in show.left_out(gone)), *show.compare(result)])
    _write(result, arguments.json)
    if arguments.plots:
        from gpt_jax.scaling.view import comparison_figure

        _name_figures(comparison_figure.compare(result, arguments.plots))


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


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


def _name_figures(paths: Iterable[Path]) -> None:
    _print(f'figure: {path}' for path in paths)


def _write(result: dict[str, Any], path: str | None) -> None:
    if path:
        files.write_json(path, analysis.plain(result))
        print(f'numbers: {path}')
