"""Generation speed of gpt_jax on this CPU, compared with transformers.

    python experiments/generation_speed/measure.py --torch_python=PYTHON

PYTHON is that of an environment with '.[peers]'. GPT-2 124M, prompts of 32 tokens, 128 new tokens,
1 and 8 sequences at once, greedy. The speed is new tokens over the time of the whole call,
including prefill. Appends a line per measurement to results.jsonl in this folder.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from gpt_jax.core import files

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BATCHES = (1, 8)
PROMPT, NEW = 32, 128
SMALL = {'layers': 2, 'width': 64, 'heads': 2}  # --small: a smoke test
# Variant: (model.matmul_dtype, benchmark.weight_dtype).
VARIANTS = {
    'float32': ('float32', 'float32'),
    'bfloat16': ('float32', 'bfloat16'),
    'int8': ('float32', 'int8'),
    'int4': ('float32', 'int4'),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--torch_python', default=sys.executable, help='a Python with torch and transformers'
    )
    parser.add_argument('--rounds', type=int, default=2, help='rounds of all programs')
    parser.add_argument(
        '--variants', nargs='+', choices=VARIANTS, default=['float32', 'bfloat16', 'int8']
    )
    parser.add_argument('--small', action='store_true', help='a tiny model')
    flags = parser.parse_args()
    best: dict[str, dict[int, float]] = {}
    for number in range(flags.rounds):
        programs = [
            ('transformers', 'float32'),
            ('transformers', 'bfloat16'),
            *(('gpt_jax', name) for name in flags.variants),
        ]
        for program, variant in programs:
            print(
                f'round {number + 1}/{flags.rounds}: {program} {variant}',
                file=sys.stderr,
                flush=True,
            )
            measure = _measure_transformers if program == 'transformers' else _measure_gpt_jax
            speeds, details = measure(variant, flags)
            files.append_jsonl(
                HERE / 'results.jsonl',
                {'who': program, 'variant': variant, 'small': flags.small}
                | details
                | {f'tokens_per_second_batch{batch}': speed for batch, speed in speeds.items()},
            )
            previous = best.setdefault(f'{program} {variant}', speeds)
            best[f'{program} {variant}'] = {
                batch: max(speed, previous[batch]) for batch, speed in speeds.items()
            }
    _print_table(best)


def _measure_transformers(
    variant: str, flags: argparse.Namespace
) -> tuple[dict[int, float], dict[str, Any]]:
    sizes = [f'--{name}={value}' for name, value in SMALL.items()] if flags.small else []
    record = _run([flags.torch_python, str(HERE / 'hugging_face.py'), f'--dtype={variant}', *sizes])
    return {batch: record[f'tokens_per_second_batch{batch}'] for batch in BATCHES}, {
        'versions': record['versions']
    }


def _measure_gpt_jax(
    variant: str, flags: argparse.Namespace
) -> tuple[dict[int, float], dict[str, Any]]:
    dtype, kind = VARIANTS[variant]
    sizes = SMALL if flags.small else {'layers': 12, 'width': 768, 'heads': 12}
    fields = {
        'mesh.cpu_devices': 1,
        'benchmark.steps': 0,
        'benchmark.prompt_tokens': PROMPT,
        'benchmark.new_tokens': NEW,
        'benchmark.weight_dtype': kind,
        'model.matmul_dtype': dtype,
        'model.context': 1024,
        'model.vocab_size': 50_257,
        'model.vocab_multiple': 128,
    }
    fields |= {f'model.{name}': value for name, value in sizes.items()}
    overrides = [f'--config.{name}={value}' for name, value in fields.items()]
    record = _run(
        [sys.executable, 'run.py', '--config=configs/gpt_tiny.py', '--mode=benchmark', *overrides]
    )
    speeds = {}
    for batch in BATCHES:
        step = batch / record[f'generation_decode_tokens_per_second_batch{batch}']
        speeds[batch] = (
            batch
            * NEW
            / (record[f'generation_first_token_seconds_batch{batch}'] + (NEW - 1) * step)
        )
    names = (
        'generation_memory_bandwidth',
        *(f'generation_bandwidth_share_batch{batch}' for batch in BATCHES),
    )
    return speeds, {name: record[name] for name in ('versions', *names)}


def _run(command: list[str]) -> dict[str, Any]:
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def _print_table(best: dict[str, dict[int, float]]) -> None:
    first = next(iter(best.values()))
    print('| | ' + ' | '.join(f'batch {batch}, tokens/s | ratio' for batch in BATCHES) + ' |')
    print('| --- |' + ' --- | --- |' * len(BATCHES))
    for name, speeds in best.items():
        cells = [f'{speeds[batch]:.1f} | {speeds[batch] / first[batch]:.2f}' for batch in BATCHES]
        print(f'| {name} | ' + ' | '.join(cells) + ' |')


if __name__ == '__main__':
    main()
