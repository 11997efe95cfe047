"""How fast is a training step on this CPU beside nanoGPT's model and nanodo's, same shapes, in one run?

    python experiments/cpu_speed/measure.py --nanogpt=DIR --nanodo=DIR --torch_python=PATH

DIR are checkouts of github.com/karpathy/nanoGPT and github.com/google-deepmind/nanodo, PATH a Python with PyTorch and
numpy. Every program runs alone, in rounds that take turns; the best of the rounds is quoted, since whatever else the
machine does can only slow a program down. Without a peer's flag that peer is left out.
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


def ours(name: str, dtype: str) -> list[str]:
    shape = SHAPES[name]
    flags = {
        'mode': 'benchmark', 'config': 'configs/gpt_tiny.py', 'config.data.tokenizer': TOKENIZER[name],
        'config.train.batch': shape['batch'], 'config.train.microbatch': MICROBATCH[name],
        'config.benchmark.steps': STEPS[name], 'config.model.matmul_dtype': dtype,
    }  # fmt: skip
    flags |= {f'config.model.{field}': shape[field] for field in ('layers', 'width', 'heads', 'context')}
    return [sys.executable, 'run.py', *(f'--{key}={value}' for key, value in flags.items())]


def peer(python: str, script: str, folder: str, name: str, variant: str, *more: str) -> list[str]:
    shape = [f'--{field}={value}' for field, value in SHAPES[name].items()]
    arguments = [f'--{script}={folder}', *shape, f'--steps={STEPS[name]}', f'--variant={variant}', *more]
    return [python, str(HERE / 'peers' / f'{script}.py'), *arguments]


def programs(flags: argparse.Namespace, name: str) -> dict[str, list[str]]:
    found = {f'gpt_jax {dtype}': ours(name, dtype) for dtype in ('float32', 'bfloat16')}
    if flags.nanogpt:
        for variant in ('eager', 'compiled', 'compiled_bfloat16'):
            found[f'nanoGPT {variant}'] = peer(flags.torch_python, 'nanogpt', flags.nanogpt, name, variant)
    if flags.nanodo:
        for variant in ('float32', 'bfloat16'):
            for devices in ('1', '2'):
                label = f'nanodo {variant}, {devices} devices'
                found[label] = peer(sys.executable, 'nanodo', flags.nanodo, name, variant, f'--devices={devices}')
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--nanogpt', help='checkout of nanoGPT')
    parser.add_argument('--nanodo', help='checkout of nanodo')
    parser.add_argument('--torch_python', default=sys.executable, help='a Python that has PyTorch')
    parser.add_argument('--shapes', default='A,B', help='of ' + ', '.join(SHAPES))
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--output', default=str(HERE / 'results.jsonl'), help='one JSON line per run is added here')
    flags = parser.parse_args()
    for name in flags.shapes.split(','):
        best: dict[str, float] = {}
        for round_ in range(flags.rounds):
            for label, command in programs(flags, name).items():
                done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
                if done.returncode:
                    print(f'{name} · {label} · failed: {done.stderr.strip().splitlines()[-1]}', file=sys.stderr)
                    continue
                result = json.loads(done.stdout.strip().splitlines()[-1])
                speed = result.get('tokens_per_second_without_data', result['tokens_per_second'])
                best[label] = max(best.get(label, 0.0), speed)
                with open(flags.output, 'a') as file:
                    file.write(json.dumps({'shape': name, 'program': label, 'round': round_} | result) + '\n')
                print(f'{name} · round {round_ + 1} of {flags.rounds} · {label} · {speed:,.0f} tok/s', file=sys.stderr)
        base = best.get('nanoGPT eager') or max(best.values())
        print(f'\n{name}: {SHAPES[name]}')
        for label, speed in sorted(best.items(), key=lambda item: -item[1]):
            print(f'  {label:28s} {speed:10,.0f} tok/s  {speed / base:6.2f} x')


if __name__ == '__main__':
    main()
