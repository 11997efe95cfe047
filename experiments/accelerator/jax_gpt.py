"""Speed of gpt_jax's training step on one device, for one shape and variant.

The step is the one that training runs: built from a config, with donated state, AdamW and clipping.
Its batch is random tokens that stay on the device. The batch size is given, or searched for:
doubled while that raises the throughput, then increased in quarters to the largest that fits. Each
batch size prints one JSON line, including those that do not fit or fail. Needs only jax, flax,
optax and numpy.

    PYTHONPATH=. python experiments/accelerator/jax_gpt.py --layers=2 --width=32 --heads=2 \
        --context=32 --vocab=97 --batch=4 --steps=5 --seconds=60 --model='{"remat": "block"}'
"""

import argparse
import gc
import itertools
import json
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from experiments.accelerator.child import OUT_OF_MEMORY
from gpt_jax.core import jax_setup, model_counts
from gpt_jax.core.config import Config, default_config, parse_config
from gpt_jax.core.hardware import find_chip
from gpt_jax.train import build
from gpt_jax.trainer.benchmark import measure_peak_flops

WARM_UP_STEPS = 3
MIN_SPEEDUP = 1.01  # doubling continues while the throughput grows by this factor
VOCAB_MULTIPLE = 128  # pads 50,257 to 50,304, as nanoGPT does

# Config fields shared by all measurements, where they differ from the defaults.
SHARED = {
    'model': {
        'vocab_multiple': VOCAB_MULTIPLE,
        'attention_chunk': 0,
        'activation_dtype': 'bfloat16',
        'matmul_dtype': 'bfloat16',
        'scan_layers': True,
    },
    'optimizer': {'schedule': 'constant', 'warmup_fraction': 0.0, 'final_lr_fraction': 1.0},
    'train': {'steps': 1000, 'tokens': 0, 'tensorboard': False, 'stall_minutes': 0.0},
    'mesh': {'data': 1},
    'benchmark': {
        'warmup': WARM_UP_STEPS,
        'prompt_tokens': 1,
        'new_tokens': 0,
        'batch_sizes': (1,),
    },
}


def make_config(sizes: dict[str, int], model: dict[str, Any], batch: int, steps: int) -> Config:
    """Return the config of a measurement; `model` overrides model fields.

    Raises:
      UserError: a field is invalid; the message names it.
    """
    sizes = {'vocab_size' if name == 'vocab' else name: size for name, size in sizes.items()}
    config = default_config() | {'name': 'accelerator'}
    overrides = {
        'model': sizes | model,
        'train': {'batch_size': batch},
        'benchmark': {'steps': steps},
    }
    for section, fields in (*SHARED.items(), *overrides.items()):
        config[section] |= fields
    return parse_config(config, vocab_size=1)


def measure_step(config: Config) -> dict[str, Any]:
    """Compile and time the step.

    Returns:
      'tokens_per_second' of the median step; 'peak_memory_bytes' of this process so far;
      'compile_seconds', from tracing to a loaded program, and whether it was in the compilation
      cache; 'flops_per_token' with its convention; the loss in nats before the first update and
      after the last.
    """
    parts = build.build_trainer_parts(config)
    shape = (config.train.batch_size, config.model.context + 1)
    tokens = np.random.default_rng(0).integers(0, config.model.vocab_size, shape, dtype=np.int32)
    batch = next(parts.shard_batches(iter([{'inputs': tokens[:, :-1], 'targets': tokens[:, 1:]}])))
    hits = len(_CACHE_HITS)
    start = time.perf_counter()
    step = parts.train_step.lower(parts.abstract_state, batch).compile()
    compile_seconds, cached = time.perf_counter() - start, len(_CACHE_HITS) > hits
    seconds, losses = time_steps(step, parts.init_state(), batch, config.benchmark.steps)
    median = statistics.median(seconds)
    return {
        'tokens_per_second': config.tokens_per_step / median,
        'step_seconds': median,
        'timed_steps': len(seconds),
        'peak_memory_bytes': read_peak_memory(),
        'compile_seconds': compile_seconds,
        'compile_from_cache': cached,
        'flops_per_token': model_counts.flops_per_token(config.model)[
            model_counts.UTILIZATION_CONVENTION
        ],
        'parameters': model_counts.parameters(config.model)['padded_total'],
        'loss_first': losses[0],
        'loss_last': losses[-1],
    }


def time_steps(
    step: Callable[..., Any], state: Any, batch: Any, steps: int
) -> tuple[list[float], list[float]]:
    """Return the seconds of each of `steps` steps after the warm-up, and every step's loss in nats.

    As in training, the metrics of a step are awaited after the next step is dispatched; a step's
    time is the time between the arrivals of consecutive metrics.
    """
    state, previous = step(state, batch)
    marks, losses = [], [previous['loss']]
    for _ in range(WARM_UP_STEPS + steps):
        state, metrics = step(state, batch)
        jax.block_until_ready(previous)
        marks.append(time.perf_counter())
        losses.append(metrics['loss'])
        previous = metrics
    jax.block_until_ready((state, previous))
    marks = [*marks[WARM_UP_STEPS:], time.perf_counter()]
    return [after - before for before, after in itertools.pairwise(marks)], [
        float(loss) for loss in losses
    ]


