"""Which rules turn a word into an answer, and what can be known of the rule after some examples of it?

A rule is one or more functions: ten that are always the same, and two with content that each text draws anew, which no
model can know before it has read examples: a syllable that answers every word, and a code of the vowels.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from gpt_jax.evaluate.memorization import LETTERS

CONSONANTS, VOWELS = LETTERS
ALPHABET = 'abcdefghijklmnopqrstuvwxyz'

Function = Callable[[str], str]
Example = tuple[str, str]  # a word and its answer


def _following(word: str) -> str:
    return word.translate(str.maketrans(ALPHABET, ALPHABET[1:] + ALPHABET[:1]))


def _without(letters: str, word: str) -> str:
    return ''.join(letter for letter in word if letter not in letters)


def _coded(code: str, word: str) -> str:
    return word.translate(str.maketrans(VOWELS, code))


def _always(answer: str, word: str) -> str:
    del word
    return answer


RULES: Mapping[str, Sequence[Function]] = {
    'same': (str,),
    'upper': (str.upper,),
    'reversed': (lambda word: word[::-1],),
    'first': (lambda word: word[0],),
    'last': (lambda word: word[-1],),
    'tail': (lambda word: word[1:],),
    'vowels': (partial(_without, CONSONANTS),),
    'consonants': (partial(_without, VOWELS),),
    'sorted': (lambda word: ''.join(sorted(word)),),
    'next': (_following,),
    'syllable': tuple(partial(_always, ''.join(pair)) for pair in itertools.product(CONSONANTS, VOWELS)),
    'code': tuple(partial(_coded, ''.join(order)) for order in itertools.permutations(VOWELS))[1:],  # the first: same
}
DRAWN = tuple(name for name, functions in RULES.items() if len(functions) > 1)  # with content of the text's own


def known(shots: Sequence[Example], word: str) -> dict[str, float]:
    """What an ideal reader, who knows the rules and how they are drawn, expects: the probability of each answer."""
    weights: dict[str, float] = {}
    for functions in RULES.values():
        for function in functions:
            if all(function(shown) == answer for shown, answer in shots):
                answer = function(word)
                weights[answer] = weights.get(answer, 0.0) + 1 / len(functions)
    total = sum(weights.values())
    return {answer: weight / total for answer, weight in weights.items()} if total else {}
