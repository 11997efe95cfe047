"""Compiles the steps of this experiment's page for machines that are not here, and keeps what is found.

  python experiments/preflight/measure.py path                 the path of the 354M step, one step after the other
  python experiments/preflight/measure.py table                four sizes on four slices
  python experiments/preflight/measure.py table gpt_13b        of them those whose names begin so
  python experiments/preflight/measure.py show                 the table and the path, of results.jsonl, as Markdown

A run takes half a minute to a few minutes. A row of the same name is replaced.
"""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = HERE / 'results.jsonl'

SLICES = ('v5e:4x4', 'v5e:16x16', 'v6e:16x16', 'v5p:8x8x8')
MORE = {'gpt_1_3b': ('v5p:4x4x4',)}  # for its batch, eight sequences a chip
SIZES = ('gpt_350m', 'gpt_1_3b', 'gpt_13b', 'gpt_175b')
SPLASH = ['--config.model.attention_kernel=splash']
# The 354M step of 1,024 tokens, 16 sequences a chip.
SHORT = [
    '--config.model.context=1024', '--config.train.batch=256', '--config.train.microbatch=16', '--config.mesh.data=16',
    '--config.mesh.fsdp=1',
]  # fmt: skip
DOTS = [*SPLASH, '--config.model.remat=dots']
HEAD = ['--config.model.vocab_multiple=128', '--config.model.loss_chunk=1024']
WHOLE, ZERO = ['--config.mesh.strategy=replicated'], ['--config.mesh.strategy=zero1']
WRITTEN_OUT = ['--config.model.remat=none', '--config.model.scan_layers=False']
PATH = {
    'as the config says, weights whole': WHOLE,
    'splash attention': [*WHOLE, *SPLASH],
    'products are kept': [*WHOLE, *DOTS],
    'vocabulary padded, loss in one chunk': [*WHOLE, *DOTS, *HEAD],
    'ZeRO-1': [*ZERO, *DOTS, *HEAD],
    'nothing recomputed, layers written out': [*ZERO, *SPLASH, *WRITTEN_OUT, *HEAD],
}
BATCHES = {'gpt_350m': 240, 'gpt_1_3b': 496, 'gpt_13b': 976, 'gpt_175b': 1568}


def steps(group: str) -> dict[str, tuple[str, str, list[str]]]:
    """Name -> config, machine, flags."""
    if group == 'path':
        return {f'path: {name}': ('gpt_350m', 'v5p:2x2x4', [*SHORT, *flags]) for name, flags in PATH.items()}
    made = {}
    for size in SIZES:
        for slice_ in (*SLICES, *MORE.get(size, ())):
            chips = math.prod(int(side) for side in slice_.partition(':')[2].split('x'))
            # A batch that divides over the chips: the config's, rounded to it.
            batch = max(1, round(BATCHES[size] / chips)) * chips
            flags = [*SPLASH, HEAD[0], f'--config.train.batch={batch}', f'--config.train.evaluate_batch={batch}']
            made[f'{size} {slice_}'] = (size, slice_, [*flags, '--search', '--candidates=1'])
    return made


def run(name: str, config: str, machine: str, flags: list[str]) -> dict[str, Any]:
    """The report, with the command that made it; or what the program said when it refused."""
    words = ['run.py', f'--config=configs/{config}.py', '--mode=preflight', f'--topology={machine}', *flags]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    sys.stderr.write(done.stderr)
    command = ' '.join(['python', *words])
    if done.returncode and '--search' in flags:  # nothing fits: how much is lacking?
        return run(name, config, machine, [flag for flag in flags if not flag.startswith(('--search', '--candidates'))])
    if done.returncode:
        return {'step': name, 'command': command, 'refused': done.stderr.strip().splitlines()[-1][:300]}
    report = json.loads(done.stdout.splitlines()[-1])
    report = report.get('best', report)
    return {'step': name, 'command': command} | report | {'collectives': report.get('collectives', [])[:5]}


def keep(row: dict[str, Any]) -> None:
    rows = [one for one in read() if one['step'] != row['step']] + [row]
    RESULTS.write_text(''.join(json.dumps(one) + '\n' for one in rows))


def read() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def show() -> None:
    """Markdown."""
    print('| step | chips | fits | GB a chip | ms a step | PaLM | visible scores | days | cost | most expensive |')
    print('| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |')
    for r in read():
        if 'refused' in r:
            print(f'| {r["step"]} | | refused: {r["refused"]} | | | | | | | |')
            continue
        total = r['memory_bytes'].get('total')
        fits = 'yes' if r['fits'] else f'lacks {r["short_bytes"] / 1e9:.1f} GB'
        head = f'| {r["step"]} | {r["chips"]} | {fits} | {"" if total is None else f"{total / 1e9:.1f}"} |'
        if not r.get('seconds_per_step'):
            print(f'{head} | | | | | |')
            continue
        most = '; '.join(f'{part["name"]} {part["share"]:.0%}' for part in r['parts'][:3])
        print(
            f'{head} {r["seconds_per_step"] * 1e3:,.0f} | {r["utilization_with_attention"]:.1%} | '
            f'{r["utilization_causal"]:.1%} | {r["days"]:.3g} | ${r["cost"]:,.0f} | {most} |'
        )


if __name__ == '__main__':
    if sys.argv[1] == 'show':
        show()
    else:
        for step, words in steps(sys.argv[1]).items():
            if all(step.removeprefix('path: ').startswith(start) for start in sys.argv[2:]):
                print(step, file=sys.stderr)
                keep(run(step, *words))
