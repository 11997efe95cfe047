"""Rules that turn a word into an answer, and what examples reveal about the rule.

A rule is one or more functions. Ten rules are always the same. Two have content that each text
draws anew, so that only examples reveal it: a syllable that answers every word, and a permutation
of the vowels.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from gpt_jax.evaluation.memorization import CANARY_LETTERS

CONSONANTS, VOWELS = CANARY_LETTERS
ALPHABET = 'abcdefghijklmnopqrstuvwxyz'

Function = Callable[[str], str]
Example = tuple[str, str]  # a word and its answer


def _shift(word: str) -> str:
    return word.translate(str.maketrans(ALPHABET, ALPHABET[1:] + ALPHABET[:1]))


def _drop_letters(letters: str, word: str) -> str:
    return ''.join(letter for letter in word if letter not in letters)


def _encode_vowels(code: str, word: str) -> str:
    return word.translate(str.maketrans(VOWELS, code))


def _return_constant(answer: str, word: str) -> str:
    del word
    return answer


RULES: Mapping[str, Sequence[Function]] = {
    'same': (str,),
    'upper': (str.upper,),
    'reversed': (lambda word: word[::-1],),
    'first': (lambda word: word[0],),
    'last': (lambda word: word[-1],),
    'tail': (lambda word: word[1:],),
    'vowels': (partial(_drop_letters, CONSONANTS),),
    'consonants': (partial(_drop_letters, VOWELS),),
    'sorted': (lambda word: ''.join(sorted(word)),),
    'next': (_shift,),
    'syllable': tuple(
        partial(_return_constant, ''.join(pair)) for pair in itertools.product(CONSONANTS, VOWELS)
    ),
    'code': tuple(
        partial(_encode_vowels, ''.join(order)) for order in itertools.permutations(VOWELS)
    )[1:],  # the first is the rule 'same'
}


def predict_answers(shots: Sequence[Example], word: str) -> dict[str, float]:
    """Return the probability of each answer for a reader who knows how the rules are drawn."""
    weights: dict[str, float] = {}
    for functions in RULES.values():
        for function in functions:
            if all(function(shown) == answer for shown, answer in shots):
                answer = function(word)
                weights[answer] = weights.get(answer, 0.0) + 1 / len(functions)
    total = sum(weights.values())
    return {answer: weight / total for answer, weight in weights.items()} if total else {}
