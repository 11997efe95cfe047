"""How much does each size of the sweep gain from examples? Asks all of them the same questions; writes and draws.

python experiments/in_context/measure.py

Reads runs/in_context_cpu (--sweep) and runs/in_context_corpus (--corpus); writes records.jsonl (the sweep's),
results.jsonl (a line for each model and each way of asking) and the figure of draw.py beside this file, or into
--output. A question is the examples, one a line, and `word>`; right is the answer and the end of its line, if the
model's likeliest bytes are these.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

import gpt_jax
from experiments.in_context import draw, make
from gpt_jax import jsonl
from gpt_jax.evaluate.interval import wilson
from gpt_jax.evaluate.scoring import Scored

HERE = Path(__file__).parent
SWEEP = 'runs/in_context_cpu'
SHOTS = (0, 1, 2, 4, 8)
# shown -> (the column of the examples, that of the answer that is looked for)
WAYS = {
    'own': ('shots', 'answer'),
    'other': ('other_shots', 'answer'),  # the control: examples of another rule, and still the answer of one's own
    'other, followed': ('other_shots', 'other_answer'),  # and what these examples ask for
}
Question = Mapping[str, Any]


class Scorer(Protocol):
    """What is asked: a gpt_jax.LanguageModel, or anything that scores pairs of texts as it does."""

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[Scored]: ...


def asked(question: Question, shown: str, shots: int) -> tuple[str, str]:
    """(context, continuation) of a question after the first `shots` of its examples."""
    examples, answer = WAYS[shown]
    return ''.join(question[examples][:shots]) + f'{question["word"]}>', f'{question[answer]}\n'


def results(model: Scorer, questions: Sequence[Question]) -> list[dict[str, Any]]:
    """A record for each number of shots, two for those of another rule, and last the gain."""
    ways = [('own', shots) for shots in SHOTS] + [('other', SHOTS[-1]), ('other, followed', SHOTS[-1])]
    pairs = [asked(question, *way) for way in ways for question in questions]
    scored = model.score(pairs)
    found, exact = [], {}
    for number, (shown, shots) in enumerate(ways):
        part = scored[number * len(questions) : (number + 1) * len(questions)]
        hits = np.array([one.greedy for one in part])
        found.append({'shown': shown, 'shots': shots} | _numbers(questions, part, hits))
        exact[shown, shots] = hits
    return [*found, gain(exact['own', SHOTS[-1]], exact['own', SHOTS[0]])]


def gain(after: np.ndarray, before: np.ndarray) -> dict[str, Any]:
    """Right answers after examples less those without, of the same questions, with the 95% interval of the mean."""
    each = after.astype(float) - before
    half = 1.96 * each.std(ddof=1) / len(each) ** 0.5
    return {'shown': 'gain', 'shots': SHOTS[-1], 'gain': each.mean(), 'low': each.mean() - half,
            'high': each.mean() + half}  # fmt: skip


def ideal(questions: Sequence[Question]) -> list[dict[str, Any]]:
    """What a reader who knows the rules answers right, after 0 to 8 examples."""
    return [
        {'name': 'ideal', 'shown': 'own', 'shots': shots, 'questions': len(questions)}
        | {'exact': float(np.mean([one['ideal'][str(shots)] for one in questions]))}
        for shots in SHOTS
    ]


def _numbers(questions: Sequence[Question], scored: Sequence[Scored], hits: np.ndarray) -> dict[str, Any]:
    found = wilson(int(hits.sum()), len(hits))
    nats = [one.log_p / one.tokens for one in scored]
    return {
        'questions': len(hits), 'exact': found.share, 'low': found.low, 'high': found.high,
        'log_p_per_byte': float(np.mean(nats)),
        'rules': _shares(questions, 'rule', hits), 'about': _shares(questions, 'about', hits),
    }  # fmt: skip


def _shares(questions: Sequence[Question], column: str, hits: np.ndarray) -> dict[str, float]:
    groups = np.array([one[column] for one in questions])
    return {str(group): float(hits[groups == group].mean()) for group in dict.fromkeys(groups.tolist())}


def main(sweep: Path, corpus: Path, output: Path) -> None:
    questions = jsonl.read(corpus / 'questions.jsonl')
    done = [one for one in jsonl.read(sweep / 'records.jsonl') if one['status'] == 'done']
    lines = ideal(questions)
    for trial in done:
        model = gpt_jax.load(sweep / 'trials' / trial['name'], say=lambda _: None)
        about = {'name': trial['name'], 'params_non_embedding': trial['params_non_embedding'], 'seed': trial['seed']}
        lines += [about | {'size': f'{trial["layers"]}x{trial["width"]}'} | one for one in results(model, questions)]
        shares = ' '.join(f'{one["exact"]:.3f}' for one in lines[-8:-1])
        print(f'{trial["name"]}: {shares}; gain {lines[-1]["gain"]:+.3f}')
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
