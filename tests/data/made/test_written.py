"""Do sets that a program writes follow the rules that they state? Each is read again by rules written down anew."""

import itertools
import random
import re
import struct
from pathlib import Path

import numpy as np
import pytest

from gpt_jax.data.made import grammar, pairs, roles, sentiment, similarity, translation
from gpt_jax.data.made.grammar import ADJECTIVES, NOUNS, VERBS
from gpt_jax.data.made.pairs import BEINGS, DOINGS, PLACES, Claim
from gpt_jax.data.made.sentiment import BAD, GOOD

NOPLACES = Path()


def every(splits):
    return [row for rows in splits.values() for row in rows]


def bag_of_words(train, held_out):
    """Accuracy of logistic regression on which words and pairs of... words alone are in a text."""
    words = sorted({word for text, _ in train for word in re.findall(r'\w+', text.lower())})
    place = {word: number for number, word in enumerate(words)}

    def matrix(given):
        made = np.zeros((len(given), len(words) + 1))
        made[:, -1] = 1
        for row, (text, _) in enumerate(given):
            for word in re.findall(r'\w+', text.lower()):
                made[row, place.get(word, -1)] = 1
        return made, np.array([label for _, label in given])

    inputs, labels = matrix(train)
    weights = np.zeros(inputs.shape[1])
    for _ in range(150):
        weights += 2 * inputs.T @ (labels - 1 / (1 + np.exp(-inputs @ weights))) / len(labels)
    tested, truth = matrix(held_out)
    return np.mean((tested @ weights > 0) == truth)


def test_sentiment_is_what_its_rules_say():
    """Cut at what joins clauses, keep the one that weighs, and turn an adjective over where its clause does."""
    turning = re.compile(r'\bnot\b|anything but|nobody could call|was never \w+$|looked in vain')
    hearsay = re.compile(r'(my friends told me|the posters call|every critic found)[^,:]*(, and yet )?')
    for row in every(sentiment.rows(NOPLACES)):
        text = row['text'].removesuffix('.').lower()
        text = hearsay.sub('', text.partition(', whatever they say')[0])
        text = re.sub(r'^(although|even if) [^,]+, ', '', text)
        text = re.split(r', (?:although|even if) ', text)[0]
        text = re.split(r', but |; still, ', text)[-1]
        (word,) = [word for word in GOOD + BAD if re.search(rf'\b{word}\b', text)]
        kind = (word in GOOD) != bool(turning.search(text))
        assert row['label'] == ('positive' if kind else 'negative'), row


def test_a_bag_of_words_does_not_know_sentiment():
    made = sentiment.rows(NOPLACES)
    train, held_out = (
        [(row['text'], row['label'] == 'positive') for row in made[split]] for split in ('train', 'test')
    )
    assert 0.45 < np.mean([label for _, label in train]) < 0.55
    assert bag_of_words(train, held_out) < 0.65
    assert bag_of_words([(f'{text} {label}', label) for text, label in train], train) < 0.65  # it knows no 'true'...
    marked = [(f'{text} {"so" if label else "thus"}', label) for text, label in train]
    assert bag_of_words(marked, marked) > 0.95  # ...that it could learn from


def _below(table, word):
    """All words that are a kind of `word`, itself too."""
    found = {word} if word else set(table)
    while more := {one for one, above in table.items() if above in found} - found:
        found |= more
    return found


def _holds(claim, world):
    """world: (being, which of two) -> its doings, each (doing, place). A being of a kind is one of every kind above."""
    beings, doings, places = _below(BEINGS, claim.being), _below(DOINGS, claim.doing), _below(PLACES, claim.place)
    does = [any(one in doings and place in places for one, place in acts)
            for (being, _), acts in world.items() if being in beings]  # fmt: skip
    return {'some': any(does), 'every': all(does), 'no': not any(does)}[claim.quantity]


