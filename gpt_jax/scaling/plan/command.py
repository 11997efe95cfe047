"""What does `plan` do with its flags? One run, an isoFLOP sweep or a trunk with branches: planned, printed, written."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpt_jax import files
from gpt_jax.errors import UserError
from gpt_jax.scaling import analysis, confidence, optimal, outliers, surface
from gpt_jax.scaling import runs as table
from gpt_jax.scaling.plan import past, planner, shapes, sweepfile, sweeps, trials, trunks
from gpt_jax.scaling.view import out, show

HOURS_TRIES = 6
CONTEXT, VOCAB = 2048, 50257  # of a plan, where nothing says others
SIZES, SPAN = 5, 3.0  # of an isoFLOP sweep; sweeps.py says why
SWEEP_FLAGS = {  # the ways of planning that each goes with
    'sizes': ('isoflop',), 'span': ('isoflop',), 'head_dim': ('isoflop',), 'layers': ('isoflop', 'cooldowns'),
    'width': ('cooldowns',), 'heads': ('cooldowns',), 'params': ('cooldowns',), 'warmup': ('cooldowns',),
    'batch': ('isoflop', 'cooldowns'), 'learning_rate': ('isoflop', 'cooldowns'), 'base': ('isoflop', 'cooldowns'),
}  # fmt: skip


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
        out.say(show.left_out(given.left_out))
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
    out.say(show.plan(result))
    if arguments.config:
        files.write_text(arguments.config, planner.config_file(result, Path(arguments.config).stem))
        print(f'config: {arguments.config}; python run.py --config={arguments.config}')
    out.numbers(result, arguments.json)


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
    out.say([*show.left_out(result['left_out']), *show.isoflop(result)])
    _write_config(arguments, sweepfile.isoflop, result)
    out.numbers(result, arguments.json)


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
    out.say(show.cooldowns(result))
    _write_config(arguments, sweepfile.cooldowns, result)
    out.numbers(result, arguments.json)


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
