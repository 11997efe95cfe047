"""Are continuations scored as the model's own log-probabilities say, whatever shares a row, a batch or a mesh?"""

import jax
import numpy as np
import pytest

import gpt_jax
from gpt_jax import assemble, inference
from gpt_jax.errors import UserError
from gpt_jax.evaluate import pairs, rolling, scoring
from gpt_jax.evaluate.scoring import Request
from gpt_jax.modes import request_scores
from tests import trained
from tests.generate import writing
from tests.model.test_gpt import make

CONTEXT = 64
NUMBERS = np.random.default_rng(0)


def request(given: int, scored: int) -> Request:
    return Request(NUMBERS.integers(0, 255, given).astype(np.int32), NUMBERS.integers(0, 255, scored).astype(np.int32))


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return trained.folder(tmp_path_factory.mktemp('runs') / 'small')


@pytest.fixture(scope='module')
def model(run):
    return gpt_jax.load(run)


@pytest.fixture(scope='module')
def requests():
    """Of many lengths; some read what is the beginning of what others read, and some are longer than the context."""
    made = [request(given, scored) for given, scored in [(1, 1), (5, 3), (30, 20), (63, 1), (64, 1), (90, 7), (2, 64)]]
    made += [request(int(a), int(b)) for a, b in NUMBERS.integers(1, 25, (12, 2))]
    context = made[2].context
    made += [Request(context, np.array([id_], np.int32)) for id_ in (7, 8)]
    return [*made, Request(context[:9], context[9:]), Request(context[:4], context[4:12])]


@pytest.fixture(scope='module')
def expected(model, requests):
    """(log p of each token, whether all are the likeliest, the likeliest), each request alone in a row."""
    found = []
    for context, continuation in requests:
        ids = np.concatenate([context, continuation])[-CONTEXT - 1 :]
        log_p_LV = alone(model, ids[:-1])
        places = np.arange(len(ids) - 1 - len(continuation), len(ids) - 1)
        likeliest = log_p_LV[places].argmax(1)
        found.append((log_p_LV[places, continuation], bool(np.all(likeliest == continuation)), likeliest))
    return found


def alone(model, ids):
    """log p of every id after each of these, float64, by a forward pass of one text."""
    row = np.zeros((1, CONTEXT), np.int32)
    row[0, : len(ids)] = ids
    scores_LV = np.asarray(model._full(model._params, row))[0].astype(np.float64)
    return scores_LV - np.logaddexp.reduce(scores_LV, axis=1, keepdims=True)


def agree(found, expected):
    assert len(found) == len(expected)
    for one, (log_p, greedy, _) in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.each, log_p, atol=2e-5)
        assert (one.greedy, one.tokens) == (greedy, len(log_p))
        assert one.log_p == pytest.approx(log_p.sum(), abs=1e-4)


@pytest.mark.parametrize('batch', [1, 5])
def test_a_request_is_scored_as_if_alone(model, requests, expected, batch):
    agree(model.score(requests, batch=batch), expected)


def test_the_order_does_not_matter_and_greedy_continuations_are_told(model, requests, expected):
    assert not any(greedy for _, greedy, _ in expected)
    firsts = [row[:1].astype(np.int32) for *_, row in expected]
    likeliest = [
        Request(np.concatenate([one.context, one.continuation])[-CONTEXT - 1 :][: -one.continuation.size], first)
        for one, first in zip(requests, firsts, strict=True)
    ]
    found = model.score([*likeliest[::-1], *requests[::-1]])
    assert all(one.greedy for one in found[: len(requests)])
    agree(found[: len(requests) - 1 : -1], expected)


@pytest.mark.parametrize('axes', [{'data': 2}, {'fsdp': 2, 'tensor': 2}], ids=str)
def test_a_mesh_finds_the_same(run, requests, expected, axes):
    agree(gpt_jax.load(run, **axes).score(requests), expected)


def test_weights_in_eight_bits_are_near(run, requests, expected):
    found = gpt_jax.load(run, weights='int8').score(requests)
    off = max(np.abs(one.each - log_p).max() for one, (log_p, *_) in zip(found, expected, strict=True))
    assert 1e-4 < off < 0.2


MESHES = [
    {},
    {'mesh.data': 2, 'mesh.context': 2, 'mesh.tensor': 2, 'train.evaluate_batch': 4},
    {'mesh.pipeline': 2, 'mesh.fsdp': 2, 'mesh.strategy': 'fsdp', 'train.evaluate_batch': 8},
]


@pytest.mark.parametrize('mesh', MESHES, ids=lambda mesh: '_'.join(mesh) or 'alone')
def test_the_training_mesh_finds_the_same(requests, expected, settings, mesh):
    small = {'model.context': CONTEXT, 'model.vocab_size': 256, 'model.attention_chunk': 0, 'mesh.data': 1}
    made = settings(small | mesh)
    program = assemble.build(made)
    params, _ = make(writing.config(**trained.SMALL | {'vocab_size': 256}), seed=0)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, program.abstract_state.params)
    params = jax.tree.map(jax.device_put, params, shardings)
    agree(request_scores.score(made, program, params, requests), expected)
    if not mesh:
        kept = inference.kept_as(params, made.model, 'float32')
        agree(request_scores.score(made, inference.reading(made, program), kept, requests), expected)