def read_peak_memory() -> int:
    """Return the device's peak bytes in use, or this process's peak resident size if unknown."""
    stats = jax.devices()[0].memory_stats() or {}
    return (
        stats.get('peak_bytes_in_use') or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )


def try_batch(
    sizes: dict[str, int], model: dict[str, Any], batch: int, steps: int
) -> dict[str, Any]:
    """Measure the step at this batch size and free its memory.

    Returns:
      The record of `measure_step`, or {'failed': one line, 'out_of_memory': whether memory is the
      cause}.
    """
    try:
        record = measure_step(make_config(sizes, model, batch, steps))
    except Exception as error:  # any compiler or driver error is a result
        lines = f'{type(error).__name__}: {error}'.splitlines()
        record = {
            'failed': lines[0][:300],
            'out_of_memory': any(message in str(error) for message in OUT_OF_MEMORY),
        }
    jax.clear_caches()
    gc.collect()
    return {'batch': batch, **record}


def search_batch_sizes(
    attempt: Callable[[int], dict[str, Any]], first: int
) -> Iterator[dict[str, Any]]:
    """Yield the records of a search for the fastest batch size.

    The size doubles from `first` while it fits and raises the throughput, then bisects, in quarters
    of the last doubled size, to the largest that fits; it halves while it does not fit. The search
    ends at once if an attempt fails for another reason than memory.
    """
    batch, fits, limit, best, unit = first, 0, 0, 0.0, 0
    while batch:
        record = attempt(batch)
        yield record
        if 'failed' not in record:
            is_faster = record['tokens_per_second'] >= MIN_SPEEDUP * best
            fits, best = batch, max(best, record['tokens_per_second'])
            if not is_faster:
                return
        elif record['out_of_memory']:
            limit = batch
        else:
            return
        if not limit:
            batch = 2 * fits
        elif not fits:
            batch = limit // 2
        else:
            unit = unit or max(1, fits // 4)
            batch = fits + (limit - fits) // 2 // unit * unit
            if batch == fits:
                return


def describe_device(peak_flops: float) -> dict[str, Any]:
    """Return the device, its peak bfloat16 FLOP/s with the source of that number, and versions."""
    kind = jax.devices()[0].device_kind
    chip = find_chip(kind)
    if peak_flops:
        peak, source = peak_flops, 'given by --peak_flops'
    elif chip:
        peak, source = chip.bfloat16_peak, f'data sheet of {chip.device_kinds[0]}, bfloat16'
    else:
        peak, size = measure_peak_flops('bfloat16', 1)
        source = f'measured: bfloat16 matmuls of {size}'
    return {
        'device': kind,
        'platform': jax.default_backend(),
        'peak_flops': peak,
        'peak_flops_source': source,
        'flops_convention': model_counts.UTILIZATION_CONVENTION,
        'xla_flags': os.environ.get('XLA_FLAGS', ''),
        'versions': jax_setup.find_versions(),
    }


_CACHE_HITS: list[str] = []


def _record_cache_hit(event: str, **_: Any) -> None:
    if event == '/jax/compilation_cache/cache_hits':
        _CACHE_HITS.append(event)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--probe',
        type=float,
        metavar='PEAK_FLOPS',
        help='only print the device; 0: look up or measure its peak',
    )
    for name in ('layers', 'width', 'heads', 'context', 'vocab', 'batch', 'steps'):
        parser.add_argument(f'--{name}', type=int, default=0)
    parser.add_argument(
        '--search',
        type=int,
        choices=(0, 1),
        default=0,
        help='1: search for the batch size, starting at --batch',
    )
    parser.add_argument(
        '--seconds', type=float, default=600.0, help='start no batch size that would end later'
    )
    parser.add_argument(
        '--model', type=json.loads, default={}, help='model config overrides, as JSON'
    )
    flags = parser.parse_args()
    start = time.monotonic()
    jax_setup.start_jax(cpu_devices=1, distributed='')
    jax.monitoring.register_event_listener(_record_cache_hit)
    if flags.probe is not None:
        print(json.dumps(describe_device(flags.probe)), flush=True)
        return
    sizes = {
        name: getattr(flags, name) for name in ('layers', 'width', 'heads', 'context', 'vocab')
    }
    last = start

    def try_in_time(batch: int) -> dict[str, Any]:
        nonlocal last
        now = time.monotonic()
        if last > start and now + (now - last) > start + flags.seconds:
            return {
                'batch': batch,
                'failed': 'not started: no time left',
                'out_of_memory': False,
                'out_of_time': True,
            }
        last = now
        return try_batch(sizes, flags.model, batch, flags.steps)

    if flags.search:
        records = search_batch_sizes(try_in_time, flags.batch)
    else:
        records = iter([try_in_time(flags.batch)])
    for record in records:
        print(json.dumps(record), flush=True)


if __name__ == '__main__':
    main()
