"""Compiled training steps of this experiment's page on other machines, with their reports.

  python experiments/preflight/measure.py path             the path of the 354M step
  python experiments/preflight/measure.py table            four sizes on four slices
  python experiments/preflight/measure.py table gpt_13b    the rows whose names start with gpt_13b
  python experiments/preflight/measure.py show             results.jsonl as Markdown

A run takes half a minute to a few minutes. It replaces the row of the same name.
"""

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from gpt_jax.core import files

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = HERE / 'results.jsonl'

SLICES = ('v5e:4x4', 'v5e:16x16', 'v6e:16x16', 'v5p:8x8x8')
EXTRA_SLICES = {'gpt_1_3b': ('v5p:4x4x4',)}  # eight sequences per chip at its batch
SIZES = ('gpt_350m', 'gpt_1_3b', 'gpt_13b', 'gpt_175b')
SPLASH = ['--config.model.attention_kernel=splash']
# The 354M step of 1,024 tokens, 16 sequences per chip.
SHORT_STEP = [
    '--config.model.context=1024',
    '--config.train.batch_size=256',
    '--config.train.microbatch_size=16',
    '--config.mesh.data=16',
    '--config.mesh.fsdp=1',
]
DOTS = [*SPLASH, '--config.model.remat=dots']
HEAD = ['--config.model.vocab_multiple=128', '--config.model.loss_chunk=1024']
REPLICATED, ZERO = ['--config.mesh.strategy=replicated'], ['--config.mesh.strategy=zero1']
UNROLLED = ['--config.model.remat=none', '--config.model.scan_layers=False']
PATH = {
    'as the config says, weights whole': REPLICATED,
    'splash attention': [*REPLICATED, *SPLASH],
    'products are kept': [*REPLICATED, *DOTS],
    'vocabulary padded, loss in one chunk': [*REPLICATED, *DOTS, *HEAD],
    'ZeRO-1': [*ZERO, *DOTS, *HEAD],
    'nothing recomputed, layers written out': [*ZERO, *SPLASH, *UNROLLED, *HEAD],
}
BATCHES = {'gpt_350m': 240, 'gpt_1_3b': 496, 'gpt_13b': 976, 'gpt_175b': 1568}


def list_steps(group: str) -> dict[str, tuple[str, str, list[str]]]:
    """Return (config, machine, flags) by step name."""
    if group == 'path':
        return {
            f'path: {name}': ('gpt_350m', 'v5p:2x2x4', [*SHORT_STEP, *flags])
            for name, flags in PATH.items()
        }
    steps = {}
    for size in SIZES:
        for slice_ in (*SLICES, *EXTRA_SLICES.get(size, ())):
            chips = math.prod(int(side) for side in slice_.partition(':')[2].split('x'))
            # The config's batch, rounded to a multiple of the number of chips.
            batch = max(1, round(BATCHES[size] / chips)) * chips
            flags = [
                *SPLASH,
                HEAD[0],
                f'--config.train.batch_size={batch}',
                f'--config.train.eval_batch_size={batch}',
            ]
            steps[f'{size} {slice_}'] = (size, slice_, [*flags, '--search', '--candidates=1'])
    return steps


def run_preflight(name: str, config: str, machine: str, flags: list[str]) -> dict[str, Any]:
    """Run preflight and return its report and command, or its error message."""
    words = [
        'run.py',
        f'--config=configs/{config}.py',
        '--mode=preflight',
        f'--topology={machine}',
        *flags,
    ]
    result = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    sys.stderr.write(result.stderr)
    command = ' '.join(['python', *words])
    if result.returncode and '--search' in flags:  # nothing fits: report the missing memory
        return run_preflight(
            name,
            config,
            machine,
            [flag for flag in flags if not flag.startswith(('--search', '--candidates'))],
        )
    if result.returncode:
        return {
            'step': name,
            'command': command,
            'refused': result.stderr.strip().splitlines()[-1][:300],
        }
    report = json.loads(result.stdout.splitlines()[-1])
    report = report.get('best', report)
    return (
        {'step': name, 'command': command}
        | report
        | {'collectives': report.get('collectives', [])[:5]}
    )


def save_row(row: dict[str, Any]) -> None:
    rows = [other for other in read_rows() if other['step'] != row['step']] + [row]
    files.write_jsonl(RESULTS, rows)


def read_rows() -> list[dict[str, Any]]:
    return files.read_jsonl(RESULTS) if RESULTS.exists() else []


def print_tables() -> None:
    """Print the rows as a Markdown table."""
    print(
        '| step | chips | fits | GB per chip | ms per step | PaLM | visible scores | days | cost '
        '| most expensive |'
    )
    print('| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |')
    for r in read_rows():
        if 'refused' in r:
            print(f'| {r["step"]} | | refused: {r["refused"]} | | | | | | | |')
            continue
        total = r['memory_bytes'].get('total')
        fits = 'yes' if r['fits'] else f'lacks {r["short_bytes"] / 1e9:.1f} GB'
        memory = '' if total is None else f'{total / 1e9:.1f}'
        head = f'| {r["step"]} | {r["chips"]} | {fits} | {memory} |'
        if not r.get('seconds_per_step'):
            print(f'{head} | | | | | |')
            continue
        most = '; '.join(f'{part["name"]} {part["share"]:.0%}' for part in r['parts'][:3])
        print(
            f'{head} {r["seconds_per_step"] * 1e3:,.0f} | {r["utilization_with_attention"]:.1%} | '
            f'{r["utilization_causal"]:.1%} | {r["days"]:.3g} | ${r["cost"]:,.0f} | {most} |'
        )


if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('group', choices=('path', 'table', 'show'), help='steps to run, or show')
    parser.add_argument('start', nargs='?', default='', help='only the rows that start with this')
    flags = parser.parse_args()
    if flags.group == 'show':
        print_tables()
    else:
        for step, words in list_steps(flags.group).items():
            if step.removeprefix('path: ').startswith(flags.start):
                print(step, file=sys.stderr)
                save_row(run_preflight(step, *words))
