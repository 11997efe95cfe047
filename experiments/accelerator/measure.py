"""How fast does gpt_jax train on the accelerator at hand, which variant of its step is the best, and is PyTorch faster?

Trains the shapes of gpt_125m, 350m, 760m and 1_3b on one device with the real step: context 1,024, bfloat16
operations on float32 parameters, 50,257 tokens padded to 50,304 (as in nanoGPT), random data. For each shape it
searches the batch, times nanoGPT's model under torch.compile where PyTorch is there, tries the variants one choice at
a time, keeping what is faster, and times the best one again for the final figure. Every measurement is a process of
its own, so that neither memory nor a crash of one reaches another; each is one JSON line of --output. Progress goes to
standard error, a table to standard output, whose last line is the summary in JSON. From the repository's root, needing
jax, flax, optax and numpy but no installation:

  python experiments/accelerator/measure.py --shapes=350m,1_3b --variants=all --seconds=540
  python experiments/accelerator/measure.py --shapes=350m --nanogpt=../nanoGPT --torch_python=../torch/bin/python
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
sys.path.insert(0, str(HERE.parents[1]))  # started as a script, Python knows this folder only

from experiments.accelerator.child import lines  # noqa: E402
from experiments.accelerator.report import summary, table  # noqa: E402
from gpt_jax.errors import EXIT_FAILED  # noqa: E402
from gpt_jax.observe.meters import utilization  # noqa: E402

SHAPES = {
    'toy': {'layers': 2, 'width': 32, 'heads': 2, 'context': 32, 'vocab': 97},
    '125m': {'layers': 12, 'width': 768, 'heads': 12, 'context': 1024, 'vocab': 50_257},
    '350m': {'layers': 24, 'width': 1024, 'heads': 16, 'context': 1024, 'vocab': 50_257},
    '760m': {'layers': 24, 'width': 1536, 'heads': 16, 'context': 1024, 'vocab': 50_257},
    '1_3b': {'layers': 24, 'width': 2048, 'heads': 16, 'context': 1024, 'vocab': 50_257},
}
FIRST_BATCH = 8  # where the search for the batch begins

# Each group is one choice; a variant takes one word of each. The fields are those of the model's config.
GROUPS: dict[str, dict[str, dict[str, Any]]] = {
    'attention': {
        'chunked_0': {'attention_kernel': 'chunked', 'attention_chunk': 0},
        'chunked_128': {'attention_kernel': 'chunked', 'attention_chunk': 128},
        'chunked_512': {'attention_kernel': 'chunked', 'attention_chunk': 512},
        'cudnn': {'attention_kernel': 'cudnn', 'attention_chunk': 0},
    },
    'remat': {f'remat_{word}': {'remat': word} for word in ('none', 'dots', 'block')},
    'layers': {'scan': {'scan_layers': True}, 'unrolled': {'scan_layers': False}},
    'loss': {f'loss_chunk_{size}': {'loss_chunk': size} for size in (0, 128, 256)},
}
WORDS = {word: group for group, words in GROUPS.items() for word in words}
GPU_ONLY = ('cudnn',)
PLAIN = ('chunked_512', 'remat_none', 'scan', 'loss_chunk_256')
FRUGAL = ('chunked_512', 'remat_block', 'scan', 'loss_chunk_128')  # for a device on which nothing else fits
STARTS = {'gpu': (('cudnn', *PLAIN[1:]), PLAIN, FRUGAL)}  # the first that runs is where the trials of words begin


@dataclass(frozen=True)
class Run:
    """One call: its flags, the device, the moment (time.monotonic) it must end at, and what it found so far."""

    flags: argparse.Namespace
    device: dict[str, Any]
    deadline: float
    records: list[dict[str, Any]] = field(default_factory=list)
    not_done: list[str] = field(default_factory=list)


def main() -> None:
    flags = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a measurement under way is ended too
    began = time.monotonic()
    deadline = began + flags.seconds - min(3.0, flags.seconds / 10)
    script = [sys.executable, str(HERE / 'jax_gpt.py')]
    device = next(lines([*script, f'--probe={flags.peak_flops}'], deadline))
    if 'failed' in device:
        say(f'no device: {device["failed"]}')
        sys.exit(EXIT_FAILED)
    say(f'{device["device"]}: peak {device["peak_flops"] / 1e12:.3g} TFLOP/s ({device["peak_flops_source"]})')
    run = Run(flags, device, deadline)
    for index, shape in enumerate(flags.shapes):
        left = deadline - time.monotonic()
        measure_shape(run, shape, time.monotonic() + left / (len(flags.shapes) - index))
    print(table(run.records))
    print(json.dumps(summary(run.records, device, flags.shapes, run.not_done, time.monotonic() - began)))
    sys.exit(0 if any('tokens_per_second' in record for record in run.records) else EXIT_FAILED)


def measure_shape(run: Run, shape: str, until: float) -> None:
    """All that is asked of one shape, in the order of importance, so that what time does not allow is the least."""
    best, cost = None, 0.0
    for words in STARTS.get(run.device['platform'], (PLAIN, FRUGAL)):
        tried = timed(run, shape, words, run.flags.batch or FIRST_BATCH, search=not run.flags.batch, until=until)
        best, cost = fastest(tried), tried[0]['elapsed_seconds']
        if best or tried[-1].get('out_of_time'):
            break
    if best is None:
        return run.not_done.append(f'{shape}: no figure, so no variants and no PyTorch')
    if run.flags.torch:
        measure_torch(run, shape, best['batch'], until - cost)
    for word in run.flags.variants:
        if word in best['variant'] or (word in GPU_ONLY and run.device['platform'] != 'gpu' and run.flags.all):
            continue
        if time.monotonic() + 2 * cost > until:  # itself, and the final figure
            run.not_done.append(f'{shape}: {word}')
            continue
        changed = [word if WORDS[word] == WORDS[old] else old for old in best['variant']]
        tried = timed(run, shape, changed, best['batch'], search=not run.flags.batch, until=until - cost)
        best = fastest([best, *tried])
        assert best is not None
    if time.monotonic() + cost > until:
        return run.not_done.append(f'{shape}: final figure')
    timed(run, shape, best['variant'], best['batch'], search=False, until=until, final=True)
    return None


def fastest(records: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The record with the most tokens per second; None where every one failed."""
    return max((r for r in records if 'failed' not in r), key=lambda r: r['tokens_per_second'], default=None)


