"""Are texts written token by token with a cache those that the full forward would write, in any company?"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.generate import batching, options, writer
from tests.generate import reference, writing
from tests.generate.writing import END, ids, prompts, write
from tests.model.architectures import ARCHITECTURES
from tests.model.test_gpt import make

CONTEXT = 48


@pytest.fixture(scope='module')
def gpt():
    """(device, full: ids -> [length, V]) of a small GPT-2. One for all tests, whose shapes are mostly the same."""
    config = writing.config(layers=1, context=CONTEXT)
    params, forward = make(config)
    return writing.device(config, params), padded(params, forward)


def padded(params, forward):
    """The full forward of any length, compiled once."""

    def full(tokens):
        row = np.zeros((1, CONTEXT), np.int32)
        row[0, : len(tokens)] = tokens
        return np.asarray(forward(params, jnp.asarray(row)))[0, : len(tokens)]

    return full


@pytest.mark.parametrize('name', ['gpt1', 'llama', 'sink', 'switch'])
def test_greedy_text_is_the_argmax_of_the_full_forward(name):
    config = writing.config(**ARCHITECTURES[name] | {'context': CONTEXT})
    params, forward = make(config)
    given = prompts(1, 3, 17)
    texts = write(writing.device(config, params), given, max_new_tokens=24)
    for prompt, text in zip(given, texts, strict=True):
        limit = len(prompt.ids) + 24
        assert list(text.tokens) == reference.greedy(padded(params, forward), prompt.ids.tolist(), limit, {END})


def test_greedy_text_under_options_is_that_of_slow_loops(gpt):
    made, full = gpt
    options = {'repetition_penalty': 1.3, 'presence_penalty': 0.5, 'no_repeat_ngram_size': 2, 'min_length': 20}
    given = prompts(2, 9, 5)
    for prompt, text in zip(given, write(made, given, max_length=40, **options), strict=True):
        assert list(text.tokens) == reference.greedy(full, prompt.ids.tolist(), 40, {END}, **options)


def test_log_probabilities_are_the_models_own(gpt):
    made, full = gpt
    (prompt,) = prompts(5)
    (text,) = write(made, [prompt], max_length=40, temperature=0.5, seed=1)
    whole = [*prompt.ids.tolist(), *text.tokens]
    expected = np.asarray(jax.nn.log_softmax(full(whole)))[4:-1]
    np.testing.assert_allclose(text.log_probabilities, expected[np.arange(35), list(text.tokens)], atol=1e-4)


def same(texts, others):
    """Equal in all but the rounding of their log-probabilities."""
    plain = lambda text: dataclasses.replace(text, log_probabilities=())  # noqa: E731
    for text, other in zip(texts, others, strict=True):
        np.testing.assert_allclose(text.log_probabilities, other.log_probabilities, atol=1e-4)
    return list(map(plain, texts)) == list(map(plain, others))


@pytest.mark.parametrize('given', [{}, {'temperature': 1.0, 'num_return_sequences': 2, 'seed': 4}])
def test_a_text_does_not_depend_on_its_batch_or_on_who_looks_on(gpt, given):
    made, _ = gpt
    several = prompts(1, 4, 17, 9)
    together = write(made, several, max_length=40, **given)
    assert write(made, several, max_length=40, block=2, **given) == together
    assert same(write(made, several, max_length=40, batch_size=4, **given), together)
    alone = given | {'num_return_sequences': 1}
    for text, prompt in zip(together[:: given.get('num_return_sequences', 1)], several, strict=True):
        assert same(write(made, [prompt], max_length=40, **alone | {'seed': text.seed}), [text])


def test_other_seeds_draw_other_texts(gpt):
    made, _ = gpt
    texts = write(made, prompts(4, 4), max_length=40, temperature=1.0, num_return_sequences=2)
    assert len({text.tokens for text in texts}) == 4
    assert ids(write(made, prompts(4), max_length=40, temperature=1.0, seed=1)) != ids(texts[:1])


def test_lengths_and_temperatures_share_compiled_programs(gpt):
    made, _ = gpt
    write(made, prompts(3, 2, 2, 2), max_length=40, temperature=1.0)
    before = [function._cache_size() for function in made.plain]
    for length in range(2, 18):
        write(made, prompts(length, 5, 2), max_length=33 + length % 7, temperature=length / 10, block=length)
    assert [function._cache_size() for function in made.plain] == before
    write(made, prompts(18, 5, 2), max_length=40, temperature=1.0)  # one more bucket of prompts, which alone are read
    assert [function._cache_size() for function in made.plain] == [before[0] + 1, *before[1:]]


def test_what_ends_a_text_is_in_its_tokens_and_not_in_its_text(gpt):
    made, _ = gpt
    prompt = prompts(6)
    (free,) = write(made, prompt, max_length=40)
    end = free.tokens[7]
    at = free.tokens.index(end)
    for name, reason in (('eos_token_id', 'end'), ('stop_token_ids', 'stop')):
        (text,) = write(made, prompt, max_length=40, **{name: (end,)})
        assert text.tokens == free.tokens[: at + 1]
        assert text.continuation == free_text(free.tokens[:at])
        assert text.finish_reason == reason
    assert free.finish_reason == 'length'
    (longer,) = write(made, prompt, max_length=40, eos_token_id=(end,), min_new_tokens=15)
    assert end not in longer.tokens[:14]


def free_text(tokens):
    return ''.join(f' {id_}' for id_ in tokens)


def test_a_stop_string_ends_its_row_and_the_others_go_on(gpt):
    made, _ = gpt
    several, drawn = prompts(6, 3, 2), {'max_length': 40, 'temperature': 1.0, 'eos_token_id': (95,)}
    first, *others = write(made, several, **drawn)
    stop = ' ' + ' '.join(map(str, first.tokens[9:12]))
    assert not any(stop in other.continuation for other in others)
    for block in (1, 5, writer.AT_ONCE):
        cut, *whole = write(made, several, stop=stop, block=block, **drawn)
        assert cut.continuation == first.continuation[: first.continuation.index(stop)]
        assert cut.finish_reason == 'stop'
        assert len(cut.tokens) == len(cut.log_probabilities) <= 12
        assert whole == others


def test_pieces_are_the_text(gpt):
    made, _ = gpt
    given, pieces = prompts(3, 8, 4), ['', '', '']
    for update in writer.write(made, writing.WORDS, given, options.make({'max_length': 40}), ways=1, block=2):
        assert len(update.piece.split()) <= 2
        pieces[update.number] += update.piece
        if update.done:
            assert update.done.continuation == pieces[update.number]
            assert update.done.text == update.done.prompt + pieces[update.number]


def half_context():
    """Cuts a text where it has come to fill the context."""
    start = 0

    def cut(tokens):
        nonlocal start
        if len(tokens) - 1 - start >= CONTEXT:
            start = len(tokens) - 1 - CONTEXT // 2
        return tokens[start:]

    return cut


def test_where_the_context_is_full_its_last_half_is_read_again(gpt, monkeypatch):
    monkeypatch.setattr(batching, 'FIRST', 100)  # so that there is room for 128 tokens, then for 512
    made, full = gpt
    several = prompts(3, 40, 70, CONTEXT + 1)
    texts = write(made, several, max_new_tokens=90, overflow='slide', eos_token_id=(95,))
    for prompt, text in zip(several, texts, strict=True):
        tokens = prompt.ids.tolist()
        assert list(text.tokens) == reference.greedy(full, tokens, len(tokens) + 90, {95}, half_context())


def test_the_whole_context_can_be_written(gpt):
    made, full = gpt
    (text,) = write(made, prompts(4), max_length=CONTEXT, eos_token_id=(95,))
    assert len(text.tokens) == CONTEXT - 4
    assert list(text.tokens) == reference.greedy(full, prompts(4)[0].ids.tolist(), CONTEXT, {95})
    assert batching.requests(prompts(4), options.make({}), CONTEXT)[0].limit == CONTEXT
