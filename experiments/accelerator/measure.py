"""Training speed of gpt_jax on this accelerator, its fastest variant, and PyTorch's speed.

Trains the shapes of gpt_125m, 350m, 760m and 1_3b on one device with the real step: context 1,024,
bfloat16 operations on float32 parameters, 50,257 tokens padded to 50,304 (as in nanoGPT), random
data. For each shape it searches for the batch size, times nanoGPT's model under torch.compile if
PyTorch is installed, tries the variants one choice at a time and keeps the faster ones, and times
the best one again for the final result. Every measurement runs in its own process, which isolates
memory and crashes, and is one JSON line of --output. Progress goes to standard error, a table to
standard output, whose last line is the summary in JSON. Run it from the repository root; it needs
jax, flax, optax and numpy but no installation:

  python experiments/accelerator/measure.py --shapes=350m,1_3b --variants=all --seconds=540
  python experiments/accelerator/measure.py --shapes=350m --nanogpt=../nanoGPT \
      --torch_python=../torch/bin/python
  python experiments/accelerator/measure.py --shapes=toy --steps=5 --output=runs/toy.jsonl
"""

import argparse
import importlib.util
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))  # a script's path has only its own folder

from experiments.accelerator.child import stream_records  # noqa: E402
from experiments.accelerator.report import format_table, summarize  # noqa: E402
from gpt_jax.core.errors import EXIT_FAILED  # noqa: E402
from gpt_jax.train.metrics import compute_mfu  # noqa: E402

SHAPES = {
    'toy': {'layers': 2, 'width': 32, 'heads': 2, 'context': 32, 'vocab': 97},
    '125m': {'layers': 12, 'width': 768, 'heads': 12, 'context': 1024, 'vocab': 50_257},
    '350m': {'layers': 24, 'width': 1024, 'heads': 16, 'context': 1024, 'vocab': 50_257},
    '760m': {'layers': 24, 'width': 1536, 'heads': 16, 'context': 1024, 'vocab': 50_257},
    '1_3b': {'layers': 24, 'width': 2048, 'heads': 16, 'context': 1024, 'vocab': 50_257},
}
FIRST_BATCH = 8  # start of the batch size search

# A variant takes one choice from each group. The fields are those of the model config.
GROUPS: dict[str, dict[str, dict[str, Any]]] = {
    'attention': {
        'chunked_0': {'attention_kernel': 'chunked', 'attention_chunk': 0},
        'chunked_128': {'attention_kernel': 'chunked', 'attention_chunk': 128},
        'chunked_512': {'attention_kernel': 'chunked', 'attention_chunk': 512},
        'cudnn': {'attention_kernel': 'cudnn', 'attention_chunk': 0},
    },
    'remat': {f'remat_{policy}': {'remat': policy} for policy in ('none', 'dots', 'block')},
    'layers': {'scan': {'scan_layers': True}, 'unrolled': {'scan_layers': False}},
    'loss': {f'loss_chunk_{size}': {'loss_chunk': size} for size in (0, 128, 256)},
}
CHOICES = {choice: group for group, choices in GROUPS.items() for choice in choices}
GPU_ONLY = ('cudnn',)
STANDARD = ('chunked_512', 'remat_none', 'scan', 'loss_chunk_256')
LOW_MEMORY = ('chunked_512', 'remat_block', 'scan', 'loss_chunk_128')
# The starting variants by platform: the first that runs is used.
STARTS = {'gpu': (('cudnn', *STANDARD[1:]), STANDARD, LOW_MEMORY)}


@dataclass(frozen=True)
class Run:
    """One call: flags, device, deadline (in seconds of time.monotonic) and results so far."""

    flags: argparse.Namespace
    device: dict[str, Any]
    deadline: float
    records: list[dict[str, Any]] = field(default_factory=list)
    not_done: list[str] = field(default_factory=list)


def main() -> None:
    flags = parse_flags()
    # SIGTERM also ends the measurement that is running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    start = time.monotonic()
    deadline = start + flags.seconds - min(3.0, flags.seconds / 10)
    script = [sys.executable, str(HERE / 'jax_gpt.py')]
    device = next(stream_records([*script, f'--probe={flags.peak_flops}'], deadline))
    if 'failed' in device:
        log(f'no device: {device["failed"]}')
        sys.exit(EXIT_FAILED)
    peak = f'{device["peak_flops"] / 1e12:.3g} TFLOP/s ({device["peak_flops_source"]})'
    log(f'{device["device"]}: peak {peak}')
    run = Run(flags, device, deadline)
    for index, shape in enumerate(flags.shapes):
        left = deadline - time.monotonic()
        measure_shape(run, shape, time.monotonic() + left / (len(flags.shapes) - index))
    print(format_table(run.records))
    seconds = time.monotonic() - start
    print(json.dumps(summarize(run.records, device, flags.shapes, run.not_done, seconds)))
    sys.exit(0 if any('tokens_per_second' in record for record in run.records) else EXIT_FAILED)


