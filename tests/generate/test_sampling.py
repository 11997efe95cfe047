"""Are tokens drawn with the right probabilities, and by each text from its own stream?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gpt_jax.generate import options as opts
from gpt_jax.generate.processors import Seen, plan, process, values
from gpt_jax.generate.sampling import choose, keys, log_probability, own_seed, probabilities
from tests.generate import reference

DRAWS = 20_000


def fits(counts: np.ndarray, p: np.ndarray) -> float:
    """The p-value of a chi-square test; ids that are expected less than 10 times are taken together."""
    expected = p * counts.sum()
    rare = expected < 10
    assert counts[p == 0].sum() == 0
    pooled = lambda a: np.append(a[~rare], a[rare].sum())  # noqa: E731
    counts, expected = pooled(counts), pooled(expected)
    keep = expected > 0
    return stats.chisquare(counts[keep], expected[keep]).pvalue


@pytest.mark.parametrize(
    'given',
    [{'do_sample': True}, {'temperature': 0.7}, {'top_k': 4}, {'top_p': 0.8}, {'min_p': 0.1}, {'typical_p': 0.7},
     {'temperature': 1.3, 'top_k': 9, 'top_p': 0.9, 'repetition_penalty': 1.5, 'frequency_penalty': 0.4}],
    ids=str,
)  # fmt: skip
def test_draws_fit_the_exact_distribution(given):
    rng = np.random.default_rng(5)
    scores, tokens = 2 * rng.standard_normal(24), rng.integers(0, 24, 9)
    options = opts.make(given)
    chosen, ends = plan(options), np.zeros(24, bool)

    @jax.jit
    def draw(seeds_B):
        rows = lambda a: jnp.broadcast_to(jnp.asarray(a), (DRAWS, *np.shape(a)))  # noqa: E731
        seen = Seen(rows(tokens), rows(9), rows(4), rows(0), jnp.asarray(ends))
        scores_BV = process(rows(scores.astype(np.float32)), seen, values(options, chosen), chosen)
        return choose(scores_BV, keys(seeds_B, jnp.full(DRAWS, 5)), chosen.sampled)

    counts = np.bincount(np.asarray(draw(jnp.arange(DRAWS, dtype=jnp.uint32))), minlength=24)
    assert fits(counts, reference.distribution(scores, tokens.tolist(), 4, ends=(), **given)) > 1e-3


def test_a_stream_depends_on_its_seed_and_place_alone():
    scores_BV = jnp.zeros((4, 1000))
    ids = choose(scores_BV, keys(jnp.array([7, 7, 8, 7], jnp.uint32), jnp.array([0, 1, 0, 0])), True)
    assert ids[0] == ids[3]
    assert len({int(id_) for id_ in ids[:3]}) == 3
    assert choose(scores_BV[:1], keys(jnp.array([8], jnp.uint32), jnp.array([0])), True)[0] == ids[2]


def test_every_text_has_a_seed_of_its_own():
    seeds = {own_seed(seed, prompt, text) for seed in (0, 1) for prompt in range(20) for text in range(20)}
    assert len(seeds) == 800
    assert own_seed(5, 0, 0) == 5
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_probabilities_say_what_choose_does():
    scores_BV = jnp.array([[1.0, 3.0, 2.0]])
    assert probabilities(scores_BV, False).tolist() == [[0, 1, 0]]
    np.testing.assert_allclose(probabilities(scores_BV, True), jax.nn.softmax(scores_BV), rtol=1e-6)
    np.testing.assert_allclose(
        log_probability(scores_BV, jnp.array([2])), jax.nn.log_softmax(scores_BV)[:, 2], rtol=1e-6
    )
