"""Planted strings, windows without them, and the count of recalled strings."""

import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.memorization import draw, make, measure
from gpt_jax.core import files
from gpt_jax.core.errors import UserError
from gpt_jax.inference.scoring import ContinuationScore


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp('memorization')
    make.write_corpus(folder, seed=5)
    return {
        name: files.read_jsonl(folder / f'{name}.jsonl')
        for name in ('canaries', 'train', 'held_out')
    }


def test_strings_stand_as_often_as_is_said(corpus):
    whole = ''.join(row['text'] for row in corpus['train'])
    other = ''.join(row['text'] for row in corpus['held_out'])
    assert len(corpus['canaries']) == make.STRINGS_PER_COUNT * len(make.COUNTS)
    for row in corpus['canaries'][::5]:
        assert whole.count(f'{row["text"]}\n') == row['times']
        assert row['text'] not in other
    assert whole.isascii()
    assert not set(make.TRAIN) & set(make.HELD_OUT)


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r'no_such_module\.py'):
        make.read_modules(['no_such_module'])


def test_halves_are_of_whole_words(corpus):
    asked = measure.split_strings(corpus['canaries'])
    for row, before, after, group in zip(corpus['canaries'], *asked, strict=True):
        assert before + after == row['text']
        assert len(before.split()) == len(after.split()) == make.WORDS // 2
        assert (before[-1], group) == (' ', row['times'])


def test_windows_touch_no_planted_string(corpus):
    texts = [row['text'] for row in corpus['train']]
    asked = measure.sample_windows(texts, corpus['canaries'], 'trained on')
    words = [word for row in corpus['canaries'] if row['times'] for word in row['text'].split()]
    assert 300 < len(asked.prompts) < measure.WINDOWS['trained on']  # some did
    for before, after in zip(asked.prompts[::10], asked.continuations[::10], strict=True):
        assert (len(before), len(after)) == (50, 50)
        assert any(before + after in text for text in texts)
        assert not any(word in before + after for word in words)


class Parrot:
    """Knows some texts by heart and nothing else; certain of the last byte alone."""

    def __init__(self, texts):
        self.texts = texts
        self.tokenizer = SimpleNamespace(encode=lambda text: np.frombuffer(text.encode(), np.uint8))

    def generate(self, prompts, max_new_tokens, batch_size):
        assert batch_size > 0
        for prompt in prompts:
            known = next((text for text in self.texts if text.startswith(prompt)), prompt)
            rest = known[len(prompt) :][:max_new_tokens] or '?' * max_new_tokens
            yield SimpleNamespace(tokens=tuple(rest.encode()))

    def score(self, pairs):
        return [
            ContinuationScore(np.array([-2.0] * (len(after) - 1) + [0.0]), False)
            for _, after in pairs
        ]


def test_results_of_a_parrot(corpus):
    known = [row['text'] for row in corpus['canaries'] if row['times'] >= 8]
    asked = measure.split_strings(corpus['canaries'])
    found = {one['group']: one for one in measure.measure_recall(Parrot(known), asked)}
    assert list(found) == list(make.COUNTS)
    for times, one in found.items():
        assert one['windows'] == make.STRINGS_PER_COUNT
        assert one['exact'] == (times >= 8)
        assert one['matched'] == (17 if times >= 8 else 0)
        assert one['nats_per_byte'] == pytest.approx(2 * 16 / 17)


def test_what_is_known_of_a_string_without_having_seen_it(corpus):
    letters = {place: set() for place in range(6)}
    for row in corpus['canaries']:
        for place, letter in enumerate(row['text'] + ' '):
            letters[place % 6].add(letter)
    choices = math.prod(map(len, letters.values()))  # of a word and the space after it
    assert pytest.approx(math.log(choices) / 6) == draw.BASELINE


def test_the_figure_is_drawn(corpus, tmp_path, capsys):
    known = [row['text'] for row in corpus['canaries'] if row['times'] >= 8]
    model, texts = Parrot(known), [row['text'] for row in corpus['held_out']]
    every = [measure.split_strings(corpus['canaries'])]
    every += [measure.sample_windows(texts, [], group) for group in ('trained on', 'held out')]
    lines = []
    for params in (6592, 25472):
        about = {
            'name': str(params),
            'size': f'2x{params}',
            'seed': 0,
            'params_non_embedding': params,
        }
        lines += [
            about | one
            for one in itertools.chain(*(measure.measure_recall(model, asked) for asked in every))
        ]
    (tmp_path / 'results.jsonl').write_text(''.join(json.dumps(one) + '\n' for one in lines))
    assert [path.name for path in draw.main(tmp_path)] == ['memorization.png', 'memorization.svg']
    assert '| 2x6592 | 0.00 | 0.00 | 0.00 | 0.00 | 1.00 |' in capsys.readouterr().out
