"""Does a draft leave the model's texts as they are: the likeliest token for token, drawn ones in their distribution?"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.generate import options, processors, speculative
from gpt_jax.generate.batching import Prompt
from gpt_jax.generate.decode import Fixed, Texts
from gpt_jax.generate.speculative import Drafts
from tests.generate import reference, writing
from tests.generate.test_sampling import fits
from tests.generate.writing import ids, prompts, write
from tests.model.architectures import ARCHITECTURES
from tests.model.test_gpt import make

RAGGED = (1, 4, 9, 16)


def pair(name):
    """(config, params) of a model and of a smaller one."""
    config = writing.config(**ARCHITECTURES[name] | {'context': 64, 'layers': 1})
    small = writing.config(context=64, layers=1, width=16, heads=2)
    return (config, make(config)[0]), (small, make(small, seed=3)[0])


@pytest.mark.parametrize(
    ('name', 'which', 'draft_tokens'),
    [('gpt2', 'small', 1), ('gpt2', 'lookup', 4), ('gpt2', 'itself', 4), ('mistral', 'small', 4)],
)  # fmt: skip
def test_greedy_texts_are_those_without_a_draft(name, which, draft_tokens):
    large, small = pair(name)
    plain = write(writing.device(*large), prompts(*RAGGED), max_length=50)
    made = writing.device(*large, {'small': small, 'lookup': 'lookup', 'itself': large}[which])
    texts = write(made, prompts(*RAGGED), max_length=50, draft_tokens=draft_tokens)
    assert ids(texts) == ids(plain)
    for text, other in zip(texts, plain, strict=True):
        np.testing.assert_allclose(text.log_probabilities, other.log_probabilities, atol=2e-4)
    tally, written = made.tally, sum(len(text.tokens) for text in texts)
    assert 0 <= tally.accepted <= tally.proposed
    assert tally.accepted + tally.readings >= written
    if which == 'itself':
        assert tally.accepted == tally.proposed
        assert tally.readings < written / draft_tokens
    if which == 'lookup':  # these texts fall into loops
        assert tally.readings < 0.8 * written


def test_greedy_texts_under_options_and_in_pieces():
    large, small = pair('gpt2')
    given = {'max_length': 50, 'repetition_penalty': 1.2, 'no_repeat_ngram_size': 3, 'min_new_tokens': 10}
    plain = write(writing.device(*large), prompts(*RAGGED), **given)
    assert ids(write(writing.device(*large, small), prompts(*RAGGED), block=1, **given)) == ids(plain)


def outcomes(forward, params, prompt, new, end, vocabulary, **given):
    """The exact distribution of what is written: {ids: probability}."""
    longest = len(prompt) + new
    rows = [[*prompt, *ids_] for ids_ in itertools.product(range(vocabulary), repeat=new)]
    scores = np.asarray(forward(params, jnp.asarray(rows)), np.float64)
    found = {}
    for row, z in zip(rows, scores, strict=True):
        p, written = 1.0, ()
        for place in range(len(prompt), longest):
            p *= reference.distribution(z[place - 1], row[:place], len(prompt), ends=(end,), **given)[row[place]]
            written += (row[place],)
            if row[place] == end:
                break
        found[written] = p
    return found


VOCABULARY, PROMPT, DRAWS = 6, [1, 2, 3, 1, 2, 3, 1], 4096
GIVEN = {'num_return_sequences': DRAWS, 'batch_size': DRAWS, 'eos_token_id': (5,), 'seed': 11}


@functools.cache
def tiny(seed, width):
    config = writing.config(layers=1, width=width, heads=2, vocab_size=VOCABULARY)
    return config, *make(config, seed=seed)


def draw(made, **given):
    return write(made, [Prompt('', np.array(PROMPT, np.int32))], **GIVEN, **given)


@pytest.mark.parametrize(
    ('drafter', 'given'),
    [('model', {'temperature': 1.0}), ('model', {'temperature': 1.5, 'top_k': 4, 'frequency_penalty': 0.5}),
     ('lookup', {'temperature': 1.0, 'min_p': 0.1}), (None, {'temperature': 0.9, 'top_p': 0.95})],
)  # fmt: skip
def test_drawn_texts_have_the_large_models_distribution(drafter, given):
    config, params, forward = tiny(0, 32)
    made = writing.device(config, params, tiny(9, 16)[:2] if drafter == 'model' else drafter)
    texts = draw(made, max_new_tokens=3, draft_tokens=2, **given)
    exact = outcomes(forward, params, PROMPT, 3, 5, VOCABULARY, **given)
    assert sum(exact.values()) == pytest.approx(1)
    number = {written: k for k, written in enumerate(exact)}
    counts = np.bincount([number[text.tokens] for text in texts], minlength=len(exact))
    assert fits(counts, np.array(list(exact.values()))) > 1e-3
    assert drafter is None or 0 < made.tally.accepted < made.tally.proposed


def test_a_draft_is_accepted_as_often_as_the_distributions_overlap():
    """Leviathan et al. 2023, theorem 3.5: the sum of min(p, q)."""
    config, params, forward = tiny(0, 32)
    small, small_params, small_forward = tiny(9, 16)
    made = writing.device(config, params, (small, small_params))
    draw(made, max_new_tokens=2, draft_tokens=1, temperature=1.0)
    p, q = (np.asarray(jax.nn.softmax(full(of, jnp.asarray([PROMPT]))))[0, -1]
            for full, of in ((forward, params), (small_forward, small_params)))  # fmt: skip
    assert made.tally.proposed == DRAWS
    assert abs(made.tally.accepted / DRAWS - np.minimum(p, q).sum()) < 4 * 0.5 / DRAWS**0.5


def test_longer_drafts_and_runs_make_no_larger_program():
    def equations(draft_tokens, n):
        given = options.make({'no_repeat_ngram_size': n, 'top_k': 3})
        plan, zeros = processors.plan(given), np.zeros((2, draft_tokens), np.int32)
        texts = Texts(np.zeros((2, 4096), np.int32), None, np.ones(2, np.int32), None)
        fixed = Fixed(np.ones(2, np.int32), None, np.ones(2, np.int32), None, np.zeros(9, bool))
        traced = jax.make_jaxpr(
            lambda z_BLV: speculative._distributions(
                z_BLV, Drafts(zeros, zeros, zeros), texts, fixed, processors.values(given, plan), plan
            )
        )
        return str(traced(np.zeros((2, draft_tokens + 1, 9), np.float32))).count('\n')

    assert equations(2, 2) == equations(400, 2000)