def timed(
    run: Run, shape: str, words: Sequence[str], batch: int, *, search: bool, until: float, final: bool = False
) -> list[dict[str, Any]]:
    """gpt_jax in one variant: the records of the batch sizes tried, failures among them; never empty."""
    model: dict[str, Any] = {}
    for word in words:
        model |= GROUPS[WORDS[word]][word]
    command = [sys.executable, str(HERE / 'jax_gpt.py'), *(f'--{name}={size}' for name, size in SHAPES[shape].items())]
    command += [f'--batch={batch}', f'--search={int(search)}', f'--steps={run.flags.steps * (2 if final else 1)}']
    left = until - time.monotonic()  # of which a search takes half, so that something is left to what comes after
    command += [f'--model={json.dumps(model)}', f'--seconds={left / 2 if search else left}']
    say(f'{shape} gpt_jax {"+".join(words)}: begun, {left:.0f} s at most')
    common = {'shape': shape, 'framework': 'gpt_jax', 'variant': list(words), 'final': final, 'batch': batch}
    return [note(run, common | record) for record in lines(command, until)]


def measure_torch(run: Run, shape: str, batch: int, until: float) -> None:
    """The same shape in PyTorch at our batch, or at the half of it, and so on, until it fits."""
    sizes = SHAPES[shape] | {'vocab': -(-SHAPES[shape]['vocab'] // 128) * 128}
    device = {'gpu': 'cuda'}.get(run.device['platform'], run.device['platform'])
    if device not in ('cuda', 'cpu'):
        return run.not_done.append(f'{shape}: PyTorch, which is measured on GPUs and CPUs only')
    script = [run.flags.torch_python, str(HERE / 'torch_gpt.py'), *(f'--{name}={size}' for name, size in sizes.items())]
    script += [f'--steps={run.flags.steps}', f'--device={device}', '--compiled=1']
    script += [f'--nanogpt={run.flags.nanogpt}'] if run.flags.nanogpt else []
    flops = next(r['flops_per_token'] for r in run.records if r['shape'] == shape and 'failed' not in r)
    common = {'shape': shape, 'framework': 'nanogpt' if run.flags.nanogpt else 'torch_gpt', 'variant': ['compiled']}
    while batch:
        say(f'{shape} {common["framework"]} batch {batch}: begun, {until - time.monotonic():.0f} s at most')
        known = common | {'batch': batch, 'flops_per_token': flops, 'final': False}
        record = next(note(run, known | record) for record in lines([*script, f'--batch={batch}'], until))
        if not record.get('out_of_memory'):
            return None
        batch //= 2
    return None


def note(run: Run, record: dict[str, Any]) -> dict[str, Any]:
    """Completes a record, appends it to --output and to the run's, and says it."""
    what = f'{record["shape"]} {record["framework"]} {"+".join(record["variant"])} batch {record["batch"]}'
    if 'failed' in record:
        say(f'{what}: {record["failed"]}')
        if record.get('out_of_time'):
            run.not_done.append(f'{what}: {record["failed"]}')
    else:
        peak = run.device['peak_flops']
        record['model_flops_utilization'] = utilization(record['tokens_per_second'], record['flops_per_token'], peak)
        say(f'{what}: {record["tokens_per_second"]:,.0f} tokens/s, {record["model_flops_utilization"]:.1%} of the peak')
    record = run.device | {'context': SHAPES[record['shape']]['context'], 'timed_at': time.time()} | record
    run.records.append(record)
    with open(run.flags.output, 'a') as file:
        file.write(json.dumps(record) + '\n')
    return record


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--shapes', default='125m,350m,760m,1_3b', help=f'of {", ".join(SHAPES)}')
    known = f'all, none, or a list of groups ({", ".join(GROUPS)}) and of words ({", ".join(WORDS)})'
    parser.add_argument('--variants', default='all', help=known)
    parser.add_argument('--batch', type=int, default=0, help='sequences per step; 0: search for the best that fits')
    parser.add_argument('--steps', type=int, default=20, help='timed steps; the final figure takes twice as many')
    parser.add_argument('--seconds', type=float, default=540.0, help='for everything; each shape has an equal share')
    parser.add_argument('--peak_flops', type=float, default=0.0, help='of the device in bfloat16; 0: known or measured')
    parser.add_argument(
        '--torch', action='store_const', const=True, help='measure PyTorch too; default: if it is there'
    )
    parser.add_argument('--notorch', dest='torch', action='store_const', const=False)
    parser.add_argument('--torch_python', help='an interpreter that has PyTorch; default: this one')
    parser.add_argument('--nanogpt', help="folder of nanoGPT's checkout: measure its model instead of torch_gpt.py's")
    parser.add_argument('--output', default=str(HERE / 'results.jsonl'), help='JSON lines are appended to this file')
    flags = parser.parse_args()
    flags.all = flags.variants == 'all'
    flags.shapes, flags.variants = flags.shapes.split(','), list(_variants(flags.variants, parser))
    for shape in flags.shapes:
        if shape not in SHAPES:
            parser.error(f'--shapes: no shape {shape!r}; there are {", ".join(SHAPES)}')
    for name, least in (('batch', 0), ('peak_flops', 0), ('steps', 1), ('seconds', 1)):
        if getattr(flags, name) < least:
            parser.error(f'--{name}: must be at least {least}, got {getattr(flags, name)}')
    if not Path(flags.output).resolve().parent.is_dir():
        parser.error(f'--output={flags.output}: its folder does not exist; make it first')
    here = bool(flags.torch_python or importlib.util.find_spec('torch'))
    if flags.torch and not here:
        parser.error('--torch: this interpreter has no PyTorch; name one that has with --torch_python')
    flags.torch = here if flags.torch is None else flags.torch
    flags.torch_python = flags.torch_python or sys.executable
    return flags


def _variants(text: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    for name in {'all': ','.join(GROUPS), 'none': ''}.get(text, text).split(','):
        if name and name not in GROUPS and name not in WORDS:
            parser.error(f'--variants: no {name!r}; there are {", ".join([*GROUPS, *WORDS])}')
        yield from GROUPS.get(name, [name] if name else [])


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == '__main__':
    main()
