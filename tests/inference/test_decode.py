"""Decoding with a KV cache against the full forward pass, for any batch, block and length."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.inference import batching, text_stream
from gpt_jax.inference.options import make_options
from tests.inference import engines, reference
from tests.inference.engines import END, generate, prompts, token_ids
from tests.model.architectures import ARCHITECTURES
from tests.model.test_gpt import make_model

CONTEXT = 48
SLOW = pytest.mark.slow


@pytest.fixture(scope='module')
def gpt():
    """(engine, full forward: ids -> logits [length, V]) of a small GPT-2, shared by most tests."""
    config = engines.config(layers=1, context=CONTEXT)
    params, forward = make_model(config)
    return engines.build_engine(config, params), pad_forward(params, forward)


def pad_forward(params, forward):
    """The full forward pass for any length, compiled once."""

    def full(tokens):
        row = np.zeros((1, CONTEXT), np.int32)
        row[0, : len(tokens)] = tokens
        return np.asarray(forward(params, jnp.asarray(row)))[0, : len(tokens)]

    return full


@pytest.mark.parametrize(
    'name', ['sink', 'switch', *(pytest.param(n, marks=SLOW) for n in ('gpt1', 'llama'))]
)
def test_greedy_text_is_the_argmax_of_the_full_forward(name):
    layers = 2 if name in ('gpt1', 'sink') else 1  # post-norm; the layers of a pattern differ
    config = engines.config(**ARCHITECTURES[name] | {'context': CONTEXT, 'layers': layers})
    params, forward = make_model(config)
    given = prompts(1, 3, 17)
    texts = generate(engines.build_engine(config, params), given, max_new_tokens=24)
    for prompt, text in zip(given, texts, strict=True):
        max_length = len(prompt.ids) + 24
        assert list(text.tokens) == reference.greedy(
            pad_forward(params, forward), prompt.ids.tolist(), max_length, {END}
        )


def test_greedy_text_with_penalties_equals_the_reference(gpt):
    engine, full = gpt
    options = {
        'repetition_penalty': 1.3,
        'presence_penalty': 0.5,
        'no_repeat_ngram_size': 2,
        'min_length': 20,
    }
    given = prompts(2, 9, 5)
    texts = generate(engine, given, max_length=40, **options)
    for prompt, text in zip(given, texts, strict=True):
        assert list(text.tokens) == reference.greedy(
            full, prompt.ids.tolist(), 40, {END}, **options
        )


def test_log_probabilities_ignore_logits_processors(gpt):
    engine, full = gpt
    (prompt,) = prompts(5)
    (text,) = generate(engine, [prompt], max_length=40, temperature=0.5, seed=1)
    ids = [*prompt.ids.tolist(), *text.tokens]
    expected = np.asarray(jax.nn.log_softmax(full(ids)))[4:-1]
    np.testing.assert_allclose(
        text.log_probabilities, expected[np.arange(35), list(text.tokens)], atol=1e-4
    )


def are_equal(texts, others):
    """Whether the texts are equal up to the rounding of their log-probabilities."""
    drop_log_p = lambda text: dataclasses.replace(text, log_probabilities=())
    for text, other in zip(texts, others, strict=True):
        np.testing.assert_allclose(text.log_probabilities, other.log_probabilities, atol=1e-4)
    return list(map(drop_log_p, texts)) == list(map(drop_log_p, others))


@pytest.mark.parametrize('given', [{}, {'temperature': 1.0, 'num_return_sequences': 2, 'seed': 4}])
def test_text_does_not_depend_on_batch_or_block(gpt, given):
    engine, _ = gpt
    several = prompts(1, 4, 17, 9)
    together = generate(engine, several, max_length=40, **given)
    assert generate(engine, several, max_length=40, block=2, **given) == together
    assert are_equal(generate(engine, several, max_length=40, batch_size=4, **given), together)
    per_prompt = given.get('num_return_sequences', 1)
    for text, prompt in zip(together[::per_prompt], several, strict=True):
        single = given | {'num_return_sequences': 1, 'seed': text.seed}
        assert are_equal(generate(engine, [prompt], max_length=40, **single), [text])


def test_different_seeds_sample_different_texts(gpt):
    engine, _ = gpt
    texts = generate(engine, prompts(4, 4), max_length=40, temperature=1.0, num_return_sequences=2)
    assert len({text.tokens for text in texts}) == 4
    others = generate(engine, prompts(4), max_length=40, temperature=1.0, seed=1)
    assert token_ids(others) != token_ids(texts[:1])


def test_lengths_and_temperatures_share_compiled_programs(gpt):
    engine, _ = gpt
    count_programs = lambda: [function._cache_size() for function in engine.decoding]
    generate(engine, prompts(3, 2, 2, 2), max_length=40, temperature=1.0)
    before = count_programs()
    for length in range(2, 18):
        generate(
            engine,
            prompts(length, 5, 2),
            max_length=33 + length % 7,
            temperature=length / 10,
            block=length,
        )
    assert count_programs() == before
    # One more bucket of prompts only recompiles the prefill.
    generate(engine, prompts(18, 5, 2), max_length=40, temperature=1.0)
    assert count_programs() == [before[0] + 1, *before[1:]]


def test_end_id_is_in_the_tokens_but_not_in_the_text(gpt):
    engine, _ = gpt
    prompt = prompts(6)
    (unstopped,) = generate(engine, prompt, max_length=40)
    end = unstopped.tokens[7]
    position = unstopped.tokens.index(end)
    for name, reason in (('eos_token_id', 'end'), ('stop_token_ids', 'stop')):
        (text,) = generate(engine, prompt, max_length=40, **{name: (end,)})
        assert text.tokens == unstopped.tokens[: position + 1]
        assert text.continuation == ''.join(f' {id_}' for id_ in unstopped.tokens[:position])
        assert text.finish_reason == reason
    assert unstopped.finish_reason == 'length'
    (longer,) = generate(engine, prompt, max_length=40, eos_token_id=(end,), min_new_tokens=15)
    assert end not in longer.tokens[:14]


def test_stop_string_ends_only_its_own_row(gpt):
    engine, _ = gpt
    several = prompts(6, 3, 2)
    sampled = {'max_length': 40, 'temperature': 1.0, 'eos_token_id': (95,)}
    first, *others = generate(engine, several, **sampled)
    stop = ' ' + ' '.join(map(str, first.tokens[9:12]))
    assert not any(stop in other.continuation for other in others)
    for block in (1, 5, text_stream.UNINTERRUPTED_STEPS):
        stopped, *unstopped = generate(engine, several, stop=stop, block=block, **sampled)
        assert stopped.continuation == first.continuation[: first.continuation.index(stop)]
        assert stopped.finish_reason == 'stop'
        assert len(stopped.tokens) == len(stopped.log_probabilities) <= 12
        assert unstopped == others


def test_chunks_add_up_to_the_text(gpt):
    engine, _ = gpt
    texts = ['', '', '']
    for chunk in text_stream.stream_texts(
        engine,
        engines.DETOKENIZER,
        prompts(3, 8, 4),
        make_options({'max_length': 40}),
        row_shards=1,
        block=2,
    ):
        assert len(chunk.text.split()) <= 2
        texts[chunk.number] += chunk.text
        if chunk.result:
            assert chunk.result.continuation == texts[chunk.number]
            assert chunk.result.text == chunk.result.prompt + texts[chunk.number]


def make_half_context_window():
    """A window that cuts a text to half of the context whenever it fills the context."""
    start = 0

    def window(tokens):
        nonlocal start
        if len(tokens) - 1 - start >= CONTEXT:
            start = len(tokens) - 1 - CONTEXT // 2
        return tokens[start:]

    return window


def test_sliding_window_rereads_the_last_half_of_the_context(gpt, monkeypatch):
    # A capacity of 128 tokens, then of 512.
    monkeypatch.setattr(batching, 'INITIAL_CAPACITY', 100)
    engine, full = gpt
    several = prompts(3, 40, 70, CONTEXT + 1)
    texts = generate(
        engine, several, max_new_tokens=90, context_overflow='sliding_window', eos_token_id=(95,)
    )
    for prompt, text in zip(several, texts, strict=True):
        tokens = prompt.ids.tolist()
        assert list(text.tokens) == reference.greedy(
            full, tokens, len(tokens) + 90, {95}, make_half_context_window()
        )


def test_text_can_fill_the_whole_context(gpt):
    engine, full = gpt
    (text,) = generate(engine, prompts(4), max_length=CONTEXT, eos_token_id=(95,))
    assert len(text.tokens) == CONTEXT - 4
    assert list(text.tokens) == reference.greedy(full, prompts(4)[0].ids.tolist(), CONTEXT, {95})
    (request,) = batching.make_requests(prompts(4), make_options({}), CONTEXT)
    assert request.max_length == CONTEXT
