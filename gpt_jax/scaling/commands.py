"""What does each command do with its flags? Reads, calls one room, prints, writes; cli.py knows the flags."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpt_jax import files
from gpt_jax.errors import UserError
from gpt_jax.scaling import analysis, comparison, confidence, ledger, optimal, planner, show, surface
from gpt_jax.scaling import runs as table
from gpt_jax.scaling.runs import Runs


def fit(arguments: argparse.Namespace) -> None:
    given = _read(arguments, arguments.data)
    if arguments.law == 'power':
        result = analysis.power(given, arguments.over, irreducible=not arguments.no_irreducible, delta=arguments.delta)
        lines = show.power(result, arguments.over)
    else:
        result = analysis.fit(given, **_fitting(arguments))
        lines = show.fit(result)
        if 'error' in given.more:
            result['downstream'] = analysis.downstream(given)
            lines += show.downstream(result['downstream'])
    _print(lines)
    _write(result, arguments.json)
    if arguments.plots and arguments.law != 'power':
        from gpt_jax.scaling import figures

        _name_figures(figures.fit(result, arguments.plots))
    elif arguments.plots:
        from gpt_jax.scaling import plots

        if 'forecast' not in result:
            raise UserError('--plots: too few sizes to leave the largest out, and that is what the figure shows')
        path = Path(arguments.plots) / f'power_{arguments.over}.png'
        _name_figures(plots.scaling_curve(*analysis.as_ladder(result), path))


def report(arguments: argparse.Namespace) -> None:
    from gpt_jax.scaling import report as pages

    lines = pages.from_records(
        arguments.data, arguments.html, arguments.ledger, columns=arguments.columns, count=arguments.count,
        flops=arguments.flops, drop_highest=arguments.drop_highest, over=arguments.over,
        irreducible=not arguments.no_irreducible, **_fitting(arguments),
    )  # fmt: skip
    _print(lines)


def plan(arguments: argparse.Namespace) -> None:
    if arguments.peak is None and arguments.device not in planner.DEVICES:
        raise UserError(f'--device={arguments.device}: one of {", ".join(planner.DEVICES)}; --peak=FLOPS for another')
    if arguments.utilization > 1:
        raise UserError(f'--utilization={arguments.utilization:g}: a share of the peak, above 0 and at most 1')
    constants, drawn, cost, source = planner.PUBLISHED, [], optimal.SIX, 'Besiroglu et al. 2024'
    if arguments.runs:
        given = table.read(arguments.runs, columns=arguments.columns, count=arguments.count)
        given, delta, _ = analysis.cleaned('chinchilla', given)
        _print(show.left_out(given.left_out))
        found = surface.fit('chinchilla', surface.data(given), delta=delta, tries=analysis.TRIES)
        constants, cost, source = found.constants, optimal.cost(given), arguments.runs
        drawn = confidence.bootstrap(found, surface.data(given), confidence.counts(given, arguments.draws, 0)[0])
    hardware = {
        'peak': arguments.peak or planner.DEVICES[arguments.device],
        'utilization': arguments.utilization,
        'devices': arguments.devices,
    }
    flops = planner.hours_to_flops(arguments.hours, **hardware) if arguments.hours else arguments.budget
    result = planner.plan(
        constants, flops=flops, tokens=arguments.tokens, cost=cost, drawn=drawn, count=arguments.count or 'total',
        context=arguments.context, vocab=arguments.vocab, price=arguments.price, **hardware,
    )  # fmt: skip
    result |= {'law': {'source': source, 'constants': constants}, 'device': arguments.device}
    _print(show.plan(result))
    if arguments.config:
        files.write_text(arguments.config, planner.config_file(result, Path(arguments.config).stem))
        print(f'config: {arguments.config}; python run.py --config={arguments.config}')
    _write(result, arguments.json)


def forecast(arguments: argparse.Namespace) -> None:
    given = _read(arguments, arguments.data)
    made = ledger.forecast(
        given, arguments.params, arguments.tokens, law=arguments.law, draws=arguments.draws, seed=arguments.seed,
        name=arguments.name or f'{arguments.params:.4g} on {arguments.tokens:.4g}',
    )  # fmt: skip
    _print(show.left_out(made['left_out']))
    _print(show.forecast(ledger.add(arguments.ledger, made), arguments.ledger))


def verify(arguments: argparse.Namespace) -> None:
    forecasts = ledger.read(arguments.ledger)
    given = _read(arguments, arguments.runs)
    result = ledger.verify(forecasts, given) | {'left_out': given.left_out}
    _print([*show.left_out(given.left_out), *show.verify(result)])
    _write(result, arguments.json)


def compare(arguments: argparse.Namespace) -> None:
    both = [_read(arguments, path) for path in (arguments.a, arguments.b)]
    result = comparison.compare(*both, draws=arguments.draws, seed=arguments.seed)
    result |= {'files': [arguments.a, arguments.b], 'left_out': [one.left_out for one in both]}
    _print([*show.left_out(both[0].left_out), *show.left_out(both[1].left_out), *show.compare(result)])
    _write(result, arguments.json)
    if arguments.plots:
        from gpt_jax.scaling import comparison_figure

        _name_figures(comparison_figure.compare(result, arguments.plots))


def _read(arguments: argparse.Namespace, path: str) -> Runs:
    return table.read(
        path, columns=arguments.columns, count=arguments.count, flops=arguments.flops,
        drop_highest=arguments.drop_highest,
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
