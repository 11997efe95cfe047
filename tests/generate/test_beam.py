"""Does the beam search on the device find what a search by lists finds, and with enough beams the best of all texts?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.generate import reference, writing
from tests.generate.writing import prompts, write
from tests.model.test_gpt import make

VOCABULARY = 5


@pytest.fixture(scope='module')
def tiny():
    """(device, log_p: ids -> log-probabilities of the next) of a model of five ids, the last of which ends a text."""
    config = writing.config(layers=1, vocab_size=VOCABULARY)
    params, forward = make(config)
    known = {}

    def log_p(tokens):
        key = tuple(tokens)
        if key not in known:
            row = np.zeros((1, 16), np.int32)
            row[0, : len(tokens)] = tokens
            known[key] = np.asarray(jax.nn.log_softmax(forward(params, jnp.asarray(row))))[0, len(tokens) - 1]
        return known[key]

    return writing.device(config, params), log_p


def scores(texts, length_penalty):
    return [sum(text.log_probabilities) / len(text.tokens) ** length_penalty for text in texts]


@pytest.mark.parametrize('length_penalty', [0.0, 1.0, 3.0])
def test_more_beams_than_texts_find_the_best_of_all(tiny, length_penalty):
    made, log_p = tiny
    several = prompts(1, 4, vocabulary=VOCABULARY - 1)
    texts = write(made, several, max_new_tokens=4, num_beams=256, num_return_sequences=6, eos_token_id=(4,),
                  length_penalty=length_penalty, early_stopping='never', batch_size=512)  # fmt: skip
    for number, prompt in enumerate(several):
        ids = prompt.ids.tolist()
        best = reference.best_texts(log_p, ids, len(ids) + 4, {4}, length_penalty, 6)
        ours = texts[6 * number : 6 * number + 6]
        np.testing.assert_allclose(scores(ours, length_penalty), [score for score, _ in best], rtol=1e-4)
        assert [list(text.tokens) for text in ours] == [tokens for _, tokens in best]


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
def test_a_few_beams_find_what_a_search_by_lists_finds(tiny, length_penalty, early):
    made, log_p = tiny
    several = prompts(1, 3, 5, 2, vocabulary=VOCABULARY - 1)
    texts = write(made, several, max_length=14, num_beams=3, num_return_sequences=3, eos_token_id=(4,),
                  length_penalty=length_penalty, early_stopping=early)  # fmt: skip
    for number, prompt in enumerate(several):
        expected = reference.beam_search(log_p, prompt.ids.tolist(), 14, {4}, 3, length_penalty, early)
        ours = texts[3 * number : 3 * number + 3]
        assert [list(text.tokens) for text in ours] == [tokens for _, tokens in expected]
        np.testing.assert_allclose(scores(ours, length_penalty), [score for score, _ in expected], rtol=1e-4)
        assert [text.finish_reason for text in ours] == ['end' if text.tokens[-1] == 4 else 'length' for text in ours]


def test_a_beam_search_does_not_depend_on_its_batch(tiny):
    made, _ = tiny
    several = prompts(1, 3, 5, 2, vocabulary=VOCABULARY - 1)
    together = write(made, several, max_length=14, num_beams=3, eos_token_id=(4,))
    for prompt, text in zip(several, together, strict=True):
        (alone,) = write(made, [prompt], max_length=14, num_beams=3, eos_token_id=(4,))
        assert alone.tokens == text.tokens