def test_what_begins_another_text_is_read_once():
    rows = []

    def read(batch):
        rows.append(int((batch['segments'] > 0).sum()))
        return np.zeros(batch['asked'].shape), np.ones(batch['asked'].shape, bool)

    context = request(30, 0).context
    choices = [Request(context, np.array([id_], np.int32)) for id_ in range(4)]
    longer = Request(context, np.array([3, 1, 2], np.int32))
    scoring.score(read, [*choices, longer, Request(context[:5], context[5:8])], context=CONTEXT)
    assert rows == [32]


def test_requests_that_make_no_sense(model):
    with pytest.raises(UserError, match=r'request 1: a continuation of 65 tokens does not fit into the context of 64'):
        model.score([request(1, 1), request(1, 65)])
    with pytest.raises(UserError, match='request 0: an empty context'):
        model.score([request(0, 3)])
    with pytest.raises(UserError, match='pair 0: wants a context and a continuation'):
        model.score(['text'])
    with pytest.raises(UserError, match='pair 0: wants text, not int'):
        model.score([('a', 3)])
    with pytest.raises(UserError, match='batch: wants a whole number'):
        model.score([('a', 'b')], batch=0)
    assert model.score([]) == []
    (empty,) = model.score([('text', '')])
    assert (empty.log_p, empty.tokens, empty.greedy) == (0.0, 0, True)


def test_pairs_of_text_are_scored_from_their_boundary(model):
    """The model of bytes: a byte is a token, so that the boundary in tokens is where it is in the text."""
    whole = 'The weather today'
    one, two = model.score([('The weather', ' today'), ('The weather ', 'today')])
    log_p = model.log_probabilities(whole)[len('The weather') - 1 :]
    np.testing.assert_allclose(one.each, log_p, atol=2e-5)
    np.testing.assert_allclose(two.each, one.each, atol=2e-5)  # of another row
    (begun,) = model.score([('', 'abc')])
    np.testing.assert_allclose(begun.each, alone(model, [255, 97, 98])[np.arange(3), [97, 98, 99]], atol=2e-5)


def test_tokens_that_join_at_the_boundary_are_the_continuations():
    """A vocabulary that joins 'a' and 'b' where they meet."""
    join = lambda text: np.array([ord(c) for c in text.replace('ab', 'X')], np.int32)  # noqa: E731
    encode = lambda texts: [join(text) for text in texts]  # noqa: E731
    begun = lambda texts: [np.concatenate([[1], join(text)]) for text in texts]  # noqa: E731
    joined, spaced, empty = pairs.requests([('ca', 'bd'), ('c  ', 'd'), (' ', 'ab')], begun, encode, 1)
    assert (joined.context.tolist(), joined.continuation.tolist()) == ([1, ord('c'), ord('a')], [ord('d')])
    assert (spaced.context.tolist(), spaced.continuation.tolist()) == ([1, ord('c')], [ord(c) for c in '  d'])
    assert (empty.context.tolist(), empty.continuation.tolist()) == ([1], [ord(' '), ord('X')])
    with pytest.raises(UserError, match='pair 0: an empty context'):
        pairs.requests([('', 'a')], encode, encode, None)


@pytest.mark.parametrize(('context', 'stride'), [(8, 8), (8, 3), (8, 1), (1, 1)])
@pytest.mark.parametrize('targets', [1, 7, 8, 9, 25])
def test_every_token_is_scored_once_with_enough_before_it(targets, context, stride):
    windows = rolling.windows(targets, context, stride)
    scored = [target for _, first, stop in windows for target in range(first, stop)]
    assert scored == list(range(targets))
    for begin, first, stop in windows:
        assert 0 <= begin <= first < stop <= begin + context
        assert first - begin >= min(first, context - stride)
    lengths = [stop - begin for begin, _, stop in windows]
    assert lengths == [min(targets, context)] * len(windows)


def test_no_token_no_window():
    assert rolling.windows(0, 8, 8).shape == (0, 3)
    for stride in (0, 9):
        with pytest.raises(UserError, match='stride: wants tokens from 1 to'):
            rolling.windows(20, 8, stride)


@pytest.mark.parametrize('stride', [None, 5])
def test_perplexity_of_a_long_text(model, stride):
    text = 'A text of two lines,\nas long as 2 1/2 contexts: ' + 'x' * 110
    found = model.perplexity(text, stride)
    ids = np.concatenate([[255], np.frombuffer(text.encode(), np.uint8)])
    nats = 0.0
    for begin, first, stop in rolling.windows(len(ids) - 1, CONTEXT, stride or CONTEXT):
        log_p_LV = alone(model, ids[begin:stop])
        nats -= log_p_LV[np.arange(first - begin, stop - begin), ids[first + 1 : stop + 1]].sum()
    assert found.nats == pytest.approx(nats, rel=1e-6)
    assert (found.tokens, found.words, found.bytes) == (len(text), 12, len(text))
    assert found.bits_per_byte == pytest.approx(nats / len(text) / np.log(2), rel=1e-6)
    assert found.word_perplexity == pytest.approx(np.exp(nats / 12), rel=1e-5)
    assert found.byte_perplexity == pytest.approx(np.exp(found.nats_per_token))
    with pytest.raises(UserError, match='text: has no token'):
        model.perplexity('')
