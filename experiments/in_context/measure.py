"""Gain from examples for each size of the sweep, on the same questions.

python experiments/in_context/measure.py

Reads runs/in_context_cpu (--sweep) and runs/in_context_corpus (--corpus). Writes to this folder or
--output: records.jsonl, the sweep's; results.jsonl, a line per model and kind of prompt; and the
figure of draw.py. A prompt is the examples, one per line, and `word>`; an answer is correct if it
and its newline are the model's greedy continuation.
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
from gpt_jax.core import files
from gpt_jax.evaluation.statistics import wilson_interval
from gpt_jax.inference.scoring import ContinuationScore

HERE = Path(__file__).parent
SWEEP = 'runs/in_context_cpu'
SHOTS = (0, 1, 2, 4, 8)
# Kind of prompt: (column of the examples, column of the expected answer).
PROMPTS = {
    'own': ('shots', 'answer'),
    # The control: examples of another rule, the answer of the question's own rule.
    'other': ('other_shots', 'answer'),
    # Examples of another rule, the answer of that rule.
    'other, followed': ('other_shots', 'other_answer'),
}
Question = Mapping[str, Any]


class Scorer(Protocol):
    """A gpt_jax.LanguageModel, or another object that scores pairs of texts like it."""

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[ContinuationScore]: ...


def make_prompt(question: Question, shown: str, shots: int) -> tuple[str, str]:
    """Return (context, continuation) of a question after the first `shots` of its examples."""
    examples, answer = PROMPTS[shown]
    return ''.join(question[examples][:shots]) + f'{question["word"]}>', f'{question[answer]}\n'


def measure_model(model: Scorer, questions: Sequence[Question]) -> list[dict[str, Any]]:
    """Return a record per number of shots, two for examples of another rule, and the gain last."""
    kinds = [('own', shots) for shots in SHOTS]
    kinds += [('other', SHOTS[-1]), ('other, followed', SHOTS[-1])]
    scores = model.score([make_prompt(question, *kind) for kind in kinds for question in questions])
    records, correct = [], {}
    for number, (shown, shots) in enumerate(kinds):
        part = scores[number * len(questions) : (number + 1) * len(questions)]
        hits = np.array([score.greedy for score in part])
        records.append({'shown': shown, 'shots': shots} | _summarize(questions, part, hits))
        correct[shown, shots] = hits
    return [*records, compute_gain(correct['own', SHOTS[-1]], correct['own', SHOTS[0]])]


def compute_gain(after: np.ndarray, before: np.ndarray) -> dict[str, Any]:
    """Return the gain in correct answers over the same questions, with its 95% interval."""
    differences = after.astype(float) - before
    half = 1.96 * differences.std(ddof=1) / len(differences) ** 0.5
    return {
        'shown': 'gain',
        'shots': SHOTS[-1],
        'gain': differences.mean(),
        'low': differences.mean() - half,
        'high': differences.mean() + half,
    }


def measure_ideal(questions: Sequence[Question]) -> list[dict[str, Any]]:
    """Return the accuracy of a reader who knows the rules, after 0 to 8 examples."""
    return [
        {'name': 'ideal', 'shown': 'own', 'shots': shots, 'questions': len(questions)}
        | {'exact': float(np.mean([question['ideal'][str(shots)] for question in questions]))}
        for shots in SHOTS
    ]


def _summarize(
    questions: Sequence[Question], scores: Sequence[ContinuationScore], hits: np.ndarray
) -> dict[str, Any]:
    interval = wilson_interval(int(hits.sum()), len(hits))
    nats = [score.log_p / score.tokens for score in scores]
    return {
        'questions': len(hits),
        'exact': interval.share,
        'low': interval.low,
        'high': interval.high,
        'log_p_per_byte': float(np.mean(nats)),
        'rules': _compute_shares(questions, 'rule', hits),
        'about': _compute_shares(questions, 'about', hits),
    }


def _compute_shares(
    questions: Sequence[Question], column: str, hits: np.ndarray
) -> dict[str, float]:
    groups = np.array([question[column] for question in questions])
    return {
        str(group): float(hits[groups == group].mean()) for group in dict.fromkeys(groups.tolist())
    }


def main(sweep: Path, corpus: Path, output: Path) -> None:
    questions = files.read_jsonl(corpus / 'questions.jsonl')
    done = [r for r in files.read_jsonl(sweep / 'records.jsonl') if r['status'] == 'done']
    lines = measure_ideal(questions)
    for trial in done:
        model = gpt_jax.load(sweep / 'trials' / trial['name'], log=lambda _: None)
        about = {
            'name': trial['name'],
            'params_non_embedding': trial['params_non_embedding'],
            'seed': trial['seed'],
        }
        lines += [
            about | {'size': f'{trial["layers"]}x{trial["width"]}'} | record
            for record in measure_model(model, questions)
        ]
        shares = ' '.join(f'{record["exact"]:.3f}' for record in lines[-8:-1])
        print(f'{trial["name"]}: {shares}; gain {lines[-1]["gain"]:+.3f}')
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
