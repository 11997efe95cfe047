"""Memory, time and cost of a run on a machine that is not attached: one config, or a search."""

import dataclasses
import math
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from gpt_jax.core import hardware, jax_setup, model_counts
from gpt_jax.core.config import AUTO, Config, RawConfig, parse_config
from gpt_jax.core.errors import UserError
from gpt_jax.core.formatting import format_bytes
from gpt_jax.core.progress import LogFn
from gpt_jax.parallel.rules import LOGICAL_AXIS_RULES
from gpt_jax.preflight import model_cost, splash_kernels, topology
from gpt_jax.preflight.compile_step import CompiledStep, compile_step, parse_compiler_options
from gpt_jax.preflight.estimate import StepEstimate, estimate_step
from gpt_jax.preflight.search import find_changed_fields, rank_candidates
from gpt_jax.preflight.topology import Machine


def make_report(
    config: Config,
    machine: Machine,
    step: CompiledStep,
    estimate: StepEstimate | None,
    price: float | None,
) -> dict[str, Any]:
    """Combine memory and cost of the compiled step into one report.

    Args:
      estimate: None: the step does not fit, and only memory is reported.
      price: US dollars per chip-hour; None: the list price.

    Returns:
      chips_used: chips in the mesh; the others are idle but paid for.
      fits, short_bytes: whether the step fits in memory, and the bytes that a device lacks.
      memory_bytes: bytes on one device, by kind.
      flops_compiled, flops_model: FLOPs of one step on all devices.
      flops_reasons: FLOPs per step by reason, adding up to flops_expected.
      seconds_per_step; seconds_floor: at the chip's peak and bandwidth, without overlap.
      utilization_with_attention, utilization_causal: the model's FLOPs by that convention
        (core/model_counts.py), without recomputation, over the peak (MFU, Chowdhery et al. 2022,
        appendix B).
      collectives: collectives of one device and step, by kind and source.
      parts: seconds of each part of the step.
      days, cost: duration and cost of the whole run; cost is None without a price.
    """
    chip, steps = machine.chip, config.steps
    used = math.prod(step.mesh.values())
    tokens = config.tokens_per_step
    counts = model_counts.flops_per_token(config.model)
    report: dict[str, Any] = {
        'name': config.name,
        'topology': machine.name,
        'chips': machine.chips,
        'chips_used': used,
        'kind': 'compiler' if machine.is_tpu else 'estimate',
        'mesh': step.mesh,
        'strategy': config.mesh.strategy,
        'batch': config.train.batch_size,
        'context': config.model.context,
        'microbatches': step.microbatches,
        'remat': config.model.remat,
        'attention_kernel': config.model.attention_kernel,
        'fits': step.missing_bytes == 0,
        'short_bytes': step.missing_bytes,
        'memory_limit_bytes': step.limit_bytes,
        'memory_bytes': step.memory_bytes,
        'compile_seconds': round(step.compile_seconds, 1),
        'versions': jax_setup.find_versions() | _find_libtpu_version(),
    }
    if estimate is None:
        return report
    reasons = {
        name: value * tokens for name, value in model_cost.explain_flops(config.model).items()
    }
    expected = sum(reasons.values())
    executed = estimate.flops * used
    peak_flops = chip.bfloat16_peak * machine.chips * estimate.seconds
    price = chip.price_per_hour if price is None else price
    days = steps * estimate.seconds / 86400
    return report | {
        'flops_compiled': executed,
        'flops_model': counts['with_attention'] * tokens,
        'flops_reasons': reasons,
        'flops_expected': expected,
        'flops_unexplained': executed / expected - 1,
        'bytes_moved': estimate.moved_bytes,
        'seconds_per_step': estimate.seconds,
        'seconds_floor': estimate.ideal_seconds,
        'seconds_sending': estimate.collective_seconds,
        'seconds_waiting_for_links': estimate.exposed_seconds,
        'utilization_with_attention': counts['with_attention'] * tokens / peak_flops,
        'utilization_causal': counts['causal'] * tokens / peak_flops,
        'tokens_per_second': tokens / estimate.seconds,
        'steps': steps,
        'days': days,
        'price_per_chip_hour': price,
        'price_source': (
            hardware.PRICE_SOURCE if price == chip.price_per_hour and price else 'given'
        ),
        'cost': None if price is None else days * 24 * machine.chips * price,
        'collectives': _summarize_collectives(estimate),
        'parts': [
            {
                'name': part.name,
                'seconds': part.cycles,
                'share': part.cycles / estimate.seconds,
                'most': list(part.examples),
            }
            for part in estimate.parts
        ],
        'counted_as_nothing': estimate.unknown,
    }


