"""Text scoring: token boundaries, perplexity in windows, and error messages."""

import numpy as np
import pytest

import gpt_jax
from gpt_jax.core.errors import UserError
from gpt_jax.inference.text_scoring import make_continuation_requests, make_windows
from tests import trained
from tests.inference.test_scoring import CONTEXT, compute_log_p


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    """A model of bytes: a byte is a token, so token boundaries are those of the text."""
    return gpt_jax.load(trained.folder(tmp_path_factory.mktemp('runs') / 'small'))


def test_pairs_are_scored_from_their_boundary(model):
    one, two = model.score([('The weather', ' today'), ('The weather ', 'today')])
    log_p = model.log_probabilities('The weather today')[len('The weather') - 1 :]
    np.testing.assert_allclose(one.token_log_p, log_p, atol=2e-5)
    np.testing.assert_allclose(two.token_log_p, one.token_log_p, atol=2e-5)
    (with_prefix,) = model.score([('', 'abc')])
    expected = compute_log_p(model, [255, 97, 98])[np.arange(3), [97, 98, 99]]
    np.testing.assert_allclose(with_prefix.token_log_p, expected, atol=2e-5)


def test_tokens_merged_across_the_boundary_belong_to_the_continuation():
    """The vocabulary merges 'a' and 'b'."""
    merge = lambda text: np.array([ord(c) for c in text.replace('ab', 'X')], np.int32)
    encode = lambda texts: [merge(text) for text in texts]
    encode_whole = lambda texts: [np.concatenate([[1], merge(text)]) for text in texts]
    merged, spaced, empty = make_continuation_requests(
        [('ca', 'bd'), ('c  ', 'd'), (' ', 'ab')], encode_whole, encode, 1
    )
    ids = lambda text: [ord(c) for c in text]
    assert merged.context.tolist() == [1, *ids('ca')]
    assert merged.continuation.tolist() == ids('d')
    assert spaced.context.tolist() == [1, *ids('c')]
    assert spaced.continuation.tolist() == ids('  d')
    assert (empty.context.tolist(), empty.continuation.tolist()) == ([1], ids(' X'))
    with pytest.raises(UserError, match='pair 0: the context must not be empty'):
        make_continuation_requests([('', 'a')], encode, encode, None)


@pytest.mark.parametrize(('context', 'stride'), [(8, 8), (8, 3), (8, 1), (1, 1)])
@pytest.mark.parametrize('targets', [1, 7, 8, 9, 25])
def test_windows_score_every_token_once_with_enough_context(targets, context, stride):
    windows = make_windows(targets, context, stride)
    scored = [target for _, first, stop in windows for target in range(first, stop)]
    assert scored == list(range(targets))
    for begin, first, stop in windows:
        assert 0 <= begin <= first < stop <= begin + context
        assert first - begin >= min(first, context - stride)
    lengths = [stop - begin for begin, _, stop in windows]
    assert lengths == [min(targets, context)] * len(windows)


def test_windows_of_no_tokens_and_invalid_strides():
    assert make_windows(0, 8, 8).shape == (0, 3)
    for stride in (0, 9):
        with pytest.raises(UserError, match=r'stride: must be in \[1, 8\]'):
            make_windows(20, 8, stride)


@pytest.mark.parametrize('stride', [None, 5])
def test_perplexity_of_a_long_text(model, stride):
    text = 'A text of two lines,\nas long as 2 1/2 contexts: ' + 'x' * 110
    perplexity = model.perplexity(text, stride)
    ids = np.concatenate([[255], np.frombuffer(text.encode(), np.uint8)])
    nats = 0.0
    for begin, first, stop in make_windows(len(ids) - 1, CONTEXT, stride or CONTEXT):
        log_p_LV = compute_log_p(model, ids[begin:stop])
        nats -= log_p_LV[np.arange(first - begin, stop - begin), ids[first + 1 : stop + 1]].sum()
    assert perplexity.nats == pytest.approx(nats, rel=1e-6)
    assert (perplexity.tokens, perplexity.words, perplexity.bytes) == (len(text), 12, len(text))
    assert perplexity.bits_per_byte == pytest.approx(nats / len(text) / np.log(2), rel=1e-6)
    assert perplexity.word_perplexity == pytest.approx(np.exp(nats / 12), rel=1e-5)
    with pytest.raises(UserError, match='text: must have at least one token'):
        model.perplexity('')


def test_perplexity_of_ids_counts_the_bytes_of_those_scored(model):
    """Half a character in front, and the end of a document within; neither is text."""
    ids = [*'猫'.encode()[1:], 255, *b'abc']
    assert model.perplexity(ids).bytes == 2 + 3
    with_prefix = model.perplexity('猫abc')
    assert (with_prefix.bytes, with_prefix.tokens) == (6, 6)
