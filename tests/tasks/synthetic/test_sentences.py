"""Sentence datasets: labels agree with an independent implementation of their rules."""

import itertools
import random
import re
from pathlib import Path

import numpy as np

from gpt_jax.tasks.synthetic import sentences
from gpt_jax.tasks.synthetic.sentences import (
    ACTIVITIES,
    KINDS,
    NEGATIVE_ADJECTIVES,
    POSITIVE_ADJECTIVES,
    PREMISE_PLACES,
    Proposition,
)

NO_STDLIB = Path()


def all_rows(splits):
    return [row for rows in splits.values() for row in rows]


def bag_of_words_accuracy(train, held_out):
    """Accuracy of a logistic regression on the set of words in a text."""
    words = sorted({word for text, _ in train for word in re.findall(r'\w+', text.lower())})
    columns = {word: number for number, word in enumerate(words)}

    def encode(examples):
        inputs = np.zeros((len(examples), len(words) + 1))
        inputs[:, -1] = 1
        for row, (text, _) in enumerate(examples):
            for word in re.findall(r'\w+', text.lower()):
                inputs[row, columns.get(word, -1)] = 1
        return inputs, np.array([label for _, label in examples])

    inputs, labels = encode(train)
    weights = np.zeros(inputs.shape[1])
    for _ in range(150):
        weights += 2 * inputs.T @ (labels - 1 / (1 + np.exp(-inputs @ weights))) / len(labels)
    inputs, labels = encode(held_out)
    return np.mean((inputs @ weights > 0) == labels)


def test_sentiment_follows_its_rules():
    """Reduces each text to its main clause and looks for an inverting form."""
    inverting = re.compile(r'\bnot\b|anything but|nobody could call|was never \w+$|looked in vain')
    hearsay = re.compile(
        r'(my friends told me|the posters call|every critic found)[^,:]*(, and yet )?'
    )
    adjectives = POSITIVE_ADJECTIVES + NEGATIVE_ADJECTIVES
    for row in all_rows(sentences.make_sentiment_rows(NO_STDLIB)):
        text = row['text'].removesuffix('.').lower()
        text = hearsay.sub('', text.partition(', whatever they say')[0])
        text = re.sub(r'^(although|even if) [^,]+, ', '', text)
        text = re.split(r', (?:although|even if) ', text)[0]
        text = re.split(r', but |; still, ', text)[-1]
        (word,) = [word for word in adjectives if re.search(rf'\b{word}\b', text)]
        is_positive = (word in POSITIVE_ADJECTIVES) != bool(inverting.search(text))
        assert row['label'] == ('positive' if is_positive else 'negative'), row


def test_a_bag_of_words_does_not_solve_sentiment():
    splits = sentences.make_sentiment_rows(NO_STDLIB)
    train, held_out = (
        [(row['text'], row['label'] == 'positive') for row in splits[split]]
        for split in ('train', 'test')
    )
    assert 0.45 < np.mean([label for _, label in train]) < 0.55
    assert bag_of_words_accuracy(train, held_out) < 0.65
    # It cannot use words that it did not see in training, but it could learn from a marker.
    unseen = [(f'{text} {label}', label) for text, label in train]
    assert bag_of_words_accuracy(unseen, train) < 0.65
    marked = [(f'{text} {"so" if label else "thus"}', label) for text, label in train]
    assert bag_of_words_accuracy(marked, marked) > 0.95


def words_below(table, word):
    """All words that are a kind of `word`, with the word itself."""
    below = {word} if word else set(table)
    while more := {child for child, parent in table.items() if parent in below} - below:
        below |= more
    return below


def is_true(claim, world):
    """Whether a proposition is true in a world.

    A world maps (kind, copy) of a being to its set of (activity, place). A being of a kind is one
    of every wider kind.
    """
    kinds = words_below(KINDS, claim.kind)
    activities = words_below(ACTIVITIES, claim.activity)
    places = words_below(PREMISE_PLACES, claim.place)
    matches = [
        any(activity in activities and place in places for activity, place in acts)
        for (kind, _), acts in world.items()
        if kind in kinds
    ]
    return {'some': any(matches), 'every': all(matches), 'no': not any(matches)}[claim.quantity]


