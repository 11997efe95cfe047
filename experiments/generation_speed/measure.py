"""How fast does gpt_jax write on this CPU, beside transformers? Both in turns, the best of each, one table.

    python experiments/generation_speed/measure.py --torch_python=PYTHON      # of an environment with '.[peers]'

GPT-2 124M, prompts of 32 tokens, 128 new ones, 1 and 8 texts at once, the likeliest token each time. A speed is new
tokens over the whole call, reading the prompts included. Appends a line per measurement to results.jsonl beside this
file.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from gpt_jax import jsonl

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BATCHES = (1, 8)
PROMPT, NEW = 32, 128
SMALL = {'layers': 2, 'width': 64, 'heads': 2}  # --small: to see that the script works
OURS = {'float32': ('float32', 'float32'), 'bfloat16': ('float32', 'bfloat16'), 'int8': ('float32', 'int8'),
        'int4': ('float32', 'int4')}  # fmt: skip
# variant: (model.matmul_dtype, benchmark.weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--torch_python', default=sys.executable, help='the Python that has torch and transformers')
    parser.add_argument('--rounds', type=int, default=2)
    parser.add_argument('--variants', nargs='+', choices=OURS, default=['float32', 'bfloat16', 'int8'])
    parser.add_argument('--small', action='store_true', help='a tiny model')
    flags = parser.parse_args()
    best: dict[str, dict[int, float]] = {}
    for number in range(flags.rounds):
        asked = [
            ('transformers', 'float32'),
            ('transformers', 'bfloat16'),
            *(('gpt_jax', name) for name in flags.variants),
        ]
        for who, variant in asked:
            print(f'round {number + 1}/{flags.rounds}: {who} {variant}', file=sys.stderr, flush=True)
            speeds, more = (_theirs if who == 'transformers' else _ours)(variant, flags)
            jsonl.append(HERE / 'results.jsonl', {'who': who, 'variant': variant, 'small': flags.small} | more | {
                f'tokens_per_second_batch{batch}': speed for batch, speed in speeds.items()
            })  # fmt: skip
            kept = best.setdefault(f'{who} {variant}', speeds)
            best[f'{who} {variant}'] = {batch: max(speed, kept[batch]) for batch, speed in speeds.items()}
    _table(best)


def _theirs(variant: str, flags: argparse.Namespace) -> tuple[dict[int, float], dict[str, Any]]:
    sizes = [f'--{name}={value}' for name, value in SMALL.items()] if flags.small else []
    found = _run([flags.torch_python, str(HERE / 'hugging_face.py'), f'--dtype={variant}', *sizes])
    return {batch: found[f'tokens_per_second_batch{batch}'] for batch in BATCHES}, {'versions': found['versions']}


def _ours(variant: str, flags: argparse.Namespace) -> tuple[dict[int, float], dict[str, Any]]:
    dtype, kind = OURS[variant]
    sizes = SMALL if flags.small else {'layers': 12, 'width': 768, 'heads': 12}
    fields = {'mesh.cpu_devices': 1, 'benchmark.steps': 0, 'benchmark.prompt': PROMPT, 'benchmark.new_tokens': NEW,
              'benchmark.weights': kind, 'model.matmul_dtype': dtype, 'model.context': 1024,
              'model.vocab_size': 50_257, 'model.vocab_multiple': 128}  # fmt: skip
    fields |= {f'model.{name}': value for name, value in sizes.items()}
    given = [f'--config.{name}={value}' for name, value in fields.items()]
    found = _run([sys.executable, 'run.py', '--config=configs/gpt_tiny.py', '--mode=benchmark', *given])
    speeds = {}
    for batch in BATCHES:
        step = batch / found[f'generation_decode_tokens_per_second_batch{batch}']
        speeds[batch] = batch * NEW / (found[f'generation_first_token_seconds_batch{batch}'] + (NEW - 1) * step)
    kept = ('generation_memory_bandwidth', *(f'generation_bandwidth_share_batch{batch}' for batch in BATCHES))
    return speeds, {name: found[name] for name in ('versions', *kept)}


def _run(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _table(best: dict[str, dict[int, float]]) -> None:
    first = next(iter(best.values()))
    print('| | ' + ' | '.join(f'batch {batch}, tokens/s | times' for batch in BATCHES) + ' |')
    print('| --- |' + ' --- | --- |' * len(BATCHES))
    for name, speeds in best.items():
        cells = [f'{speeds[batch]:.1f} | {speeds[batch] / first[batch]:.2f}' for batch in BATCHES]
        print(f'| {name} | ' + ' | '.join(cells) + ' |')


if __name__ == '__main__':
    main()
