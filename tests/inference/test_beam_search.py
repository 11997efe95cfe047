"""Beam search against an exhaustive search and a beam search with Python lists."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.inference import engines, reference
from tests.inference.engines import generate, prompts
from tests.model.test_gpt import make_model

VOCAB_SIZE = 5
END = 4


@pytest.fixture(scope='module')
def tiny():
    """(engine, ids -> log-probabilities of the next id [V]) of a model with five ids."""
    config = engines.config(layers=1, vocab_size=VOCAB_SIZE)
    params, forward = make_model(config)
    cache = {}

    def log_p(tokens):
        key = tuple(tokens)
        if key not in cache:
            row = np.zeros((1, 16), np.int32)
            row[0, : len(tokens)] = tokens
            log_p_LV = np.asarray(jax.nn.log_softmax(forward(params, jnp.asarray(row))))[0]
            cache[key] = log_p_LV[len(tokens) - 1]
        return cache[key]

    return engines.build_engine(config, params), log_p


def make_prompts(*lengths):
    return prompts(*lengths, vocabulary=VOCAB_SIZE - 1)


def check_texts(texts, expected, length_penalty):
    """Assert that the texts are the expected [(score, ids)]."""
    assert [list(text.tokens) for text in texts] == [tokens for _, tokens in expected]
    scores = [sum(text.log_probabilities) / len(text.tokens) ** length_penalty for text in texts]
    np.testing.assert_allclose(scores, [score for score, _ in expected], rtol=1e-4)


@pytest.mark.parametrize('length_penalty', [0.0, 1.0, 3.0])
def test_exhaustive_beams_find_the_best_texts(tiny, length_penalty):
    engine, log_p = tiny
    several = make_prompts(1, 4)
    texts = generate(
        engine,
        several,
        max_new_tokens=4,
        num_beams=256,
        num_return_sequences=6,
        eos_token_id=(END,),
        length_penalty=length_penalty,
        early_stopping='never',
        batch_size=512,
    )
    for number, prompt in enumerate(several):
        ids = prompt.ids.tolist()
        expected = reference.best_texts(log_p, ids, len(ids) + 4, {END}, length_penalty, 6)
        check_texts(texts[6 * number : 6 * number + 6], expected, length_penalty)


@pytest.mark.parametrize(
    ('length_penalty', 'early'),
    [
        (1.0, False),
        (1.0, True),
        (2.0, 'never'),
        (-1.0, 'never'),
        (0.5, False),
        (3.0, True),
        (-20.0, False),
        (-20.0, 'never'),
    ],
)
def test_few_beams_find_what_the_reference_finds(tiny, length_penalty, early):
    engine, log_p = tiny
    several = make_prompts(1, 3, 5, 2)
    texts = generate(
        engine,
        several,
        max_length=14,
        num_beams=3,
        num_return_sequences=3,
        eos_token_id=(END,),
        length_penalty=length_penalty,
        early_stopping=early,
    )
    for number, prompt in enumerate(several):
        expected = reference.beam_search(
            log_p, prompt.ids.tolist(), 14, {END}, 3, length_penalty, early
        )
        found = texts[3 * number : 3 * number + 3]
        check_texts(found, expected, length_penalty)
        assert [text.finish_reason for text in found] == [
            'end' if text.tokens[-1] == END else 'length' for text in found
        ]


def test_beam_search_does_not_depend_on_the_batch(tiny):
    engine, _ = tiny
    several = make_prompts(1, 3, 5, 2)
    together = generate(engine, several, max_length=14, num_beams=3, eos_token_id=(END,))
    for prompt, text in zip(several, together, strict=True):
        (single,) = generate(engine, [prompt], max_length=14, num_beams=3, eos_token_id=(END,))
        assert single.tokens == text.tokens
