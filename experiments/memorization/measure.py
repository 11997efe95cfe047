"""How much of its training text does each size of the sweep write down again? Asks all of them; writes and draws.

python experiments/memorization/measure.py

Reads runs/memorization_cpu (--sweep) and runs/memorization_corpus (--corpus); writes records.jsonl (the sweep's),
results.jsonl (a line for each model and each number of repetitions, and for windows of the modules) and the figure of
draw.py beside this file, or into --output. A model is given the first half of a planted string, and nothing before it,
and writes greedily; the string is recalled if the second half comes without a fault.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

import gpt_jax
from experiments.memorization import draw, make
from gpt_jax import jsonl
from gpt_jax.evaluate import memorization
from gpt_jax.language_model import LanguageModel

HERE = Path(__file__).parent
SWEEP = 'runs/memorization_cpu'
WINDOWS = {'trained on': 1200, 'held out': 400}  # drawn of the modules; of the former, most touch a planted string
BATCH = 200  # texts written at once
Row = Mapping[str, Any]


class Asked(NamedTuple):
    """befores: what a model is given. afters: what follows there. groups: what each counts to."""

    befores: list[str]
    afters: list[str]
    groups: list[Any]


def planted(canaries: Sequence[Row]) -> Asked:
    """The strings, cut behind a half of their words; grouped by how often each was planted."""
    halves = [len(row['text']) // 2 + 1 for row in canaries]  # a letter more is the space between the middle words
    befores = [row['text'][:half] for row, half in zip(canaries, halves, strict=True)]
    afters = [row['text'][half:] for row, half in zip(canaries, halves, strict=True)]
    return Asked(befores, afters, [row['times'] for row in canaries])


def windows(texts: Sequence[str], canaries: Sequence[Row], group: str, seed: int = 0) -> Asked:
    """WINDOWS[group] stretches of the texts, 50 bytes and 50, less those that touch a planted string."""
    size = memorization.USUAL
    held = [[(at, at + len(one)) for one in {row['text'] for row in canaries} for at in _places(text, one)]
            for text in texts]  # fmt: skip
    chosen = [
        one
        for one in memorization.windows([len(text) for text in texts], WINDOWS[group], 2 * size, seed)
        if not any(begin < one.start + 2 * size and one.start < end for begin, end in held[one.sequence])
    ]
    stretches = [texts[one.sequence][one.start : one.start + 2 * size] for one in chosen]
    return Asked([one[:size] for one in stretches], [one[size:] for one in stretches], [group] * len(stretches))


def _places(text: str, part: str) -> list[int]:
    found, at = [], text.find(part)
    while at >= 0:
        found.append(at)
        at = text.find(part, at + 1)
    return found


def results(model: LanguageModel, asked: Asked) -> list[dict[str, Any]]:
    """A record for each group: memorization.recalled's numbers, and the nats per byte of what follows."""
    written = _written(model, asked)
    right = [model.tokenizer.encode(after).tolist() for after in asked.afters]
    numbers = memorization.recalled(written, right, asked.groups)['groups']
    scored = model.score(list(zip(asked.befores, asked.afters, strict=True)))
    nats = np.array([-one.log_p / one.tokens for one in scored])
    return [
        {'group': group} | found | {'nats_per_byte': float(nats[[one == group for one in asked.groups]].mean())}
        for group, found in numbers.items()
    ]


def _written(model: LanguageModel, asked: Asked) -> list[tuple[int, ...]]:
    longest = max(map(len, asked.afters))
    return [one.tokens for one in model.generate(asked.befores, max_new_tokens=longest, batch_size=BATCH)]


def main(sweep: Path, corpus: Path, output: Path) -> None:
    canaries, train, held_out = (jsonl.read(corpus / f'{name}.jsonl') for name in ('canaries', 'train', 'held_out'))
    every = [
        planted(canaries),
        windows([row['text'] for row in train], canaries, 'trained on'),
        windows([row['text'] for row in held_out], canaries, 'held out'),
    ]
    done = [one for one in jsonl.read(sweep / 'records.jsonl') if one['status'] == 'done']
    lines: list[dict[str, Any]] = []
    for trial in done:
        model = gpt_jax.load(sweep / 'trials' / trial['name'], say=lambda _: None)
        about = {
            'name': trial['name'], 'size': f'{trial["layers"]}x{trial["width"]}', 'seed': trial['seed'],
            'params_non_embedding': trial['params_non_embedding'], 'epochs': trial['tokens'] / trial['unique_tokens'],
        }  # fmt: skip
        found = [one for asked in every for one in results(model, asked)]
        lines += [about | one for one in found]
        print(f'{trial["name"]}: ' + ', '.join(f'{one["group"]}: {one["exact"]:.2f}' for one in found))
    jsonl.write(output / 'results.jsonl', lines)
    jsonl.write(output / 'records.jsonl', done)
    draw.main(output)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--sweep', default=SWEEP, help="the sweep's folder")
    parser.add_argument('--corpus', default=make.FOLDER, help='what make.py wrote')
    parser.add_argument('--output', default=str(HERE), help='where results and figure go')
    flags = parser.parse_args()
    main(Path(flags.sweep), Path(flags.corpus), Path(flags.output))