def measure_shape(run: Run, shape: str, deadline: float) -> None:
    """Run the measurements of one shape, the most important first, as far as time allows."""
    best, cost = None, 0.0
    for choices in STARTS.get(run.device['platform'], (STANDARD, LOW_MEMORY)):
        tried = measure_variant(
            run,
            shape,
            choices,
            run.flags.batch or FIRST_BATCH,
            search=not run.flags.batch,
            deadline=deadline,
        )
        best, cost = find_fastest(tried), tried[0]['elapsed_seconds']
        if best or tried[-1].get('out_of_time'):
            break
    if best is None:
        return run.not_done.append(f'{shape}: no result, so no variants and no PyTorch')
    if run.flags.torch:
        measure_torch(run, shape, best['batch'], deadline - cost)
    for choice in run.flags.variants:
        if choice in best['variant'] or (
            choice in GPU_ONLY and run.device['platform'] != 'gpu' and run.flags.all
        ):
            continue
        if time.monotonic() + 2 * cost > deadline:  # this one and the final measurement
            run.not_done.append(f'{shape}: {choice}')
            continue
        changed = [choice if CHOICES[choice] == CHOICES[old] else old for old in best['variant']]
        tried = measure_variant(
            run, shape, changed, best['batch'], search=not run.flags.batch, deadline=deadline - cost
        )
        best = find_fastest([best, *tried])
        assert best is not None
    if time.monotonic() + cost > deadline:
        return run.not_done.append(f'{shape}: final measurement')
    measure_variant(
        run, shape, best['variant'], best['batch'], search=False, deadline=deadline, final=True
    )
    return None


