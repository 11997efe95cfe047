"""Logits processors against float64 loops and transformers; sampling statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gpt_jax.inference.options import make_options
from gpt_jax.inference.sampling import (
    SamplingContext,
    collect_option_values,
    compute_log_probability,
    compute_probabilities,
    derive_seed,
    make_sampling_plan,
    make_step_keys,
    process_logits,
    select_tokens,
)
from gpt_jax.model.mask import MASK_VALUE
from tests.inference import reference

VOCAB_SIZE, END_IDS = 40, (3, 17)
DRAWS = 20_000
CASES = [
    {'repetition_penalty': 1.4},
    {'presence_penalty': 0.7, 'frequency_penalty': -0.3},
    {'no_repeat_ngram_size': 1},
    {'no_repeat_ngram_size': 2},
    {'no_repeat_ngram_size': 3},
    {'min_length': 12},
    {'temperature': 0.6},
    {'top_k': 1},
    {'top_k': 5},
    {'top_k': 100},
    {'top_p': 0.3},
    {'top_p': 0.9},
    {'min_p': 0.2},
    {'min_p': 1.0},
    {'typical_p': 0.2},
    {'typical_p': 0.9},
    {
        'temperature': 1.7,
        'top_k': 12,
        'top_p': 0.8,
        'min_p': 0.05,
        'typical_p': 0.9,
        'repetition_penalty': 0.8,
    },
]


def make_rows():
    """Token rows with repeated ids, their lengths, their prompts' lengths, and logits for each."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 4, (4, 16)) + 3 * rng.integers(0, 5, (4, 16))
    lengths, prompt_lengths = np.array([1, 6, 11, 16]), np.array([1, 2, 9, 4])
    return tokens, lengths, prompt_lengths, 3 * rng.standard_normal((4, VOCAB_SIZE))


def process(given, tokens, lengths, prompt_lengths, logits):
    options = make_options(given)
    plan = make_sampling_plan(options)
    is_end = np.isin(np.arange(VOCAB_SIZE), END_IDS)
    min_lengths = np.full(len(lengths), options.min_length)
    context = SamplingContext(
        *map(jnp.asarray, (tokens, lengths, prompt_lengths, min_lengths, is_end))
    )
    values = collect_option_values(options, plan)
    return np.asarray(process_logits(jnp.asarray(logits, jnp.float32), context, values, plan))


@pytest.mark.parametrize('given', CASES, ids=str)
def test_processed_distributions_equal_float64_loops(given):
    tokens, lengths, prompt_lengths, logits = make_rows()
    processed = process(given, tokens, lengths, prompt_lengths, logits)
    for row, (length, prompt_length) in enumerate(zip(lengths, prompt_lengths, strict=True)):
        ids = tokens[row, :length].tolist()
        expected = reference.distribution(logits[row], ids, prompt_length, ends=END_IDS, **given)
        p = reference.softmax(processed[row].astype(np.float64))
        np.testing.assert_allclose(p, expected, rtol=2e-5, atol=1e-9)
        excluded = set(np.flatnonzero(processed[row] <= MASK_VALUE))
        assert excluded == set(np.flatnonzero(expected == 0))


