"""Benchmark of a config: training step, with and without the input pipeline, and generation."""

import itertools
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp

from gpt_jax.core import files, jax_setup, model_counts
from gpt_jax.core.config import Config, RawConfig, parse_config
from gpt_jax.core.hardware import find_chip
from gpt_jax.core.progress import LogFn
from gpt_jax.train.build import TrainerParts, build_trainer_parts
from gpt_jax.train.metrics import compute_mfu
from gpt_jax.trainer import benchmark_generation
from gpt_jax.trainer.dataset import TextData, load_text_data

# Steps of one kind in a row: more than the loader prefetches, so that no block runs entirely on
# batches that were prefetched during the block before it.
BLOCK_STEPS = 10

_IMPORT_TIME = time.perf_counter()


def run_benchmark(raw_config: RawConfig, output: str | None, log: LogFn) -> None:
    """Time the config's training step on its own data, and generation with its model.

    Prints one flat JSON object and writes it to `output`, if given. If generation fails, the times
    of the training step are still printed and written.
    """
    data = load_text_data(raw_config, log)
    config = parse_config(raw_config, data.vocab_size)
    measured: dict[str, Any] = {}
    try:
        if config.benchmark.steps:
            measured |= _measure_training(config, data, log)
        if config.benchmark.new_tokens:
            measured |= benchmark_generation.measure_generation(raw_config, config, log)
    finally:
        if measured:
            result = {'name': config.name, 'versions': jax_setup.find_versions()} | measured
            print(json.dumps(result), flush=True)
            if output:
                files.write_json(output, result)


def _measure_training(config: Config, data: TextData, log: LogFn) -> dict[str, Any]:
    parts = build_trainer_parts(config)
    batches = parts.shard_batches(data.iterate_batches(config, 0, parts.batch_shard()))
    batch = next(batches)
    with ThreadPoolExecutor(max_workers=1) as executor:  # init_state compiles too
        initial = executor.submit(parts.init_state)
        began = time.perf_counter()
        step = parts.train_step.lower(parts.abstract_state, batch).compile()
        compile_seconds = time.perf_counter() - began
        state = initial.result()
    state, metrics = step(state, batch)
    jax.block_until_ready(metrics)
    start_seconds = _seconds_since_start()
    with_data, without_data = _time_steps(step, state, batches, batch, config, log)
    peak_flops, peak_source = _find_peak_flops(config, parts)
    tokens, devices = config.tokens_per_step, parts.mesh.size
    flops_per_token = model_counts.flops_per_token(config.model)[
        model_counts.UTILIZATION_CONVENTION
    ]
    params = model_counts.parameters(config.model)
    return {
        'tokens_per_second': tokens / with_data,
        'tokens_per_second_without_data': tokens / without_data,
        'step_seconds': with_data,
        'model_flops_utilization': compute_mfu(
            tokens / with_data, flops_per_token, peak_flops * devices
        ),
        'flops_convention': model_counts.UTILIZATION_CONVENTION,
        'flops_per_token': flops_per_token,
        'peak_flops': peak_flops * devices,
        'peak_flops_source': peak_source,
        'compile_seconds': compile_seconds,
        'start_seconds': start_seconds,
        'peak_memory_bytes': _find_peak_memory(parts),
        **{f'params_{name}': number for name, number in params.items()},
        'batch': config.train.batch_size,
        'microbatches': parts.microbatches,
        'context': config.model.context,
        'matmul_dtype': config.model.matmul_dtype,
        'activation_dtype': config.model.activation_dtype,
        'timed_steps': config.benchmark.steps,
        'device': parts.mesh.devices.flat[0].device_kind,
        'devices': devices,
    }


def _time_steps(
    step: Callable[..., Any],
    state: Any,
    batches: Iterator[Any],
    batch: Any,
    config: Config,
    log: LogFn,
) -> tuple[float, float]:
    """Return the median seconds of a step with the input pipeline, and without it.

    Without it, one batch on the device is reused. The two kinds alternate in blocks, so that a
    change of the machine's speed affects both alike.
    """
    warmup, timed = config.benchmark.warmup, config.benchmark.steps
    total = warmup + timed
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for first in range(0, total, BLOCK_STEPS):
        block = range(first, min(first + BLOCK_STEPS, total))
        for with_data, index in itertools.product((True, False), block):
            began = time.perf_counter()
            state, metrics = step(state, next(batches) if with_data else batch)
            jax.block_until_ready((state, metrics))
            if index >= warmup:
                seconds[with_data].append(time.perf_counter() - began)
        if sys.stderr.isatty():
            end = '\n' if block.stop == total else ''
            print(f'\rsteps {block.stop}/{total}', end=end, file=sys.stderr, flush=True)
    log(f'{config.name}: {timed} steps timed with data and without, in alternating blocks')
    return statistics.median(seconds[True]), statistics.median(seconds[False])


def _find_peak_flops(config: Config, parts: TrainerParts) -> tuple[float, str]:
    """Return the matrix FLOP/s of one device, and the source of the number."""
    if config.benchmark.peak_flops:
        return config.benchmark.peak_flops, 'given by --config.benchmark.peak_flops'
    dtype = config.model.matmul_dtype
    chip = find_chip(parts.mesh.devices.flat[0].device_kind)
    if chip is not None and dtype in chip.peak_flops:
        return chip.peak_flops[dtype], f'data sheet of {chip.device_kinds[0]}, {dtype}'
    peak_flops, size = measure_peak_flops(dtype, parts.mesh.size)
    source = f'measured: {dtype} matmuls of {size} on every device'
    return peak_flops / parts.mesh.size, source


def measure_peak_flops(dtype: str, devices: int) -> tuple[float, int]:
    """Measure the FLOP/s of square matmuls on several devices, the best of a few trials.

    Returns:
      The FLOP/s of all devices together, and the size of the matrices.
    """
    size = 2048 if jax.default_backend() == 'cpu' else 8192
    mesh = jax.make_mesh(
        (devices,),
        ('device',),
        axis_types=(jax.sharding.AxisType.Auto,),
        devices=jax.devices()[:devices],
    )
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('device'))
    ones = jax.jit(lambda: jnp.ones((devices, size, size), dtype), out_shardings=sharding)()
    multiply = jax.jit(
        jax.shard_map(
            lambda a, b: jnp.matmul(a[0], b[0], preferred_element_type=jnp.float32)[None],
            mesh=mesh,
            in_specs=sharding.spec,
            out_specs=sharding.spec,
        )
    )
    jax.block_until_ready(multiply(ones, ones))
    seconds = float('inf')
    for _ in range(10):
        began = time.perf_counter()
        jax.block_until_ready(multiply(ones, ones))
        seconds = min(seconds, time.perf_counter() - began)
    return 2 * size**3 * devices / seconds, size


def _find_peak_memory(parts: TrainerParts) -> int:
    """Return the peak memory in bytes: the device's if it counts them, else this process's."""
    stats = parts.mesh.devices.flat[0].memory_stats() or {}
    resident_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return stats.get('peak_bytes_in_use') or resident_kib * 1024


def _seconds_since_start() -> float:
    """Return the seconds since this process started (Linux), or since this module's import."""
    try:
        with open('/proc/self/stat') as file:
            ticks = int(file.read().rsplit(')', 1)[1].split()[19])
        with open('/proc/uptime') as file:
            return float(file.read().split()[0]) - ticks / 100
    except OSError:
        return time.perf_counter() - _IMPORT_TIME
