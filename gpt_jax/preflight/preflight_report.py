"""Report of a preflight as one flat dict of JSON types, and as lines for the terminal."""

import math
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from gpt_jax.core import hardware, jax_setup, model_counts
from gpt_jax.core.config import Config
from gpt_jax.core.formatting import format_bytes
from gpt_jax.preflight import model_cost
from gpt_jax.preflight.compile_step import CompiledStep
from gpt_jax.preflight.estimate import StepEstimate
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
    method = 'compiled for it'
    if r['kind'] != 'compiler':
        method = 'ESTIMATE: compiled for CPU, with closed forms'
    yield (
        f'{r["name"]} on {r["topology"]} ({r["chips"]} chips, {mesh}), '
        f'{method} in {r["compile_seconds"]:.0f} s'
    )
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
