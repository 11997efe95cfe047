"""The plan command: one run, an isoFLOP sweep, or a trunk with branches, and the config file.

Its flags are declared in gpt_jax/cli/plan.py.
"""

import argparse
from pathlib import Path
from typing import Any

from gpt_jax.core import files
from gpt_jax.core.config_cli import read_config_file
from gpt_jax.core.errors import UserError
from gpt_jax.core.hardware import CHIPS, find_peak_flops
from gpt_jax.scaling import identifiability
from gpt_jax.scaling.plan import (
    DEFAULT_CONTEXT,
    DEFAULT_SIZES,
    DEFAULT_SPAN,
    DEFAULT_VOCAB,
    cooldown_plan,
    isoflop_plan,
    planner,
    trial_rows,
    write_config,
)
from gpt_jax.scaling.plan.shapes import ACTIVE_COUNTS, BYTE_VOCAB, GPT2, Architecture, ShapeFamily
from gpt_jax.scaling.plan.trial_rows import PreviousRuns
from gpt_jax.scaling.report import terminal
from gpt_jax.scaling.runs import read_runs

HOURS_ITERATIONS = 6
SWEEP_FLAGS = {  # the kinds of plan that use each flag
    'sizes': ('isoflop',),
    'span': ('isoflop',),
    'head_dim': ('isoflop',),
    'layers': ('isoflop', 'cooldowns'),
    'width': ('cooldowns',),
    'heads': ('cooldowns',),
    'params': ('cooldowns',),
    'warmup': ('cooldowns',),
    'batch': ('isoflop', 'cooldowns'),
    'learning_rate': ('isoflop', 'cooldowns'),
}


def plan(arguments: argparse.Namespace) -> None:
    """Run the command: print the plan, and write its config and numbers if requested.

    Raises:
      UserError: a flag does not fit the others, or no plan is possible.
    """
    _check_flags(arguments)
    architecture, vocab = _read_base(arguments.base)
    if arguments.count in ACTIVE_COUNTS and architecture.raw_model['feedforward'] != 'experts':
        raise UserError(f'--count={arguments.count}: needs a --base with experts; use total')
    if arguments.isoflop:
        _plan_isoflop(arguments, architecture, vocab)
    elif arguments.cooldowns:
        _plan_cooldowns(arguments, architecture, vocab)
    else:
        _plan_run(arguments, architecture, vocab)


def _plan_run(arguments: argparse.Namespace, architecture: Architecture, vocab: int) -> None:
    optimum: planner.LawOptimum | planner.PosteriorOptimum
    optimum, gap = planner.LawOptimum(planner.PUBLISHED_LAW), ''
    if arguments.runs:
        optimum, gap = _fit_runs(arguments)
    hardware = _find_hardware(arguments)
    flops = arguments.budget
    if arguments.hours:
        flops = planner.convert_hours_to_flops(arguments.hours, **hardware)
    for _ in range(HOURS_ITERATIONS if arguments.hours else 1):
        result = planner.plan_run(
            optimum,
            flops=flops,
            tokens=arguments.tokens,
            count=arguments.count or 'total',
            context=arguments.context or DEFAULT_CONTEXT,
            vocab=arguments.vocab or vocab,
            price=arguments.price,
            architecture=architecture,
            **hardware,
        )
        if arguments.hours:
            # The hours include attention, which the FLOPs of a law may leave out.
            flops *= arguments.hours / result['hours']
    source = arguments.runs or 'Besiroglu et al. 2024'
    result |= {'law': {'source': source, 'constants': optimum.constants}, 'design_gap': gap}
    result |= {'device': _describe_device(arguments)}
    terminal.print_lines(terminal.format_plan(result))
    if arguments.config and gap:
        raise UserError(f'--config: no config is written, since N* is {gap}')
    if arguments.config:
        name = Path(arguments.config).stem
        text = write_config.render_run_config(result, name, arguments.base or '', architecture)
        _write_config(arguments.config, text)
    terminal.write_numbers(result, arguments.json)


def _fit_runs(arguments: argparse.Namespace) -> tuple[planner.PosteriorOptimum, str]:
    """Fit the posterior to the runs; return it and what the runs cannot identify, or ''."""
    runs = read_runs(
        arguments.runs,
        columns=arguments.columns,
        count=arguments.count,
        loss_unit=arguments.loss_unit,
    )
    optimum = planner.PosteriorOptimum(runs, arguments.draws)
    terminal.print_lines(
        [*terminal.format_notes(runs.notes), *terminal.format_left_out(optimum.runs.left_out)]
    )
    gap = identifiability.find_design_gap(optimum.runs)
    return optimum, gap.describe() if gap else ''