def make_worlds(first, second):
    """Worlds where beings do what one proposition says, what both say or imply, or nothing."""
    acts = [(first.activity, first.place), (second.activity, second.place)]
    narrowest = []
    for table, a, b in (
        (ACTIVITIES, first.activity, second.activity),
        (PREMISE_PLACES, first.place, second.place),
    ):
        common = words_below(table, a) & words_below(table, b)
        sizes = {word: len(words_below(table, word)) for word in common}
        narrowest.append(max(common, key=sizes.get, default=None))
    if None not in narrowest:
        acts.append(tuple(narrowest))
    subsets = [
        set(subset)
        for size in range(len(acts) + 1)
        for subset in itertools.combinations(acts, size)
    ]
    groups = [words_below(KINDS, first.kind), words_below(KINDS, second.kind)]
    groups += [set(KINDS), {first.kind}, {second.kind}]
    for inside, outside in itertools.product(subsets, repeat=2):
        for group, copies in itertools.product(groups, (1, 2)):
            yield {
                (kind, copy): inside if kind in group and copy < copies else outside
                for kind in KINDS
                for copy in (0, 1)
            }


def relation_in_worlds(premise, hypothesis):
    """The relation of two propositions, from all worlds in which the premise is true."""
    outcomes = {
        is_true(hypothesis, world)
        for world in make_worlds(premise, hypothesis)
        if is_true(premise, world)
    }
    if True not in outcomes:
        return 'contradiction'
    return 'neutral' if False in outcomes else 'entailment'


def test_pair_labels_hold_in_all_worlds():
    rows = all_rows(sentences.make_pairs_rows(NO_STDLIB))
    assert {row['label'] for row in rows} == set(sentences.PAIR_LABELS)
    pattern = re.compile(rf'(\w+) (\w+) ({"|".join(ACTIVITIES)}) ?(.*)\.')
    for row in random.Random(0).sample(rows, 120):
        premise, hypothesis = (
            Proposition(*pattern.fullmatch(row[side].lower()).groups())
            for side in ('premise', 'hypothesis')
        )
        expected = relation_in_worlds(premise, hypothesis)
        assert row['label'] == expected, row
        assert sentences.relate_propositions(premise, hypothesis) == expected, row


def parse_event(sentence):
    """Agent, patient, verb, negation, time and place of a sentence, as indices into the tables."""
    text = sentence.removesuffix('.').lower()
    adverbials = []
    for table in (sentences.TIMES, sentences.PLACES):
        words = [(number, word) for number, synonyms in enumerate(table) for word in synonyms]
        matches = [(number, word) for number, word in words if word and word in text]
        number, word = matches[0] if matches else (None, '')
        adverbials.append(number)
        text = text.replace(word, '') if word else text
    text = ' '.join(text.replace(',', '').split())
    passive = re.fullmatch(r'the (\w+) was (never )?(\w+) by the (\w+)', text)
    active = re.fullmatch(r'the (\w+) (never )?(\w+) the (\w+)', text)
    first, never, verb, last = (passive or active).groups()
    agent, patient = (last, first) if passive else (first, last)
    verbs = [
        number
        for number, synonyms in enumerate(sentences.VERBS)
        if verb in [forms[bool(passive)] for forms in synonyms]
    ]
    people = [
        [number for number, names in enumerate(sentences.PEOPLE) if name in names]
        for name in (agent, patient)
    ]
    return (*people, verbs, bool(never), *adverbials)


def test_similar_sentences_tell_the_same_event():
    rows = all_rows(sentences.make_similarity_rows(NO_STDLIB))
    for row in rows:
        is_same = parse_event(row['first']) == parse_event(row['second'])
        assert is_same == (row['label'] == 'same'), row
    assert 0.45 < np.mean([row['label'] == 'same' for row in rows]) < 0.55
