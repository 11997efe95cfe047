"""Share of the training text that each size of the sweep reproduces.

python experiments/memorization/measure.py

Reads runs/memorization_cpu (--sweep) and runs/memorization_corpus (--corpus). Writes to this folder
or --output: records.jsonl, the sweep's; results.jsonl, a line per model and number of repetitions,
and for windows of the modules; and the figure of draw.py. A model is given the first half of a
planted string, without any context, and decodes greedily; the string is recalled if every byte of
the second half is correct.
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
from gpt_jax.core import files
from gpt_jax.evaluation import memorization
from gpt_jax.inference.language_model import LanguageModel

HERE = Path(__file__).parent
SWEEP = 'runs/memorization_cpu'
# Windows sampled from the modules; most of the former overlap a planted string and are dropped.
WINDOWS = {'trained on': 1200, 'held out': 400}
BATCH = 200  # sequences generated at once
Row = Mapping[str, Any]


class RecallPrompts(NamedTuple):
    """Prompts, the continuations to recall, and the group in which each counts."""

    prompts: list[str]
    continuations: list[str]
    groups: list[Any]


def split_strings(canaries: Sequence[Row]) -> RecallPrompts:
    """Split the strings in halves of whole words, grouped by their number of repetitions."""
    # The prompt has one character more: the space between the middle words.
    halves = [len(row['text']) // 2 + 1 for row in canaries]
    prompts = [row['text'][:half] for row, half in zip(canaries, halves, strict=True)]
    continuations = [row['text'][half:] for row, half in zip(canaries, halves, strict=True)]
    return RecallPrompts(prompts, continuations, [row['times'] for row in canaries])


def sample_windows(
    texts: Sequence[str], canaries: Sequence[Row], group: str, seed: int = 0
) -> RecallPrompts:
    """Sample WINDOWS[group] windows of 50 + 50 bytes, and drop those that overlap a string."""
    size = memorization.DEFAULT_TOKENS
    strings = {row['text'] for row in canaries}
    spans = [
        [(start, start + len(string)) for string in strings for start in _find_all(text, string)]
        for text in texts
    ]
    lengths = [len(text) for text in texts]
    windows = [
        texts[window.sequence][window.start : window.start + 2 * size]
        for window in memorization.sample_windows(lengths, WINDOWS[group], 2 * size, seed)
        if not any(
            start < window.start + 2 * size and window.start < end
            for start, end in spans[window.sequence]
        )
    ]
    return RecallPrompts(
        [window[:size] for window in windows],
        [window[size:] for window in windows],
        [group] * len(windows),
    )


def _find_all(text: str, part: str) -> list[int]:
    starts, start = [], text.find(part)
    while start >= 0:
        starts.append(start)
        start = text.find(part, start + 1)
    return starts


def measure_recall(model: LanguageModel, recall: RecallPrompts) -> list[dict[str, Any]]:
    """Return a record per group: memorization.score_recall, and nats per continuation byte."""
    generated = _generate(model, recall)
    references = [model.tokenizer.encode(text).tolist() for text in recall.continuations]
    by_group = memorization.score_recall(generated, references, recall.groups)['groups']
    scores = model.score(list(zip(recall.prompts, recall.continuations, strict=True)))
    nats = np.array([-score.log_p / score.tokens for score in scores])
    return [
        {'group': group}
        | numbers
        | {'nats_per_byte': float(nats[[other == group for other in recall.groups]].mean())}
        for group, numbers in by_group.items()
    ]


def _generate(model: LanguageModel, recall: RecallPrompts) -> list[tuple[int, ...]]:
    longest = max(map(len, recall.continuations))
    return [
        generation.tokens
        for generation in model.generate(recall.prompts, max_new_tokens=longest, batch_size=BATCH)
    ]


def main(sweep: Path, corpus: Path, output: Path) -> None:
    canaries, train, held_out = (
        files.read_jsonl(corpus / f'{name}.jsonl') for name in ('canaries', 'train', 'held_out')
    )
    prompt_sets = [
        split_strings(canaries),
        sample_windows([row['text'] for row in train], canaries, 'trained on'),
        sample_windows([row['text'] for row in held_out], canaries, 'held out'),
    ]
    done = [r for r in files.read_jsonl(sweep / 'records.jsonl') if r['status'] == 'done']
    lines: list[dict[str, Any]] = []
    for trial in done:
        model = gpt_jax.load(sweep / 'trials' / trial['name'], log=lambda _: None)
        about = {
            'name': trial['name'],
            'size': f'{trial["layers"]}x{trial["width"]}',
            'seed': trial['seed'],
            'params_non_embedding': trial['params_non_embedding'],
            'epochs': trial['tokens'] / trial['unique_tokens'],
        }
        records = [record for recall in prompt_sets for record in measure_recall(model, recall)]
        lines += [about | record for record in records]
        shares = ', '.join(f'{record["group"]}: {record["exact"]:.2f}' for record in records)
        print(f'{trial["name"]}: {shares}')
    files.write_jsonl(output / 'results.jsonl', lines)
    files.write_jsonl(output / 'records.jsonl', done)
    draw.main(output)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--sweep', default=SWEEP, help='folder of the sweep')
    parser.add_argument('--corpus', default=make.FOLDER, help='output folder of make.py')
    parser.add_argument('--output', default=str(HERE), help='folder for results and figure')
    flags = parser.parse_args()
    main(Path(flags.sweep), Path(flags.corpus), Path(flags.output))