def _summarize_collectives(estimate: StepEstimate) -> list[dict[str, Any]]:
    """Merge collectives of the same kind, group size, bytes and source; the longest first."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for collective, seconds in estimate.collectives:
        source = '/'.join(collective.op_name.split('/')[-3:])
        key = (collective.kind, collective.group_size, collective.bytes, source)
        row = rows.setdefault(
            key,
            {
                'kind': collective.kind,
                'bytes': collective.bytes,
                'group': collective.group_size,
                'dtype': collective.dtype,
                'source': source,
                'times': 0,
                'seconds': 0.0,
                'asynchronous': collective.asynchronous,
            },
        )
        row['times'] += collective.executions
        row['seconds'] += collective.executions * seconds
    return sorted(rows.values(), key=lambda row: -row['seconds'])


def _find_libtpu_version() -> dict[str, str]:
    try:
        return {'libtpu': metadata.version('libtpu')}
    except metadata.PackageNotFoundError:
        return {}


def format_report(report: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a report."""
    r = report
    axes = (f'{axis} {size}' for axis, size in r['mesh'].items() if size > 1)
    mesh = ' x '.join(axes) or 'one device'
    method = f'compiled for it in {r["compile_seconds"]:.0f} s'
    if r['kind'] != 'compiler':
        method = f'ESTIMATE: closed forms, and compiled for CPU in {r["compile_seconds"]:.0f} s'
    yield f'{r["name"]} on {r["topology"]} ({r["chips"]} chips, {mesh}), {method}'
    if r['chips_used'] < r['chips']:
        yield (
            f'ONLY {r["chips_used"]} of {r["chips"]} chips are used: '
            'the batch sizes do not divide over more'
        )
    memory, limit = r['memory_bytes'], format_bytes(r['memory_limit_bytes'])
    kinds = ', '.join(
        f'{kind} {format_bytes(count)}' for kind, count in memory.items() if kind != 'total'
    )
    if r['fits']:
        yield f'fits: {format_bytes(memory["total"])} of {limit} per device; {kinds}'
    else:
        yield f'DOES NOT FIT: each device lacks {r["short_bytes"]:,} bytes of {limit}; {kinds}'
    if 'seconds_per_step' in r:
        yield from _format_estimate(r)


