"""Texts in which each shows one rule by examples, and questions that only such examples answer.

python experiments/in_context/make.py

Writes into runs/in_context_corpus (or --folder): train.jsonl and validation.jsonl, a text of 127 bytes a line (128
tokens with its end: a window of the model sees one text and no other), questions.jsonl, and about.json with their
SHA-256. A text is lines `word>answer`, all by the rule that was drawn for it; the last line is cut where the text is
full. The same --seed makes the same files.
"""

import argparse
import hashlib
import itertools
import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from experiments.in_context.rules import CONSONANTS, RULES, VOWELS, Function, known
from gpt_jax import files, jsonl

FOLDER = 'runs/in_context_corpus'
BYTES = 127  # of a text
TEXTS, VALIDATION = 16_000, 500
WORDS, NEW_WORDS = 3000, 300  # NEW_WORDS are in no training text
HELD_OUT = 0.1  # of the pairs of a rule and a word: in no training text, though the word is, with other rules
ASKED = 50  # questions of each rule, half about new words, half about pairs that were held out
SHOTS = 8


def words(seed: int) -> tuple[list[str], list[str]]:
    """(those of the training texts, new ones): a consonant, a vowel and again, each word once."""
    every = [''.join(letters) for letters in itertools.product(CONSONANTS, VOWELS, CONSONANTS, VOWELS)]
    both = random.Random(f'words {seed}').sample(every, WORDS + NEW_WORDS)
    return both[:WORDS], both[WORDS:]


def held_out(rule: str, word: str) -> bool:
    """Whether no training text shows this word with this rule, by a hash of both."""
    digest = hashlib.blake2b(f'{rule} {word}'.encode(), digest_size=8).digest()
    return int.from_bytes(digest) < HELD_OUT * 2**64


def text(draw: random.Random, vocabulary: list[str]) -> str:
    """One training text; words may come twice."""
    rule = draw.choice(list(RULES))
    function = draw.choice(RULES[rule])
    lines = ''
    while len(lines) < BYTES:
        word = draw.choice(vocabulary)
        if not held_out(rule, word):
            lines += line(word, function)
    return lines[:BYTES]


def line(word: str, function: Function) -> str:
    return f'{word}>{function(word)}\n'


def question(draw: random.Random, rule: str, about: str, word: str, vocabulary: list[str]) -> dict[str, Any]:
    """A question, examples of its rule, and as the control the same examples answered by another rule.

    'ideal' is, after so many examples, the probability of the right answer to a reader who knows all rules, and
    whether that reader would give it. The other rule answers the question otherwise.
    """
    function = draw.choice(RULES[rule])
    shown = draw.sample([one for one in vocabulary if one != word and not held_out(rule, one)], SHOTS)
    while True:
        other = draw.choice([name for name in RULES if name != rule])
        another = draw.choice(RULES[other])
        if another(word) != function(word):
            break
    ideal = {}
    for shots in range(SHOTS + 1):
        expected = known([(one, function(one)) for one in shown[:shots]], word)
        best = max(expected.values())
        ties = [answer for answer, weight in expected.items() if weight == best]
        ideal[str(shots)] = (function(word) in ties) / len(ties)
    return {
        'rule': rule, 'about': about, 'word': word, 'answer': function(word),
        'shots': [line(one, function) for one in shown], 'ideal': ideal,
        'other': other, 'other_answer': another(word), 'other_shots': [line(one, another) for one in shown],
    }  # fmt: skip


def questions(seed: int, vocabulary: list[str], new: list[str]) -> list[dict[str, Any]]:
    """ASKED of each rule, in turn about a new word and about a pair that was held out; no word twice in a rule."""
    draw = random.Random(f'questions {seed}')
    made = []
    for rule in RULES:
        pairs = [word for word in vocabulary if held_out(rule, word)]
        chosen = [('new word', one) for one in draw.sample(new, ASKED // 2)]
        chosen += [('new pair', one) for one in draw.sample(pairs, ASKED - ASKED // 2)]
        made += [question(draw, rule, about, word, vocabulary) for about, word in chosen]
    return made


def write(folder: Path, seed: int, texts: int = TEXTS) -> dict[str, Any]:
    """Makes the files; returns what about.json says of them."""
    vocabulary, new = words(seed)
    draw = random.Random(f'texts {seed}')
    rows = {
        'train': [{'text': text(draw, vocabulary)} for _ in range(texts)],
        'validation': [{'text': text(draw, vocabulary)} for _ in range(VALIDATION)],
        'questions': questions(seed, vocabulary, new),
    }
    about: dict[str, Any] = {'seed': seed, 'words': len(vocabulary), 'new_words': len(new), 'files': {}}
    folder.mkdir(parents=True, exist_ok=True)
    for name, each in rows.items():
        path = folder / f'{name}.jsonl'
        jsonl.write(path, each)
        about['files'][path.name] = {'rows': len(each), 'sha256': files.sha256_file(path)}
    files.write_json(folder / 'about.json', about)
    return about


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--folder', default=FOLDER, help='where the files go')
    parser.add_argument('--seed', type=int, default=0, help='decides the words, the texts and the questions')
    flags = parser.parse_args()
    for file, said in write(Path(flags.folder), flags.seed)['files'].items():
        print(f'{flags.folder}/{file}: {said["rows"]} rows, sha256 {said["sha256"][:16]}')
