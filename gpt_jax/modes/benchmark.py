"""How fast is a config on this machine? Its real training step, with its input pipeline and without; its writing."""

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

from gpt_jax import assemble, files, runtime
from gpt_jax.assemble import Program, Settings
from gpt_jax.data.pipeline import batches
from gpt_jax.data.prepare import Corpus, prepare
from gpt_jax.model import accounting
from gpt_jax.modes import benchmark_generation
from gpt_jax.observe.meters import utilization

BLOCK = 10  # steps of a kind in a row: more than the loader holds ready, or it would refill while nobody asks

# Dense bfloat16 matrix FLOP/s of one device, from the makers' data sheets.
PEAKS = {
    'NVIDIA H200': 989e12,
    'NVIDIA H100 80GB HBM3': 989e12,
    'NVIDIA H100 PCIe': 756e12,
    'NVIDIA A100': 312e12,
    'TPU v4': 275e12,
    'TPU v5 lite': 197e12,
    'TPU v5p': 459e12,
    'TPU v6 lite': 918e12,
}


def benchmark(config: dict[str, Any], output: str | None, say: Callable[[str], None]) -> None:
    """Times the config's training step on its own data, and how its model writes; prints one flat JSON object, also
    written to `output`. Where the one fails after the other is timed, that is printed and written all the same."""
    corpus = prepare(assemble.data_config(config), say)
    settings = assemble.settings(config, corpus.vocab_size)
    timed: dict[str, Any] = {}
    try:
        if settings.benchmark.steps:
            timed |= _training(settings, corpus, say)
        if settings.benchmark.new_tokens:
            timed |= benchmark_generation.measure(config, settings, say)
    finally:
        if timed:
            result = {'name': settings.name, 'versions': runtime.versions()} | timed
            print(json.dumps(result), flush=True)
            if output:
                files.write_json(output, result)


def _training(settings: Settings, corpus: Corpus, say: Callable[[str], None]) -> dict[str, Any]:
    """Steps with data and without take turns in blocks, so that a change in the machine's speed meets both alike;
    medians are quoted. Without data, the same batch is fed again and again from the device's memory.
    """
    program = assemble.build(settings)
    index, parts = program.share()
    feed = program.on_devices(
        batches(
            corpus.train, fingerprint=corpus.fingerprint, context=settings.model.context, batch=settings.train.batch,
            seed=settings.seed, packing=settings.data.packing,
            process_index=index, process_count=parts,
        )
    )  # fmt: skip
    batch = next(feed)
    with ThreadPoolExecutor(max_workers=1) as other:  # a first state takes a compiler too
        begun = other.submit(program.init)
        began = time.perf_counter()
        step = program.step.lower(program.abstract_state, batch).compile()
        compile_seconds = time.perf_counter() - began
        state = begun.result()
    state, metrics = step(state, batch)
    jax.block_until_ready(metrics)
    start_seconds = _seconds_since_start()
    with_data, without = _time(step, state, feed, batch, settings, say)
    peak, peak_source = _peak(settings, program)
    tokens = settings.tokens_per_step
    flops = accounting.flops_per_token(settings.model)[accounting.UTILIZATION_CONVENTION]
    return {
        'tokens_per_second': tokens / with_data,
        'tokens_per_second_without_data': tokens / without,
        'step_seconds': with_data,
        'model_flops_utilization': utilization(tokens / with_data, flops, peak * program.mesh.size),
        'flops_convention': accounting.UTILIZATION_CONVENTION,
        'flops_per_token': flops,
        'peak_flops': peak * program.mesh.size,
        'peak_flops_source': peak_source,
        'compile_seconds': compile_seconds,
        'start_seconds': start_seconds,
        'peak_memory_bytes': _peak_memory(program),
        **{f'params_{name}': number for name, number in accounting.parameters(settings.model).items()},
        'batch': settings.train.batch,
        'microbatches': program.microbatches,
        'context': settings.model.context,
        'matmul_dtype': settings.model.matmul_dtype,
        'activation_dtype': settings.model.activation_dtype,
        'timed_steps': settings.benchmark.steps,
        'device': program.mesh.devices.flat[0].device_kind,
        'devices': program.mesh.size,
    }


def _time(
    step: Callable[..., Any],
    state: Any,
    feed: Iterator[Any],
    batch: Any,
    settings: Settings,
    say: Callable[[str], None],
) -> tuple[float, float]:
    """Median seconds of one step: (with the input pipeline, without)."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    rounds = settings.benchmark.warmup + settings.benchmark.steps
    for first in range(0, rounds, BLOCK):
        block = range(first, min(first + BLOCK, rounds))
        for data, index in itertools.product((True, False), block):
            began = time.perf_counter()
            state, metrics = step(state, next(feed) if data else batch)
            jax.block_until_ready((state, metrics))
            if index >= settings.benchmark.warmup:
                seconds[data].append(time.perf_counter() - began)
        if sys.stderr.isatty():
            ends = '\n' if block.stop == rounds else ''
            print(f'\rsteps {block.stop}/{rounds}', end=ends, file=sys.stderr, flush=True)
    say(f'{settings.name}: {settings.benchmark.steps} steps timed with data and without, in turns')
    return statistics.median(seconds[True]), statistics.median(seconds[False])


def _peak(settings: Settings, program: Program) -> tuple[float, str]:
    """Matrix FLOP/s of one device, and where the number is from."""
    if settings.benchmark.peak_flops:
        return settings.benchmark.peak_flops, 'given by --config.benchmark.peak_flops'
    kind = program.mesh.devices.flat[0].device_kind
    for name, peak in PEAKS.items():
        if kind.startswith(name) and settings.model.matmul_dtype == 'bfloat16':
            return peak, f'data sheet of {name}, bfloat16'
    peak, size = measured_peak(settings.model.matmul_dtype, program.mesh.size)
    return peak / program.mesh.size, f'measured: {settings.model.matmul_dtype} matmuls of {size} on every device'


def measured_peak(dtype: str, devices: int) -> tuple[float, int]:
    """FLOP/s that `devices` devices reach together in square matmuls, the best of a few; and the matmuls' size."""
    size = 2048 if jax.default_backend() == 'cpu' else 8192
    mesh = jax.make_mesh(
        (devices,), ('device',), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:devices]
    )
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('device'))
    ones = jax.jit(lambda: jnp.ones((devices, size, size), dtype), out_shardings=split)()
    multiply = jax.jit(
        jax.shard_map(
            lambda a, b: jnp.matmul(a[0], b[0], preferred_element_type=jnp.float32)[None],
            mesh=mesh, in_specs=split.spec, out_specs=split.spec,
        )
    )  # fmt: skip
    jax.block_until_ready(multiply(ones, ones))
    best = float('inf')
    for _ in range(10):
        began = time.perf_counter()
        jax.block_until_ready(multiply(ones, ones))
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 * devices / best, size


def _peak_memory(program: Program) -> int:
    """Bytes at the fullest: the device's own count where it keeps one, else this process's resident memory."""
    stats = program.mesh.devices.flat[0].memory_stats() or {}
    return stats.get('peak_bytes_in_use') or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _seconds_since_start() -> float:
    """Wall-clock seconds since this process began (Linux; elsewhere since this module was imported)."""
    try:
        with open('/proc/self/stat') as file:
            ticks = int(file.read().rsplit(')', 1)[1].split()[19])
        with open('/proc/uptime') as file:
            return float(file.read().split()[0]) - ticks / 100
    except OSError:
        return time.perf_counter() - _IMPORTED


_IMPORTED = time.perf_counter()