def _worlds(first, second):
    """Worlds in which each being does what a claim says, both, what is narrower than both, or nothing."""
    acts = [(one.doing, one.place) for one in (first, second)]
    both = ((DOINGS, first.doing, second.doing), (PLACES, first.place, second.place))
    narrow = [max(_below(table, a) & _below(table, b), key=lambda one: len(_below(table, one)), default=None)
              for table, a, b in both]  # fmt: skip
    acts += [tuple(narrow)] if None not in narrow else []
    subsets = [set(some) for size in range(len(acts) + 1) for some in itertools.combinations(acts, size)]
    kinds = [_below(BEINGS, first.being), _below(BEINGS, second.being), set(BEINGS), {first.being}, {second.being}]
    for one, other in itertools.product(subsets, repeat=2):
        for kind, copies in itertools.product(kinds, (1, 2)):
            yield {
                (being, copy): one if being in kind and copy < copies else other for being in BEINGS for copy in (0, 1)
            }


def test_pairs_hold_in_all_worlds():
    draw = random.Random(0)
    rows = every(pairs.rows(NOPLACES))
    assert {row['label'] for row in rows} == set(pairs.LABELS)
    claim = re.compile(rf'(\w+) (\w+) ({"|".join(DOINGS)}) ?(.*)\.')
    for row in draw.sample(rows, 120):
        first, second = (Claim(*claim.fullmatch(row[side].lower()).groups()) for side in ('premise', 'hypothesis'))
        both, apart = False, False
        for world in _worlds(first, second):
            if _holds(first, world):
                held = _holds(second, world)
                both, apart = both or held, apart or not held
        expected = 'contradiction' if not both else 'neutral' if apart else 'entailment'
        assert (row['label'], pairs.relation(first, second)) == (expected, expected), row


def _event(sentence):
    """Who did what to whom, when and where, by the numbers of words."""
    text = sentence.removesuffix('.').lower()
    found = []
    for table in (similarity.TIMES, similarity.PLACES):
        words = [(number, word) for number, several in enumerate(table) for word in several if word]
        number, word = next(((number, word) for number, word in words if word in text), (None, ''))
        found.append(number)
        text = text.replace(word, '') if word else text
    text = ' '.join(text.replace(',', '').split())
    passive = re.fullmatch(r'the (\w+) was (never )?(\w+) by the (\w+)', text)
    active = re.fullmatch(r'the (\w+) (never )?(\w+) the (\w+)', text)
    one, never, deed, other = (passive or active).groups()
    doer, done_to = (other, one) if passive else (one, other)
    verb = [number for number, ways in enumerate(similarity.VERBS) if deed in [way[bool(passive)] for way in ways]]
    people = [[number for number, names in enumerate(similarity.PEOPLE) if name in names] for name in (doer, done_to)]
    return (*people, verb, bool(never), *found)


def test_similar_sentences_tell_one_event():
    rows = every(similarity.rows(NOPLACES))
    for row in rows:
        assert (_event(row['first']) == _event(row['second'])) == (row['label'] == 'same'), row
    assert 0.45 < np.mean([row['label'] == 'same' for row in rows]) < 0.55


def test_roles():
    rows = every(roles.rows(NOPLACES))
    by, seen = set(), set()
    for row in rows:
        words, tags = row['words'], row['tags']
        assert len(words) == len(tags)
        assert set(tags) <= set(roles.LABELS)
        for before, tag in zip(['O', *tags], tags, strict=False):
            assert not tag.startswith('I-') or before[1:] == tag[1:]
        assert sorted(tag for tag in tags if tag in ('B-ACTION', 'B-PATIENT')) == ['B-ACTION', 'B-PATIENT']
        by |= {tag for word, tag in zip(words, tags, strict=True) if word.lower() == 'by'}
        seen |= {tag[2:] for tag in tags} - {''}
        text = ' '.join(words)
        if match := re.search(r' was (\w+) by (?!the river|the old gate)(?:the|an?) (\w+)', text):  # the passive's doer
            assert tags[text[: match.start(2)].count(' ')] == 'I-AGENT'
            assert tags[0] != 'B-AGENT'
    assert seen == set(roles.KINDS)
    assert by == {'O', 'B-PLACE', 'I-AGENT'}


