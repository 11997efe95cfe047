"""How fast is the real step of gpt_jax on one device, at one shape in one variant? measure.py asks, once per process.

The step is the one that training runs: assembled from a config, the state donated, AdamW, clipping. Its batch is made
of random tokens and stays on the device. The batch size is given, or searched for: doubled while that pays, then
raised by quarters of itself to the largest that fits. One JSON line per batch size goes to standard output, also for
one that does not fit or fails. Needs jax, flax, optax and numpy only.

    PYTHONPATH=. python experiments/accelerator/jax_gpt.py --layers=2 --width=32 --heads=2 --context=32 --vocab=97 \
        --batch=4 --steps=5 --seconds=60 --model='{"remat": "block"}'
"""

import argparse
import gc
import itertools
import json
import os
import resource
import runpy
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np

from experiments.accelerator.child import OUT_OF_MEMORY
from gpt_jax import assemble, runtime
from gpt_jax.model import accounting
from gpt_jax.modes.benchmark import PEAKS, measured_peak

WARM_UP_STEPS = 3
LEAST_GAIN = 1.01  # a larger batch must be this much faster for a still larger one to be tried
VOCAB_MULTIPLE = 128  # 50,257 becomes 50,304, the padding that nanoGPT has too

# What every measurement shares, where it is not configs/base.py's.
SHARED = {
    'model': {
        'vocab_multiple': VOCAB_MULTIPLE, 'attention_chunk': 0,
        'activation_dtype': 'bfloat16', 'matmul_dtype': 'bfloat16', 'scan_layers': True,
    },
    'optimizer': {'schedule': 'constant', 'warmup_fraction': 0.0, 'final_fraction': 1.0},
    'train': {'steps': 1000, 'tokens': 0, 'tensorboard': False, 'stall_minutes': 0.0},
    'mesh': {'data': 1},
    'benchmark': {'warmup': WARM_UP_STEPS, 'prompt': 1, 'new_tokens': 0, 'batches': (1,)},
}  # fmt: skip


class _ConfigDict(dict[str, Any]):
    """As much of ml_collections' as configs/base.py needs: images for accelerators lack that package."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__  # type: ignore[assignment]


def _defaults() -> dict[str, Any]:
    with mock.patch.dict(sys.modules, {'ml_collections': types.SimpleNamespace(ConfigDict=_ConfigDict)}):
        given: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[2] / 'configs' / 'base.py'))['get_config']()
    return given


def settings(sizes: dict[str, int], model: dict[str, Any], batch: int, steps: int) -> assemble.Settings:
    """The run's checked config; `model` replaces fields of it.

    Raises:
      UserError: names the field.
    """
    sizes = {'vocab_size' if name == 'vocab' else name: size for name, size in sizes.items()}
    config = _defaults() | {'name': 'accelerator'}
    changed = {'model': sizes | model, 'train': {'batch': batch}, 'benchmark': {'steps': steps}}
    for section, fields in (*SHARED.items(), *changed.items()):
        config[section] |= fields
    return assemble.settings(config, vocab_size=1)


def measure(checked: assemble.Settings) -> dict[str, Any]:
    """Compiles and times the step.

    Returns:
      'tokens_per_second' of the median step; 'peak_memory_bytes' of this process so far; 'compile_seconds', from
      tracing to a loaded program, and whether the compilation cache had it; 'flops_per_token' with its convention; the
      loss in nats before the first update and after all of them.
    """
    program = assemble.build(checked)
    shape = (checked.train.batch, checked.model.context + 1)
    tokens = np.random.default_rng(0).integers(0, checked.model.vocab_size, shape, dtype=np.int32)
    batch = next(program.on_devices(iter([{'inputs': tokens[:, :-1], 'targets': tokens[:, 1:]}])))
    hits = len(_CACHE_HITS)
    began = time.perf_counter()
    step = program.step.lower(program.abstract_state, batch).compile()
    compile_seconds, cached = time.perf_counter() - began, len(_CACHE_HITS) > hits
    seconds, losses = step_seconds(step, program.init(), batch, checked.benchmark.steps)
    median = statistics.median(seconds)
    return {
        'tokens_per_second': checked.tokens_per_step / median,
        'step_seconds': median,
        'timed_steps': len(seconds),
        'peak_memory_bytes': peak_memory_bytes(),
        'compile_seconds': compile_seconds,
        'compile_from_cache': cached,
        'flops_per_token': accounting.flops_per_token(checked.model)[accounting.UTILIZATION_CONVENTION],
        'parameters': accounting.parameters(checked.model)['padded_total'],
        'loss_first': losses[0],
        'loss_last': losses[-1],
    }


def step_seconds(step: Callable[..., Any], state: Any, batch: Any, steps: int) -> tuple[list[float], list[float]]:
    """The seconds of each of `steps` steps after the warm-up, and every step's loss in nats.

    As in training, a step's numbers are awaited when the next one is already under way: a step's time is that between
    two such arrivals.
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
    return [after - before for before, after in itertools.pairwise(marks)], [float(loss) for loss in losses]


