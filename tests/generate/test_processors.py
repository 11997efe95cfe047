"""Do the options do to scores what transformers and the papers say? Against float64, and against transformers."""

import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.generate import options as opts
from gpt_jax.generate.processors import Seen, plan, process, values
from gpt_jax.model.mask import HIDDEN
from tests.generate import reference

VOCABULARY, ENDS = 40, (3, 17)
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
    {'temperature': 1.7, 'top_k': 12, 'top_p': 0.8, 'min_p': 0.05, 'typical_p': 0.9, 'repetition_penalty': 0.8},
]


def texts():
    """Rows of different lengths in one array, with repeated ids, and scores for each."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 4, (4, 16)) + 3 * rng.integers(0, 5, (4, 16))
    return tokens, np.array([1, 6, 11, 16]), np.array([1, 2, 9, 4]), 3 * rng.standard_normal((4, VOCABULARY))


def processed(given, tokens, lengths, prompts, scores):
    options = opts.make(given)
    chosen = plan(options)
    ends = np.isin(np.arange(VOCABULARY), ENDS)
    minimum = np.full(len(lengths), options.min_length)
    seen = Seen(*map(jnp.asarray, (tokens, lengths, prompts, minimum, ends)))
    return np.asarray(process(jnp.asarray(scores, jnp.float32), seen, values(options, chosen), chosen))


@pytest.mark.parametrize('given', CASES, ids=str)
def test_distributions_equal_those_of_float64_loops(given):
    tokens, lengths, prompts, scores = texts()
    ours = processed(given, tokens, lengths, prompts, scores)
    for row, (length, prompt) in enumerate(zip(lengths, prompts, strict=True)):
        known = tokens[row, :length].tolist()
        expected = reference.distribution(scores[row], known, prompt, ends=ENDS, **given)
        got = reference.softmax(ours[row].astype(np.float64))
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-9)
        assert set(np.flatnonzero(ours[row] <= HIDDEN)) == set(np.flatnonzero(expected == 0))


@pytest.mark.parametrize('given', [case for case in CASES if 'presence_penalty' not in case], ids=str)
def test_scores_equal_those_of_transformers(given):
    torch = pytest.importorskip('torch', reason='transformers needs it')
    generation = pytest.importorskip('transformers.generation', reason='what ours is held against')
    theirs = {
        'repetition_penalty': generation.RepetitionPenaltyLogitsProcessor,
        'no_repeat_ngram_size': generation.NoRepeatNGramLogitsProcessor,
        'min_length': lambda length: generation.MinLengthLogitsProcessor(length, list(ENDS)),
        'temperature': generation.TemperatureLogitsWarper,
        'top_k': generation.TopKLogitsWarper,
        'top_p': generation.TopPLogitsWarper,
        'min_p': generation.MinPLogitsWarper,
        'typical_p': generation.TypicalLogitsWarper,
    }
    tokens, lengths, prompts, scores = texts()
    ours = processed(given, tokens, lengths, prompts, scores)
    for row, length in enumerate(lengths):
        expected = torch.tensor(scores[row : row + 1], dtype=torch.float32)
        for name, make in theirs.items():
            if name in given:
                expected = make(given[name])(torch.tensor(tokens[row : row + 1, :length]), expected)
        expected = expected[0].numpy()
        hidden = np.isinf(expected)
        assert np.array_equal(ours[row] <= HIDDEN, hidden)
        # All but their differences is lost where tokens are drawn: ours are from the highest on.
        above = [one.max() if opts.make(given).do_sample else 0 for one in (ours[row], expected)]
        np.testing.assert_allclose(ours[row][~hidden] - above[0], expected[~hidden] - above[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('temperature', [1e-12, 1e-30, 1e-38, 1e-45, 5e-324])
@pytest.mark.parametrize('more', [{}, {'top_k': 3}, {'top_p': 0.9, 'typical_p': 0.9}, {'no_repeat_ngram_size': 1}])
def test_the_least_temperature_leaves_the_likeliest_id(temperature, more):
    tokens, lengths, prompts, scores = texts()
    scores[1, [5, 7]] = 20, np.nextafter(np.float32(20), np.float32(21))
    without = processed({name: one for name, one in more.items() if 'no_' in name}, tokens, lengths, prompts, scores)
    ours = processed({'temperature': temperature} | more, tokens, lengths, prompts, scores)
    assert np.array_equal(np.array([reference.softmax(row) for row in ours]), np.eye(VOCABULARY)[without.argmax(1)])


def test_runs_of_any_length_are_one_program():
    tokens, lengths, prompts, scores = texts()
    tokens[3] = np.resize([5, 6, 7], 16)
    assert processed({'no_repeat_ngram_size': 14}, tokens, lengths, prompts, scores)[3, 6] <= HIDDEN
    for n in (15, 16, 17, 2000, 2**30):  # of 15 there is none yet, of 17 there can be none
        np.testing.assert_array_equal(
            processed({'no_repeat_ngram_size': n}, tokens, lengths, prompts, scores), np.float32(scores)
        )
    assert plan(opts.make({'no_repeat_ngram_size': 2})) == plan(opts.make({'no_repeat_ngram_size': 2000}))


def test_an_option_at_its_default_compiles_nothing_in():
    assert plan(opts.make({})).names == ()
    assert plan(opts.make({'min_new_tokens': 3})).names == ('min_length',)
    assert plan(opts.make({'top_k': 33})).most == plan(opts.make({'top_k': 64})).most == 64
    assert plan(opts.make({'temperature': 0.5})) == plan(opts.make({'temperature': 1.0}))
