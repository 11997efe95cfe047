"""Texts that demonstrate one rule each, and questions that only examples answer.

python experiments/in_context/make.py

Writes into runs/in_context_corpus (or --folder): train.jsonl and validation.jsonl, one text of 127
bytes per line (128 tokens with its end: a window of the model is one text); questions.jsonl; and
about.json with their SHA-256. A text consists of lines `word>answer`, all with the same randomly
drawn rule; the last line is truncated. The same --seed gives the same files.
"""

import argparse
import hashlib
import itertools
import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from experiments.in_context.rules import CONSONANTS, RULES, VOWELS, Function, predict_answers
from gpt_jax.core import files

FOLDER = 'runs/in_context_corpus'
TEXT_BYTES = 127
TEXTS, VALIDATION = 16_000, 500
WORDS, NEW_WORDS = 3000, 300  # NEW_WORDS are in no training text
# Share of the (rule, word) pairs that are in no training text; the words are, with other rules.
HELD_OUT = 0.1
# Questions per rule: half about new words, half about held-out pairs.
QUESTIONS_PER_RULE = 50
SHOTS = 8


def draw_words(seed: int) -> tuple[list[str], list[str]]:
    """Draw words of consonant, vowel, consonant, vowel: (those of the training texts, new ones)."""
    candidates = [
        ''.join(letters) for letters in itertools.product(CONSONANTS, VOWELS, CONSONANTS, VOWELS)
    ]
    words = random.Random(f'words {seed}').sample(candidates, WORDS + NEW_WORDS)
    return words[:WORDS], words[WORDS:]


def is_held_out(rule: str, word: str) -> bool:
    """Return whether no training text shows this word with this rule, by a hash of both."""
    digest = hashlib.blake2b(f'{rule} {word}'.encode(), digest_size=8).digest()
    return int.from_bytes(digest) < HELD_OUT * 2**64


def make_text(rng: random.Random, vocabulary: list[str]) -> str:
    """Make one training text; words may repeat."""
    rule = rng.choice(list(RULES))
    function = rng.choice(RULES[rule])
    lines = ''
    while len(lines) < TEXT_BYTES:
        word = rng.choice(vocabulary)
        if not is_held_out(rule, word):
            lines += format_example(word, function)
    return lines[:TEXT_BYTES]


def format_example(word: str, function: Function) -> str:
    return f'{word}>{function(word)}\n'


def make_question(
    rng: random.Random, rule: str, about: str, word: str, vocabulary: list[str]
) -> dict[str, Any]:
    """Make a question with examples of its rule and, as the control, of another rule.

    The control shows the same words; its rule gives another answer to the question. 'ideal' is,
    by number of examples, the probability that a reader who knows all rules answers correctly.
    """
    function = rng.choice(RULES[rule])
    candidates = [w for w in vocabulary if w != word and not is_held_out(rule, w)]
    shown = rng.sample(candidates, SHOTS)
    while True:
        other = rng.choice([name for name in RULES if name != rule])
        other_function = rng.choice(RULES[other])
        if other_function(word) != function(word):
            break
    ideal = {}
    for shots in range(SHOTS + 1):
        expected = predict_answers([(w, function(w)) for w in shown[:shots]], word)
        best = max(expected.values())
        ties = [answer for answer, weight in expected.items() if weight == best]
        ideal[str(shots)] = (function(word) in ties) / len(ties)
    return {
        'rule': rule,
        'about': about,
        'word': word,
        'answer': function(word),
        'shots': [format_example(w, function) for w in shown],
        'ideal': ideal,
        'other': other,
        'other_answer': other_function(word),
        'other_shots': [format_example(w, other_function) for w in shown],
    }


def make_questions(seed: int, vocabulary: list[str], new: list[str]) -> list[dict[str, Any]]:
    """Make the questions of each rule, about new words and held-out pairs, each word once."""
    rng = random.Random(f'questions {seed}')
    questions = []
    for rule in RULES:
        pairs = [word for word in vocabulary if is_held_out(rule, word)]
        chosen = [('new word', word) for word in rng.sample(new, QUESTIONS_PER_RULE // 2)]
        chosen += [
            ('new pair', word)
            for word in rng.sample(pairs, QUESTIONS_PER_RULE - QUESTIONS_PER_RULE // 2)
        ]
        questions += [make_question(rng, rule, about, word, vocabulary) for about, word in chosen]
    return questions


def write_corpus(folder: Path, seed: int, texts: int = TEXTS) -> dict[str, Any]:
    """Write the files and return the content of about.json."""
    vocabulary, new = draw_words(seed)
    rng = random.Random(f'texts {seed}')
    rows = {
        'train': [{'text': make_text(rng, vocabulary)} for _ in range(texts)],
        'validation': [{'text': make_text(rng, vocabulary)} for _ in range(VALIDATION)],
        'questions': make_questions(seed, vocabulary, new),
    }
    about: dict[str, Any] = {
        'seed': seed,
        'words': len(vocabulary),
        'new_words': len(new),
        'files': {},
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, group in rows.items():
        path = folder / f'{name}.jsonl'
        files.write_jsonl(path, group)
        about['files'][path.name] = {'rows': len(group), 'sha256': files.sha256_file(path)}
    files.write_json(folder / 'about.json', about)
    return about


if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--folder', default=FOLDER, help='output folder')
    parser.add_argument('--seed', type=int, default=0, help='of the words, texts and questions')
    flags = parser.parse_args()
    for file, about in write_corpus(Path(flags.folder), flags.seed)['files'].items():
        print(f'{flags.folder}/{file}: {about["rows"]} rows, sha256 {about["sha256"][:16]}')