def peak_memory_bytes() -> int:
    """The device's own highest mark; where it keeps none, the highest resident size of this process."""
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get('peak_bytes_in_use') or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def attempt(sizes: dict[str, int], model: dict[str, Any], batch: int, steps: int) -> dict[str, Any]:
    """`measure` at this batch, or {'failed': one line, 'out_of_memory': whether that is why}; all its memory is free
    again when this returns."""
    try:
        record = measure(settings(sizes, model, batch, steps))
    except Exception as error:  # whatever a compiler or a driver raises is a result here
        lines = f'{type(error).__name__}: {error}'.splitlines()
        record = {'failed': lines[0][:300], 'out_of_memory': any(word in str(error) for word in OUT_OF_MEMORY)}
    jax.clear_caches()
    gc.collect()
    return {'batch': batch, **record}


def search(attempt: Callable[[int], dict[str, Any]], first: int) -> Iterator[dict[str, Any]]:
    """Tries batch sizes: doubles `first` while it fits and pays, then bisects to the largest that fits, in quarters of
    the last one doubled to; halves it while it does not fit. Ends at once where an attempt fails for another reason."""
    batch, fits, limit, best, unit = first, 0, 0, 0.0, 0
    while batch:
        record = attempt(batch)
        yield record
        if 'failed' not in record:
            pays = record['tokens_per_second'] >= LEAST_GAIN * best
            fits, best = batch, max(best, record['tokens_per_second'])
            if not pays:
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


def device(peak_flops: float) -> dict[str, Any]:
    """What is measured on: the device, the matrix FLOP/s of one in bfloat16 and where that number is from, versions."""
    kind = jax.devices()[0].device_kind
    name = next((name for name in PEAKS if kind.startswith(name)), None)
    if peak_flops:
        peak, source = peak_flops, 'given by --peak_flops'
    elif name:
        peak, source = PEAKS[name], f'data sheet of {name}, bfloat16'
    else:
        peak, size = measured_peak('bfloat16', 1)
        source = f'measured: bfloat16 matmuls of {size}'
    return {
        'device': kind,
        'platform': jax.default_backend(),
        'peak_flops': peak,
        'peak_flops_source': source,
        'flops_convention': accounting.UTILIZATION_CONVENTION,
        'xla_flags': os.environ.get('XLA_FLAGS', ''),
        'versions': runtime.versions(),
    }


_CACHE_HITS: list[str] = []


def _count_hits(event: str, **_: Any) -> None:
    if event == '/jax/compilation_cache/cache_hits':
        _CACHE_HITS.append(event)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--probe', type=float, metavar='PEAK_FLOPS', help='only describe the device; 0: find its peak')
    for name in ('layers', 'width', 'heads', 'context', 'vocab', 'batch', 'steps'):
        parser.add_argument(f'--{name}', type=int, default=0)
    parser.add_argument('--search', type=int, choices=(0, 1), default=0, help='1: --batch is the first of a search')
    parser.add_argument('--seconds', type=float, default=600.0, help='no batch size is begun that would end later')
    parser.add_argument('--model', type=json.loads, default={}, help='JSON: fields of the model config')
    flags = parser.parse_args()
    began = time.monotonic()
    runtime.start(cpu_devices=1, distributed='')
    jax.monitoring.register_event_listener(_count_hits)
    if flags.probe is not None:
        print(json.dumps(device(flags.probe)), flush=True)
        return
    sizes = {name: getattr(flags, name) for name in ('layers', 'width', 'heads', 'context', 'vocab')}
    last = began

    def in_time(batch: int) -> dict[str, Any]:
        nonlocal last
        now = time.monotonic()
        if last > began and now + (now - last) > began + flags.seconds:
            return {'batch': batch, 'failed': 'not begun: no time left', 'out_of_memory': False, 'out_of_time': True}
        last = now
        return attempt(sizes, flags.model, batch, flags.steps)

    for record in search(in_time, flags.batch) if flags.search else [in_time(flags.batch)]:
        print(json.dumps(record), flush=True)


if __name__ == '__main__':
    main()