def _format_estimate(r: dict[str, Any]) -> Iterator[str]:
    """Yield the lines on time, cost, FLOPs, collectives and parts."""
    yield (
        f'{r["seconds_per_step"] * 1e3:.4g} ms per step '
        f'({r["seconds_floor"] * 1e3:.4g} at peak rates), '
        f'{r["seconds_waiting_for_links"] * 1e3:.3g} of them exposed communication; '
        f'{format_bytes(r["bytes_moved"])} moved per device'
    )
    yield (
        f'utilization {r["utilization_with_attention"]:.1%} (model FLOPs, all scores: PaLM), '
        f'{r["utilization_causal"]:.1%} (visible scores only)'
    )
    if r['cost'] is None:
        cost = 'no price known; give --price'
    else:
        cost = (
            f'${r["cost"]:,.0f} at ${r["price_per_chip_hour"]} per chip-hour ({r["price_source"]})'
        )
    yield f'the run: {r["steps"]:,} steps, {r["days"]:.3g} days; {cost}'
    yield (
        f'FLOPs per step: {r["flops_compiled"]:.4g} in the program, '
        f'{r["flops_model"]:.4g} of the model; '
        f'{r["flops_unexplained"]:+.1%} off the sum of these reasons:'
    )
    for name, value in r['flops_reasons'].items():
        yield f'  {value:+12.4g}  {name}'
    yield 'collectives (one device, one step):'
    for row in r['collectives'][:8]:
        asynchronous = ', asynchronous' if row['asynchronous'] else ''
        yield (
            f'  {row["seconds"] * 1e3:9.3f} ms  {row["times"]:5d} x '
            f'{format_bytes(row["bytes"]):>8} {row["kind"]} over '
            f'{row["group"]}{asynchronous}  {row["source"]}'
        )
    yield 'the most expensive parts:'
    for part in r['parts'][:3]:
        yield (
            f'  {part["seconds"] * 1e3:9.3f} ms  {part["share"]:6.1%}  {part["name"]}  '
            f'({", ".join(part["most"])})'
        )
    if r['counted_as_nothing']:
        yield f'counted as zero: {", ".join(r["counted_as_nothing"][:8])}'


SEARCH_CANDIDATES = 4  # candidates of a search that must fit before it ends
# GPT-2's, used if neither the model nor the tokenizer gives the size, since no text is read here.
DEFAULT_VOCAB_SIZE = 50_257


def run_preflight(
    raw_config: RawConfig, topology_name: str, price: float | None, options: str | None, log: LogFn
) -> dict[str, Any]:
    """Compile the training step of a config for a machine and report memory, time and cost.

    Args:
      topology_name: name of the machine, such as 'v5p:8x8x16'.
      price: US dollars per chip-hour; None: the list price.
      options: compiler options, 'xla_NAME=VALUE,...'.

    Returns:
      The report (make_report).
    """
    machine = topology.parse_machine(topology_name)
    devices = topology.make_devices(machine)
    config = fit_batch_size(prepare_config(raw_config, machine, log), machine, log)
    report = compile_and_report(config, machine, devices, price, parse_compiler_options(options))
    for line in format_report(report):
        log(line)
    return report


def prepare_config(raw_config: RawConfig, machine: Machine, log: LogFn) -> Config:
    """Parse a config, with a vocabulary size and an attention kernel that can be compiled here."""
    config = parse_config(raw_config, vocab_size=1)
    if config.model.vocab_size == 1:
        tokenizer = str(raw_config['data']['tokenizer'])
        vocab_size = 256 if tokenizer == 'bytes' else DEFAULT_VOCAB_SIZE
        if tokenizer.startswith('bpe:'):
            vocab_size = int(tokenizer[4:])
        config = parse_config(raw_config, vocab_size=vocab_size)
    kernel = config.model.attention_kernel
    if not machine.is_tpu and kernel != 'chunked':
        log(f'{kernel} attention compiles only on its own device; chunked is counted instead')
        model_config = dataclasses.replace(config.model, attention_kernel='chunked')
        config = dataclasses.replace(config, model=model_config)
    return config


def fit_batch_size(config: Config, machine: Machine, log: LogFn) -> Config:
    """Round the batch size to a multiple of the devices that share it.

    This applies only to a mesh with an automatic axis that shares the batch.
    """
    sizes, batch_axes = config.mesh.sizes, LOGICAL_AXIS_RULES['B']
    if config.mesh.strategy == AUTO or 0 not in (sizes[axis] for axis in batch_axes):
        return config
    other_sizes = [max(1, size) for axis, size in sizes.items() if axis not in batch_axes]
    shards = machine.chips // math.prod(other_sizes)
    if not shards:
        return config
    batch_size, eval_batch_size = (
        max(1, round(size / shards)) * shards
        for size in (config.train.batch_size, config.train.evaluation_batch_size)
    )
    if batch_size != config.train.batch_size:
        log(
            f'train.batch_size={config.train.batch_size} is not a multiple of the {shards} '
            f'devices that share it; the report is for {batch_size}'
        )
    train = dataclasses.replace(
        config.train, batch_size=batch_size, eval_batch_size=eval_batch_size
    )
    return dataclasses.replace(config, train=train)