@pytest.mark.parametrize(
    'given', [case for case in CASES if 'presence_penalty' not in case], ids=str
)
def test_processed_logits_equal_transformers(given):
    torch = pytest.importorskip('torch', reason='transformers needs it')
    generation = pytest.importorskip('transformers.generation', reason='the comparison')
    processors = {
        'repetition_penalty': generation.RepetitionPenaltyLogitsProcessor,
        'no_repeat_ngram_size': generation.NoRepeatNGramLogitsProcessor,
        'min_length': lambda length: generation.MinLengthLogitsProcessor(length, list(END_IDS)),
        'temperature': generation.TemperatureLogitsWarper,
        'top_k': generation.TopKLogitsWarper,
        'top_p': generation.TopPLogitsWarper,
        'min_p': generation.MinPLogitsWarper,
        'typical_p': generation.TypicalLogitsWarper,
    }
    tokens, lengths, prompt_lengths, logits = make_rows()
    processed = process(given, tokens, lengths, prompt_lengths, logits)
    # Sampling only depends on differences; ours are relative to the highest logit.
    relative = make_options(given).do_sample
    for row, length in enumerate(lengths):
        theirs = torch.tensor(logits[row : row + 1], dtype=torch.float32)
        for name, make in processors.items():
            if name in given:
                theirs = make(given[name])(torch.tensor(tokens[row : row + 1, :length]), theirs)
        ours, theirs = processed[row], theirs[0].numpy()
        excluded = np.isinf(theirs)
        assert np.array_equal(ours <= MASK_VALUE, excluded)
        if relative:
            ours, theirs = ours - ours.max(), theirs - theirs.max()
        np.testing.assert_allclose(ours[~excluded], theirs[~excluded], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('temperature', [1e-12, 1e-30, 1e-38, 1e-45, 5e-324])
@pytest.mark.parametrize(
    'more', [{}, {'top_k': 3}, {'top_p': 0.9, 'typical_p': 0.9}, {'no_repeat_ngram_size': 1}]
)
def test_smallest_temperature_leaves_the_most_likely_id(temperature, more):
    tokens, lengths, prompt_lengths, logits = make_rows()
    logits[1, [5, 7]] = 20, np.nextafter(np.float32(20), np.float32(21))
    rows = tokens, lengths, prompt_lengths, logits
    greedy_options = {name: value for name, value in more.items() if 'no_' in name}
    greedy = process(greedy_options, *rows).argmax(1)
    processed = process({'temperature': temperature} | more, *rows)
    p = np.array([reference.softmax(row) for row in processed])
    assert np.array_equal(p, np.eye(VOCAB_SIZE)[greedy])


def test_ngrams_of_any_length_share_one_program():
    tokens, lengths, prompt_lengths, logits = make_rows()
    tokens[3] = np.resize([5, 6, 7], 16)
    rows = tokens, lengths, prompt_lengths, logits
    assert process({'no_repeat_ngram_size': 14}, *rows)[3, 6] <= MASK_VALUE
    for n in (15, 16, 17, 2000, 2**30):  # no n-gram of 15 is complete yet, 17 is too long
        np.testing.assert_array_equal(
            process({'no_repeat_ngram_size': n}, *rows), np.float32(logits)
        )
    short, long = (make_options({'no_repeat_ngram_size': n}) for n in (2, 2000))
    assert make_sampling_plan(short) == make_sampling_plan(long)


def test_plan_only_has_active_processors():
    plan = lambda **given: make_sampling_plan(make_options(given))
    assert plan().processors == ()
    assert plan(min_new_tokens=3).processors == ('min_length',)
    assert plan(top_k=33).max_top_k == plan(top_k=64).max_top_k == 64
    assert plan(temperature=0.5) == plan(temperature=1.0)


def chi_square_p_value(counts: np.ndarray, p: np.ndarray) -> float:
    """The p-value of a chi-square test; ids with an expected count below 10 are pooled."""
    expected = p * counts.sum()
    rare = expected < 10
    assert counts[p == 0].sum() == 0
    pool = lambda a: np.append(a[~rare], a[rare].sum())
    counts, expected = pool(counts), pool(expected)
    positive = expected > 0
    return stats.chisquare(counts[positive], expected[positive]).pvalue


@pytest.mark.parametrize(
    'given',
    [
        {'do_sample': True},
        {'temperature': 0.7},
        {'top_k': 4},
        {'top_p': 0.8},
        {'min_p': 0.1},
        {'typical_p': 0.7},
        {
            'temperature': 1.3,
            'top_k': 9,
            'top_p': 0.9,
            'repetition_penalty': 1.5,
            'frequency_penalty': 0.4,
        },
    ],
    ids=str,
)
def test_samples_fit_the_exact_distribution(given):
    rng = np.random.default_rng(5)
    logits, tokens = 2 * rng.standard_normal(24), rng.integers(0, 24, 9)
    options = make_options(given)
    plan = make_sampling_plan(options)

    @jax.jit
    def draw(seed_B):
        rows = lambda a: jnp.broadcast_to(jnp.asarray(a), (DRAWS, *np.shape(a)))
        context = SamplingContext(rows(tokens), rows(9), rows(4), rows(0), jnp.zeros(24, bool))
        values = collect_option_values(options, plan)
        logits_BV = process_logits(rows(logits.astype(np.float32)), context, values, plan)
        keys_B = make_step_keys(seed_B, jnp.full(DRAWS, 5))
        return select_tokens(logits_BV, keys_B, plan.do_sample)

    counts = np.bincount(np.asarray(draw(jnp.arange(DRAWS, dtype=jnp.uint32))), minlength=24)
    expected = reference.distribution(logits, tokens.tolist(), 4, ends=(), **given)
    assert chi_square_p_value(counts, expected) > 1e-3


def test_stream_depends_only_on_seed_and_step():

    @jax.jit
    def select(seed_B, step_B):
        return select_tokens(jnp.zeros((len(seed_B), 1000)), make_step_keys(seed_B, step_B), True)

    ids = select(np.array([7, 7, 8, 7], np.uint32), np.array([0, 1, 0, 0])).tolist()
    assert ids[0] == ids[3]
    assert len(set(ids[:3])) == 3
    assert select(np.array([8], np.uint32), np.array([0])).tolist() == [ids[2]]


def test_every_sequence_has_its_own_seed():
    seeds = {
        derive_seed(seed, prompt, sequence)
        for seed in (0, 1)
        for prompt in range(20)
        for sequence in range(20)
    }
    assert len(seeds) == 800
    assert derive_seed(5, 0, 0) == 5
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_probabilities_of_selected_tokens():
    logits_BV = np.array([[1.0, 3.0, 2.0]], np.float32)

    @jax.jit
    def compute(logits_BV, ids_B):
        return (
            compute_probabilities(logits_BV, False),
            compute_probabilities(logits_BV, True),
            compute_log_probability(logits_BV, ids_B),
        )

    greedy, sampled, log_p = compute(logits_BV, np.array([2]))
    expected = reference.softmax(np.float64(logits_BV[0]))
    assert greedy.tolist() == [[0, 1, 0]]
    np.testing.assert_allclose(sampled, [expected], rtol=1e-6)
    np.testing.assert_allclose(log_p, np.log(expected[2:]), rtol=1e-6)
