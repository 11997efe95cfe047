"""What is to be told of a run on a machine that is not here? One flat, JSON-able dict."""

import math
from typing import Any

from gpt_jax import runtime
from gpt_jax.assemble import Settings
from gpt_jax.model import accounting
from gpt_jax.preflight import chips, flops
from gpt_jax.preflight.estimate import Estimate
from gpt_jax.preflight.program import Made
from gpt_jax.preflight.topology import Machine

EXPLAINED = 0.05  # a gap that is left beyond this is said to be unexplained


def report(settings: Settings, one: Machine, made: Made, found: Estimate | None, price: float | None) -> dict[str, Any]:
    """What `found` says, and what memory; without it, that the step does not fit.

    Returns:
      chips_used: by the mesh; where the batch divides over no more, others stand idle, and are paid.
      fits, short_bytes: whether, and by how many bytes of a device not. memory_bytes: of one device, by kind.
      flops_compiled, flops_model: of one step on all devices; flops_reasons: per step, adding up to flops_expected.
      seconds_per_step; seconds_floor: at the chip's peak and bandwidth, nothing hidden twice.
      utilization_with_attention, utilization_causal: the model's FLOPs by that convention (accounting.py),
        recomputation not counted, over the peak (MFU, Chowdhery et al. 2022, appendix B).
      collectives: by kind and source, of one device and step. parts: seconds of each part of the step.
      days, cost: of the whole run; cost None without a price.
    """
    machine, steps = one.chip, settings.steps
    used = math.prod(made.mesh.values())
    tokens = settings.tokens_per_step
    counts = accounting.flops_per_token(settings.model)
    result: dict[str, Any] = {
        'name': settings.name, 'topology': one.name, 'chips': one.chips, 'chips_used': used,
        'kind': 'compiler' if one.tpu else 'estimate',
        'mesh': made.mesh, 'strategy': settings.mesh.strategy, 'batch': settings.train.batch,
        'context': settings.model.context, 'microbatches': made.microbatches, 'remat': settings.model.remat,
        'attention_kernel': settings.model.attention_kernel, 'fits': made.short == 0, 'short_bytes': made.short,
        'memory_limit_bytes': made.limit, 'memory_bytes': made.bytes,
        'compile_seconds': round(made.seconds, 1), 'versions': runtime.versions() | _libtpu(),
    }  # fmt: skip
    if found is None:
        return result
    expected = {name: value * tokens for name, value in flops.explained(settings.model).items()}
    total = found.flops * used
    peak = machine.peak * one.chips * found.seconds
    price = machine.price if price is None else price
    days = steps * found.seconds / 86400
    return result | {
        'flops_compiled': total, 'flops_model': counts['with_attention'] * tokens,
        'flops_reasons': expected, 'flops_expected': sum(expected.values()),
        'flops_unexplained': total / sum(expected.values()) - 1,
        'bytes_moved': found.moved, 'seconds_per_step': found.seconds, 'seconds_floor': found.floor,
        'seconds_sending': found.sending, 'seconds_waiting_for_links': found.exposed,
        'utilization_with_attention': counts['with_attention'] * tokens / peak,
        'utilization_causal': counts['causal'] * tokens / peak,
        'tokens_per_second': tokens / found.seconds, 'steps': steps, 'days': days,
        'price_per_chip_hour': price, 'price_source': chips.PRICES if price == machine.price and price else 'given',
        'cost': None if price is None else days * 24 * one.chips * price,
        'collectives': _collectives(found),
        'parts': [{'name': part.name, 'seconds': part.cycles, 'share': part.cycles / found.seconds,
                   'most': list(part.examples)} for part in found.parts],
        'counted_as_nothing': found.unknown,
    }  # fmt: skip


def _collectives(found: Estimate) -> list[dict[str, Any]]:
    """Those alike put together, the longest first."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for one, seconds in found.collectives:
        source = '/'.join(one.op_name.split('/')[-3:])
        key = (one.kind, one.group, one.bytes, source)
        row = rows.setdefault(key, {
            'kind': one.kind, 'bytes': one.bytes, 'group': one.group, 'dtype': one.dtype, 'source': source, 'times': 0,
            'seconds': 0.0, 'asynchronous': one.asynchronous,
        })  # fmt: skip
        row['times'] += one.times
        row['seconds'] += one.times * seconds
    return sorted(rows.values(), key=lambda row: -row['seconds'])


def _libtpu() -> dict[str, str]:
    from importlib import metadata

    try:
        return {'libtpu': metadata.version('libtpu')}
    except metadata.PackageNotFoundError:
        return {}
