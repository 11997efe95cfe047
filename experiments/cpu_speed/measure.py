"""Speed of a training step on this CPU, compared with nanoGPT's model and nanodo's.

    python experiments/cpu_speed/measure.py --nanogpt=DIR --nanodo=DIR --torch_python=PATH

DIR are checkouts of github.com/karpathy/nanoGPT and github.com/google-deepmind/nanodo, PATH a
Python with PyTorch and numpy. Each program runs alone, and the programs alternate in rounds. The
best round counts, since other load can only slow a program down. A peer without a flag is omitted.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

SHAPES = {
    'A': {'layers': 4, 'width': 128, 'heads': 4, 'context': 256, 'batch': 16, 'vocab': 256},
    'B': {'layers': 6, 'width': 384, 'heads': 6, 'context': 256, 'batch': 12, 'vocab': 4096},
}
TOKENIZER = {'A': 'bytes', 'B': 'bpe:4096'}
MICROBATCH = {'A': 1, 'B': 2}  # sequences per device: the activations stay in the cache
STEPS = {'A': 15, 'B': 6}


def make_command(name: str, dtype: str) -> list[str]:
    shape = SHAPES[name]
    flags = {
        'mode': 'benchmark',
        'config': 'configs/gpt_tiny.py',
        'config.data.tokenizer': TOKENIZER[name],
        'config.train.batch_size': shape['batch'],
        'config.train.microbatch_size': MICROBATCH[name],
        'config.benchmark.steps': STEPS[name],
        'config.model.matmul_dtype': dtype,
    }
    flags |= {
        f'config.model.{field}': shape[field] for field in ('layers', 'width', 'heads', 'context')
    }
    return [sys.executable, 'run.py', *(f'--{key}={value}' for key, value in flags.items())]


def make_peer_command(
    python: str, script: str, folder: str, name: str, variant: str, *extra: str
) -> list[str]:
    shape = [f'--{field}={value}' for field, value in SHAPES[name].items()]
    arguments = [
        f'--{script}={folder}',
        *shape,
        f'--steps={STEPS[name]}',
        f'--variant={variant}',
        *extra,
    ]
    return [python, str(HERE / 'peers' / f'{script}.py'), *arguments]


def list_programs(flags: argparse.Namespace, name: str) -> dict[str, list[str]]:
    commands = {f'gpt_jax {dtype}': make_command(name, dtype) for dtype in ('float32', 'bfloat16')}
    if flags.nanogpt:
        for variant in ('eager', 'compiled', 'compiled_bfloat16'):
            commands[f'nanoGPT {variant}'] = make_peer_command(
                flags.torch_python, 'nanogpt', flags.nanogpt, name, variant
            )
    if flags.nanodo:
        for variant in ('float32', 'bfloat16'):
            for devices in ('1', '2'):
                label = f'nanodo {variant}, {devices} devices'
                commands[label] = make_peer_command(
                    sys.executable, 'nanodo', flags.nanodo, name, variant, f'--devices={devices}'
                )
    return commands


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--nanogpt', help='checkout of nanoGPT')
    parser.add_argument('--nanodo', help='checkout of nanodo')
    parser.add_argument('--torch_python', default=sys.executable, help='a Python with PyTorch')
    parser.add_argument('--shapes', default='A,B', help=f'comma-separated, of {", ".join(SHAPES)}')
    parser.add_argument('--rounds', type=int, default=3, help='rounds of all programs')
    parser.add_argument(
        '--output', default=str(HERE / 'results.jsonl'), help='append one JSON line per run'
    )
    flags = parser.parse_args()
    for name in flags.shapes.split(','):
        best: dict[str, float] = {}
        for round_ in range(flags.rounds):
            for label, command in list_programs(flags, name).items():
                result = subprocess.run(
                    command, cwd=ROOT, capture_output=True, text=True, check=False
                )
                if result.returncode:
                    print(
                        f'{name} · {label} · failed: {result.stderr.strip().splitlines()[-1]}',
                        file=sys.stderr,
                    )
                    continue
                record = json.loads(result.stdout.strip().splitlines()[-1])
                speed = record.get('tokens_per_second_without_data', record['tokens_per_second'])
                best[label] = max(best.get(label, 0.0), speed)
                with open(flags.output, 'a') as file:
                    file.write(
                        json.dumps({'shape': name, 'program': label, 'round': round_} | record)
                        + '\n'
                    )
                print(
                    f'{name} · round {round_ + 1} of {flags.rounds} · {label} · {speed:,.0f} tok/s',
                    file=sys.stderr,
                )
        base = best.get('nanoGPT eager') or max(best.values())
        print(f'\n{name}: {SHAPES[name]}')
        for label, speed in sorted(best.items(), key=lambda item: -item[1]):
            print(f'  {label:28s} {speed:10,.0f} tok/s  {speed / base:6.2f} x')


if __name__ == '__main__':
    main()