def compile_and_report(
    config: Config,
    machine: Machine,
    devices: list[Any],
    price: float | None,
    options: dict[str, str],
) -> dict[str, Any]:
    """Compile the training step and return the report."""
    step = compile_step(config, machine, devices, options)
    if not step.text:
        return make_report(config, machine, step, None, price)
    kernels: dict[str, splash_kernels.KernelCode] = {}
    if machine.is_tpu and config.model.attention_kernel == 'splash':
        segments = config.data.packing == 'isolate'
        kernels = splash_kernels.compile_kernels(
            config.model, machine.generation, machine.chip.cores, segments
        )
    estimate = estimate_step(step, config, machine, kernels)
    return make_report(config, machine, step, estimate, price)


def run_search(
    raw_config: RawConfig,
    topology_name: str,
    price: float | None,
    options: str | None,
    log: LogFn,
    count: int | None = None,
) -> dict[str, Any]:
    """Compile the most promising candidates and rank those that fit by the time of a step.

    Args:
      count: candidates that must fit; at most twice as many, plus two, are compiled.

    Returns:
      The reports, the fastest first, and the numbers of candidates pruned and not compiled.

    Raises:
      UserError: no candidate fits.
    """
    count = SEARCH_CANDIDATES if count is None else count
    if count < 1:
        raise UserError(f'--candidates: must be positive, got {count}')
    machine = topology.parse_machine(topology_name)
    devices = topology.make_devices(machine)
    config = prepare_config(raw_config, machine, log)
    batch_size, chips = config.train.batch_size, machine.chips
    if batch_size % chips:
        nearest = max(1, round(batch_size / chips)) * chips
        log(
            f'train.batch_size={batch_size} is not a multiple of {chips} chips; '
            f'{nearest} is, and allows more candidates'
        )
    candidates, pruned = rank_candidates(config, machine)
    log(
        f'{len(candidates)} of {len(candidates) + pruned} candidates may fit by closed forms; '
        f'the best of them are compiled, until {count} fit'
    )
    reports: list[dict[str, Any]] = []
    compiler_options = parse_compiler_options(options)
    underestimate = 1.0  # largest factor so far by which the closed form was too small
    for candidate in candidates:
        fitting = sum(report['fits'] for report in reports)
        if fitting == count or len(reports) == 2 * count + 2:
            break
        if candidate.bytes * underestimate > machine.chip.memory_bytes:
            continue
        changed_fields = find_changed_fields(config, candidate.changes)
        flags = ' '.join(f'--config.{name}={value}' for name, value in changed_fields.items())
        report = compile_and_report(candidate.config, machine, devices, price, compiler_options)
        reports.append(report | {'flags': flags})
        if report['fits']:
            result = f'{report["seconds_per_step"] * 1e3:.4g} ms'
        else:
            result = f'lacks {format_bytes(report["short_bytes"])}'
            needed = machine.chip.memory_bytes + report['short_bytes']
            underestimate = max(underestimate, needed / candidate.bytes)
        log(f'{len(reports)}: {result:>14}  {flags or "the config itself"}')
    ranked = [report for report in reports if report['fits']]
    ranked.sort(key=lambda report: report['seconds_per_step'])
    if not ranked:
        raise UserError(
            f'--search: no compiled candidate fits {machine.name}; '
            'use more chips, a smaller model or a smaller train.batch_size'
        )
    log('the fastest that fits:')
    for line in format_report(ranked[0]):
        log(line)
    log(f'use it with: {ranked[0]["flags"]}')
    return {
        'best': ranked[0],
        'ranked': ranked,
        'pruned': pruned,
        'not_compiled': len(candidates) - len(reports),
    }
