"""Speculative decoding: greedy texts and sampled distributions are those of the model."""

import functools
import itertools

import jax
import numpy as np
import pytest

from gpt_jax.inference import sampling, speculative
from gpt_jax.inference.batching import TokenizedPrompt
from gpt_jax.inference.decode import SequenceSettings, SequenceState
from gpt_jax.inference.options import make_options
from gpt_jax.inference.speculative import MAX_LOOKUP_NGRAM, DraftTokens, propose_by_lookup
from tests.inference import engines, reference
from tests.inference.engines import generate, prompts, token_ids
from tests.inference.test_sampling import chi_square_p_value
from tests.model.architectures import ARCHITECTURES
from tests.model.test_gpt import make_model

LENGTHS = (1, 4, 9, 16)
# Of the models whose exact distribution is compared.
VOCAB_SIZE, END, PROMPT, DRAWS = 6, 5, [1, 2, 3, 1, 2, 3, 1], 4096


@functools.cache
def make_pair(name):
    """(config, params) of a model and of a smaller one."""
    config = engines.config(**ARCHITECTURES[name] | {'context': 64, 'layers': 1})
    small = engines.config(context=64, layers=1, width=16, heads=2)
    return (config, make_model(config)[0]), (small, make_model(small, seed=3)[0])


@functools.cache
def generate_without_draft(name, **given):
    large, _ = make_pair(name)
    return generate(engines.build_engine(*large), prompts(*LENGTHS), **given)


@pytest.mark.parametrize(
    ('name', 'draft', 'draft_tokens'),
    [('gpt2', 'lookup', 4), ('gpt2', 'itself', 4), ('mistral', 'small', 4)],
)
def test_greedy_texts_do_not_depend_on_the_draft(name, draft, draft_tokens):
    large, small = make_pair(name)
    expected = generate_without_draft(name, max_length=50)
    drafts = {'small': small, 'lookup': 'lookup', 'itself': large}
    engine = engines.build_engine(*large, drafts[draft])
    texts = generate(engine, prompts(*LENGTHS), max_length=50, draft_tokens=draft_tokens)
    assert token_ids(texts) == token_ids(expected)
    for text, other in zip(texts, expected, strict=True):
        np.testing.assert_allclose(text.log_probabilities, other.log_probabilities, atol=2e-4)
    stats, generated = engine.speculative_stats, sum(len(text.tokens) for text in texts)
    assert 0 <= stats.accepted <= stats.proposed
    assert stats.accepted + stats.readings >= generated
    if draft == 'itself':
        assert stats.accepted == stats.proposed
        assert stats.readings < generated / draft_tokens
    if draft == 'lookup':  # these texts are repetitive
        assert stats.readings < 0.8 * generated


def test_greedy_texts_with_penalties_and_in_chunks():
    large, small = make_pair('gpt2')
    given = {
        'max_length': 50,
        'repetition_penalty': 1.2,
        'no_repeat_ngram_size': 3,
        'min_new_tokens': 10,
    }
    expected = generate_without_draft('gpt2', **given)
    engine = engines.build_engine(*large, small)
    texts = generate(engine, prompts(*LENGTHS), block=1, draft_tokens=1, **given)
    assert token_ids(texts) == token_ids(expected)


def exact_distribution(forward, params, prompt, new_tokens, **given):
    """The exact distribution of the generated ids: {ids: probability}."""
    continuations = itertools.product(range(VOCAB_SIZE), repeat=new_tokens)
    rows = [[*prompt, *ids] for ids in continuations]
    logits = np.asarray(forward(params, np.array(rows)), np.float64)
    distribution = {}
    for row, z in zip(rows, logits, strict=True):
        p, generated = 1.0, ()
        for position in range(len(prompt), len(prompt) + new_tokens):
            next_p = reference.distribution(
                z[position - 1], row[:position], len(prompt), ends=(END,), **given
            )
            p *= next_p[row[position]]
            generated += (row[position],)
            if row[position] == END:
                break
        distribution[generated] = p
    return distribution


@functools.cache
def make_tiny(seed, width):
    config = engines.config(layers=1, width=width, heads=2, vocab_size=VOCAB_SIZE)
    return config, *make_model(config, seed=seed)


def check_distribution(texts, exact):
    assert sum(exact.values()) == pytest.approx(1)
    number = {ids: k for k, ids in enumerate(exact)}
    counts = np.bincount([number[text.tokens] for text in texts], minlength=len(exact))
    assert chi_square_p_value(counts, np.array(list(exact.values()))) > 1e-3