def find_fastest(records: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the record with the most tokens per second, or None if all failed."""
    return max(
        (r for r in records if 'failed' not in r),
        key=lambda r: r['tokens_per_second'],
        default=None,
    )


def measure_variant(
    run: Run,
    shape: str,
    choices: Sequence[str],
    batch: int,
    *,
    search: bool,
    deadline: float,
    final: bool = False,
) -> list[dict[str, Any]]:
    """Measure one variant of gpt_jax.

    Returns:
      The records of the batch sizes tried, including failures; never empty.
    """
    model: dict[str, Any] = {}
    for choice in choices:
        model |= GROUPS[CHOICES[choice]][choice]
    command = [
        sys.executable,
        str(HERE / 'jax_gpt.py'),
        *(f'--{name}={size}' for name, size in SHAPES[shape].items()),
    ]
    command += [
        f'--batch={batch}',
        f'--search={int(search)}',
        f'--steps={run.flags.steps * (2 if final else 1)}',
    ]
    # A search takes half of the time left, so that the following measurements have the rest.
    left = deadline - time.monotonic()
    command += [f'--model={json.dumps(model)}', f'--seconds={left / 2 if search else left}']
    log(f'{shape} gpt_jax {"+".join(choices)}: started, {left:.0f} s at most')
    common = {
        'shape': shape,
        'framework': 'gpt_jax',
        'variant': list(choices),
        'final': final,
        'batch': batch,
    }
    return [
        record_measurement(run, common | record) for record in stream_records(command, deadline)
    ]


def measure_torch(run: Run, shape: str, batch: int, deadline: float) -> None:
    """Measure the same shape in PyTorch, with the batch halved until it fits."""
    sizes = SHAPES[shape] | {'vocab': -(-SHAPES[shape]['vocab'] // 128) * 128}
    device = {'gpu': 'cuda'}.get(run.device['platform'], run.device['platform'])
    if device not in ('cuda', 'cpu'):
        return run.not_done.append(f'{shape}: PyTorch is measured on GPUs and CPUs only')
    script = [
        run.flags.torch_python,
        str(HERE / 'torch_gpt.py'),
        *(f'--{name}={size}' for name, size in sizes.items()),
    ]
    script += [f'--steps={run.flags.steps}', f'--device={device}', '--compiled=1']
    script += [f'--nanogpt={run.flags.nanogpt}'] if run.flags.nanogpt else []
    flops = next(
        r['flops_per_token'] for r in run.records if r['shape'] == shape and 'failed' not in r
    )
    common = {
        'shape': shape,
        'framework': 'nanogpt' if run.flags.nanogpt else 'torch_gpt',
        'variant': ['compiled'],
    }
    while batch:
        left = deadline - time.monotonic()
        log(f'{shape} {common["framework"]} batch {batch}: started, {left:.0f} s at most')
        known = common | {'batch': batch, 'flops_per_token': flops, 'final': False}
        record = next(
            record_measurement(run, known | record)
            for record in stream_records([*script, f'--batch={batch}'], deadline)
        )
        if not record.get('out_of_memory'):
            return None
        batch //= 2
    return None


def record_measurement(run: Run, record: dict[str, Any]) -> dict[str, Any]:
    """Complete a record, append it to --output and to the run's records, and log it."""
    program = f'{record["framework"]} {"+".join(record["variant"])}'
    label = f'{record["shape"]} {program} batch {record["batch"]}'
    if 'failed' in record:
        log(f'{label}: {record["failed"]}')
        if record.get('out_of_time'):
            run.not_done.append(f'{label}: {record["failed"]}')
    else:
        peak = run.device['peak_flops']
        record['model_flops_utilization'] = compute_mfu(
            record['tokens_per_second'], record['flops_per_token'], peak
        )
        utilization = record['model_flops_utilization']
        log(f'{label}: {record["tokens_per_second"]:,.0f} tokens/s, {utilization:.1%} of the peak')
    record = (
        run.device
        | {'context': SHAPES[record['shape']]['context'], 'timed_at': time.time()}
        | record
    )
    run.records.append(record)
    with open(run.flags.output, 'a') as file:
        file.write(json.dumps(record) + '\n')
    return record


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--shapes', default='125m,350m,760m,1_3b', help=f'of {", ".join(SHAPES)}')
    parser.add_argument(
        '--variants',
        default='all',
        help=f'all, none, or a list of groups ({", ".join(GROUPS)}) '
        f'and choices ({", ".join(CHOICES)})',
    )
    parser.add_argument(
        '--batch',
        type=int,
        default=0,
        help='sequences per step; 0: search for the fastest that fits',
    )
    parser.add_argument(
        '--steps', type=int, default=20, help='timed steps; twice as many for the final measurement'
    )
    parser.add_argument(
        '--seconds', type=float, default=540.0, help='total time, divided equally over the shapes'
    )
    parser.add_argument(
        '--peak_flops',
        type=float,
        default=0.0,
        help='peak bfloat16 FLOP/s of the device; 0: look up or measure',
    )
    parser.add_argument(
        '--torch',
        action='store_const',
        const=True,
        help='measure PyTorch too; default: if installed',
    )
    parser.add_argument('--notorch', dest='torch', action='store_const', const=False)
    parser.add_argument('--torch_python', help='an interpreter with PyTorch; default: this one')
    parser.add_argument(
        '--nanogpt', help="checkout of nanoGPT: measure its model instead of torch_gpt.py's"
    )
    parser.add_argument(
        '--output', default=str(HERE / 'results.jsonl'), help='append JSON lines to this file'
    )
    flags = parser.parse_args()
    flags.all = flags.variants == 'all'
    flags.shapes, flags.variants = (
        flags.shapes.split(','),
        list(_expand_variants(flags.variants, parser)),
    )
    for shape in flags.shapes:
        if shape not in SHAPES:
            parser.error(f'--shapes: no shape {shape!r}; must be one of {", ".join(SHAPES)}')
    for name, least in (('batch', 0), ('peak_flops', 0), ('steps', 1), ('seconds', 1)):
        if getattr(flags, name) < least:
            parser.error(f'--{name}: must be at least {least}, got {getattr(flags, name)}')
    if not Path(flags.output).resolve().parent.is_dir():
        parser.error(f'--output={flags.output}: its folder does not exist; create it first')
    has_torch = bool(flags.torch_python or importlib.util.find_spec('torch'))
    if flags.torch and not has_torch:
        parser.error('--torch: this interpreter has no PyTorch; give one with --torch_python')
    flags.torch = has_torch if flags.torch is None else flags.torch
    flags.torch_python = flags.torch_python or sys.executable
    return flags


def _expand_variants(text: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    for name in {'all': ','.join(GROUPS), 'none': ''}.get(text, text).split(','):
        if name and name not in GROUPS and name not in CHOICES:
            parser.error(
                f'--variants: no {name!r}; must be one of {", ".join([*GROUPS, *CHOICES])}'
            )
        yield from GROUPS.get(name, [name] if name else [])


def log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == '__main__':
    main()