def test_grammar_agrees():
    """Every sentence of the made language is taken apart and its endings are compared."""
    genders = {noun.stem: noun.gender for noun in NOUNS}
    stems = '|'.join(genders)
    noun = re.compile(rf'({stems})([ao])(j?)(n?)(ta)?')
    adjective = re.compile(rf'({"|".join(ADJECTIVES.values())})([ao])(j?)(n?)')
    verb = re.compile(rf'({"|".join(one[3] for one in VERBS)})([ei])(s?)')
    for row in every(grammar.rows(NOPLACES)):
        words = row['target'].rstrip('.?').split()
        assert row['target'].endswith('?') == row['source'].endswith('?') == (words[-1] == 'ka')
        words = words[:-1] if words[-1] == 'ka' else words
        said = verb.fullmatch(words.pop())
        negated = words[-1] == 'ne'
        words = words[:-1] if negated else words
        assert negated == (' not ' in row['source'])
        words = words[1:] if words[0] in grammar.TIMES.values() else words
        phrases, cases = [], []
        for word in words:
            if match := noun.fullmatch(word):
                assert match[2] == genders[match[1]]
                phrases.append(match.groups()[1:4])
                cases.append(match[4])
            elif match := adjective.fullmatch(word):
                assert match.groups()[1:] == phrases[-1]
            else:
                assert word in grammar.PLACES.values()
        assert cases.count('n') == 1  # one object, and subjects before it
        assert cases[0] == ''
        assert bool(said[3]) == bool(phrases[0][1])  # the verb's number is its subject's
    assert {'source': 'Did the letter near the letter love the old stones?',
            'target': 'zemota apu zemota pirtajnta vetajn ami ka?'} in every(grammar.rows(NOPLACES))  # fmt: skip


def catalogue(path, pairs):
    """Writes a gettext catalogue (the manual's section 'The Format of GNU MO Files')."""
    pairs = sorted({'': 'Content-Type: text/plain; charset=UTF-8\n', **pairs}.items())
    heads, texts, at = [[], []], b'', 28 + 16 * len(pairs)
    for side in (0, 1):
        for pair in pairs:
            text = pair[side].encode()
            heads[side] += [len(text), at + len(texts)]
            texts += text + b'\0'
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack('<7I', 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, 28 + 16 * len(pairs))
    path.write_bytes(head + struct.pack(f'<{4 * len(pairs)}I', *heads[0], *heads[1]) + texts)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    monkeypatch.setattr(translation, 'folders', lambda: [tmp_path])
    return tmp_path


def test_messages_of_catalogues(installed):
    catalogue(installed / 'de' / 'LC_MESSAGES' / 'a.mo', {
        'No such file': 'Keine solche Datei', 'OK': 'OK', 'The same': 'The same', '%s: %d': '%s: %d', 'Save': 'Sichern',
        'Two\nlines here': 'Zwei\nZeilen', 'menu\x04Open it': 'Öffnen bitte', 'x ' * 200: 'y ' * 200,
    })  # fmt: skip
    catalogue(installed / 'de' / 'LC_MESSAGES' / 'b.mo', {'No such file': 'Nicht da', 'Good day': 'Guten Tag'})
    (installed / 'de' / 'LC_MESSAGES' / 'c.mo').write_bytes(b'no catalogue')
    assert translation.messages([installed], 'de') == {'No such file': 'Keine solche Datei', 'Good day': 'Guten Tag'}
    assert translation.messages([installed], 'fr') == {}


def test_real_translations_where_there_are_many(installed, monkeypatch):
    monkeypatch.setattr(translation, 'FEWEST', 50)
    monkeypatch.setattr(translation, 'MOST', 60)
    catalogue(installed / 'es' / 'LC_MESSAGES' / 'a.mo', {f'The number {n}': f'El número {n}' for n in range(80)})
    catalogue(installed / 'de' / 'LC_MESSAGES' / 'a.mo', {'The number': 'Die Zahl'})
    made = translation.rows(NOPLACES)
    assert len(every(made)) == 60
    assert all(made.values())
    assert all(row['target'] == row['source'].replace('The number', 'El número') for row in every(made))
    assert {row['language'] for row in every(made)} == {'es'}


def test_a_made_language_where_there_are_few(installed):
    catalogue(installed / 'de' / 'LC_MESSAGES' / 'a.mo', {'The number': 'Die Zahl'})
    made = translation.rows(NOPLACES)
    assert {row['language'] for row in every(made)} == {'made'}
    assert [row['source'] for row in made['train']] == [row['source'] for row in grammar.rows(NOPLACES)['train']]


def test_where_catalogues_are_looked_for():
    assert Path('/usr/share/locale') in translation.folders()