def draw_texts(engine, **given):
    return generate(
        engine,
        [TokenizedPrompt('', np.array(PROMPT, np.int32))],
        num_return_sequences=DRAWS,
        batch_size=DRAWS,
        eos_token_id=(END,),
        seed=11,
        **given,
    )


@pytest.mark.parametrize(
    ('draft', 'given'),
    [
        ('model', {'temperature': 1.5, 'top_k': 4, 'frequency_penalty': 0.5}),
        ('lookup', {'temperature': 1.0, 'min_p': 0.1}),
        (None, {'temperature': 0.9, 'top_p': 0.95}),
    ],
)
def test_sampled_texts_have_the_distribution_of_the_model(draft, given):
    config, params, forward = make_tiny(0, 32)
    engine = engines.build_engine(
        config, params, make_tiny(9, 16)[:2] if draft == 'model' else draft
    )
    texts = draw_texts(engine, max_new_tokens=3, draft_tokens=2, **given)
    check_distribution(texts, exact_distribution(forward, params, PROMPT, 3, **given))
    stats = engine.speculative_stats
    assert draft is None or 0 < stats.accepted < stats.proposed


def test_acceptance_rate_is_the_overlap_of_the_distributions():
    """Leviathan et al. 2023, theorem 3.5: the sum of min(p, q)."""
    config, params, forward = make_tiny(0, 32)
    small, small_params, small_forward = make_tiny(9, 16)
    engine = engines.build_engine(config, params, (small, small_params))
    texts = draw_texts(engine, max_new_tokens=2, draft_tokens=1, temperature=1.0)
    check_distribution(texts, exact_distribution(forward, params, PROMPT, 2, temperature=1.0))
    p, q = (
        reference.softmax(np.asarray(full(weights, np.array([PROMPT])), np.float64)[0, -1])
        for full, weights in ((forward, params), (small_forward, small_params))
    )
    stats = engine.speculative_stats
    assert stats.proposed == DRAWS
    assert abs(stats.accepted / DRAWS - np.minimum(p, q).sum()) < 4 * 0.5 / DRAWS**0.5


def test_program_size_does_not_depend_on_draft_length_or_ngram_size():
    def count_equations(draft_tokens, n):
        options = make_options({'no_repeat_ngram_size': n, 'top_k': 3})
        plan = sampling.make_sampling_plan(options)
        ones, zeros = np.ones(2, np.int32), np.zeros((2, draft_tokens), np.int32)
        jaxpr = jax.make_jaxpr(
            lambda z_BLV: speculative._model_distributions(
                z_BLV,
                DraftTokens(zeros, zeros, zeros),
                SequenceState(np.zeros((2, 4096), np.int32), None, ones, None),
                SequenceSettings(ones, None, ones, None, np.zeros(9, bool)),
                sampling.collect_option_values(options, plan),
                plan,
            )
        )
        return str(jaxpr(np.zeros((2, draft_tokens + 1, 9), np.float32))).count('\n')

    assert count_equations(2, 2) == count_equations(400, 2000)


def look_up_slowly(tokens: list[int], count: int) -> list[int] | None:
    for size in range(MAX_LOOKUP_NGRAM, 0, -1):
        for end in range(len(tokens) - 2, size - 2, -1):
            if tokens[end + 1 - size : end + 1] == tokens[len(tokens) - size :]:
                extended = list(tokens)
                for k in range(count):
                    extended.append(extended[end + 1 + k])
                return extended[len(tokens) :]
    return None


propose = jax.jit(propose_by_lookup, static_argnums=2)


def test_lookup_equals_a_slow_search():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 6, (64, 20))
    lengths = rng.integers(1, 21, 64)
    drafts, found = jax.device_get(propose(tokens, lengths, 5))
    for row, length in enumerate(lengths):
        expected = look_up_slowly(tokens[row, :length].tolist(), 5)
        assert bool(found[row]) == (expected is not None)
        if expected is not None:
            assert drafts[row].tolist() == expected


def test_lookup_continues_a_short_period():
    drafts, found = propose(np.array([[5, 1, 2, 1, 2, 0, 0]]), np.array([5]), 5)
    assert found[0]
    assert drafts[0].tolist() == [1, 2, 1, 2, 1]