def _plan_isoflop(arguments: argparse.Namespace, architecture: Architecture, vocab: int) -> None:
    previous, shared_layers, shared_batch, head_dim = None, None, None, None
    if arguments.runs:
        previous = trial_rows.read_previous_runs(
            arguments.runs, arguments.columns, arguments.count, arguments.loss_unit
        )
        shared_layers = trial_rows.get_shared_value(previous, 'layers')
        shared_batch = trial_rows.get_shared_value(previous, 'batch')
        head_dim = trial_rows.find_head_dim(previous)
    family = ShapeFamily(
        counted=arguments.count or 'without_positions',  # what train.flops counts
        context=_flag_or_shared(arguments.context, previous, 'context', 'context')
        or DEFAULT_CONTEXT,
        vocab=_flag_or_shared(arguments.vocab, previous, 'vocab', 'vocab_size') or vocab,
        head_dim=arguments.head_dim or head_dim,
        layers=arguments.layers or shared_layers,
        architecture=architecture,
    )
    batch = arguments.batch or shared_batch
    result = isoflop_plan.plan_isoflop(
        arguments.isoflop,
        sizes=arguments.sizes or DEFAULT_SIZES,
        span=arguments.span or DEFAULT_SPAN,
        family=family,
        rules=trial_rows.TrialRules(arguments.learning_rate, batch, previous),
        hardware=_find_hardware(arguments),
        price=arguments.price,
    )
    result |= {'device': _describe_device(arguments)}
    result |= {'left_out': previous.runs.left_out if previous else []}
    terminal.print_lines(terminal.format_notes(previous.runs.notes if previous else ()))
    terminal.print_lines(terminal.format_left_out(result['left_out']))
    terminal.print_lines(terminal.format_isoflop_sweep(result))
    if arguments.config:
        text = write_config.render_isoflop_config(result, arguments.config, arguments.base or '')
        _write_config(arguments.config, text)
    terminal.write_numbers(result, arguments.json)


def _plan_cooldowns(arguments: argparse.Namespace, architecture: Architecture, vocab: int) -> None:
    shape = cooldown_plan.choose_shape(
        arguments.layers,
        arguments.width,
        arguments.heads,
        arguments.params,
        count=arguments.count or 'total',
        context=arguments.context or DEFAULT_CONTEXT,
        vocab=arguments.vocab or vocab,
        architecture=architecture,
    )
    result = cooldown_plan.plan_cooldowns(
        arguments.cooldowns,
        shape,
        batch=arguments.batch,
        warmup=arguments.warmup,
        rate=arguments.learning_rate,
        hardware=_find_hardware(arguments),
        price=arguments.price,
        architecture=architecture,
    )
    result['device'] = _describe_device(arguments)
    terminal.print_lines(terminal.format_cooldowns(result))
    if arguments.config:
        text = write_config.render_cooldown_config(result, arguments.config, arguments.base or '')
        _write_config(arguments.config, text)
    terminal.write_numbers(result, arguments.json)


def _check_flags(arguments: argparse.Namespace) -> None:
    """Raise UserError for a flag that this kind of plan does not use."""
    kind = 'isoflop' if arguments.isoflop else 'cooldowns' if arguments.cooldowns else ''
    for name, kinds in SWEEP_FLAGS.items():
        if getattr(arguments, name) is not None and kind not in kinds:
            raise UserError(f'--{name}: requires --{" or --".join(kinds)}')
    for flag in ('columns', 'loss_unit'):
        if getattr(arguments, flag) and not arguments.runs:
            raise UserError(f'--{flag}: requires --runs, whose columns it is about')


def _read_base(base: str | None) -> tuple[Architecture, int]:
    """Return the architecture and the default vocabulary size of a module of configs/.

    If the vocabulary of the base is unknown, the general default is kept.
    """
    if not base:
        return GPT2, DEFAULT_VOCAB
    if not base.isidentifier():
        raise UserError(f'--base: must name a module of configs/, such as cpu, got {base}')
    raw_config = read_config_file(
        str(Path('configs', f'{base}.py'))
    )  # run.py will import this file
    vocab = BYTE_VOCAB if raw_config['data']['tokenizer'] == 'bytes' else DEFAULT_VOCAB
    return Architecture(raw_config['model']), raw_config['model']['vocab_size'] or vocab


def _flag_or_shared(
    value: int | None, previous: PreviousRuns | None, flag: str, column: str
) -> int | None:
    """Return the flag's value, or the value that all runs share; the two must agree."""
    shared = trial_rows.get_shared_value(previous, column) if previous else None
    if value and shared and value != shared:
        raise UserError(f'--{flag}: must be {shared}, as in the runs, got {value}; leave it out')
    return value or shared


def _find_hardware(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the planner's keyword arguments peak, utilization and devices."""
    if arguments.measured:
        return _read_benchmark(arguments.measured, arguments.devices)
    peak = arguments.peak or find_peak_flops(arguments.device)
    if peak is None:
        raise UserError(
            f'--device={arguments.device}: must be one of {", ".join(CHIPS)}; '
            'or give its peak as --peak=FLOPS'
        )
    if arguments.utilization > 1:
        raise UserError(
            f'--utilization: must be in (0, 1], a share of the peak, got {arguments.utilization:g}'
        )
    return {'peak': peak, 'utilization': arguments.utilization, 'devices': arguments.devices}


def _read_benchmark(path: str, devices: int) -> dict[str, Any]:
    """Read the peak and utilization that run.py --mode=benchmark measured, for one device."""
    report = files.read_json(path)
    try:
        peak = report['peak_flops'] / int(report['devices'])
        utilization = report['model_flops_utilization']
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(
            f'--measured={path}: must be a file that --benchmark_output writes ({error!r})'
        ) from None
    return {'peak': peak, 'utilization': utilization, 'devices': devices}


def _describe_device(arguments: argparse.Namespace) -> str:
    return 'the measured device' if arguments.measured else str(arguments.device)


def _write_config(path: str, text: str) -> None:
    files.write_text(path, text)
    print(f'config: {path}; python run.py --config={path}')
