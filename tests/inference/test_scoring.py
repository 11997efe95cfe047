"""Continuation scores do not depend on rows, batches or meshes."""

import jax
import numpy as np
import pytest

import gpt_jax
from gpt_jax.core.errors import UserError
from gpt_jax.inference import placement, scoring
from gpt_jax.inference.scoring import ScoringRequest
from gpt_jax.train import build
from gpt_jax.trainer.suite_hook import score_continuations
from tests import trained
from tests.inference import engines
from tests.model.test_gpt import make_model

CONTEXT = 64
RNG = np.random.default_rng(0)


def make_request(context: int, continuation: int) -> ScoringRequest:
    return ScoringRequest(
        RNG.integers(0, 255, context).astype(np.int32),
        RNG.integers(0, 255, continuation).astype(np.int32),
    )


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return trained.folder(tmp_path_factory.mktemp('runs') / 'small')


@pytest.fixture(scope='module')
def model(run):
    return gpt_jax.load(run)


@pytest.fixture(scope='module')
def requests():
    """Requests of many lengths; some inputs are prefixes of others, some exceed the context."""
    made = [
        make_request(context, continuation)
        for context, continuation in [(1, 1), (5, 3), (30, 20), (63, 1), (64, 1), (90, 7), (2, 64)]
    ]
    made += [make_request(int(a), int(b)) for a, b in RNG.integers(1, 25, (12, 2))]
    context = made[2].context
    made += [ScoringRequest(context, np.array([id_], np.int32)) for id_ in (7, 8)]
    return [
        *made,
        ScoringRequest(context[:9], context[9:]),
        ScoringRequest(context[:4], context[4:12]),
    ]


@pytest.fixture(scope='module')
def expected(model, requests):
    """(log p of each token, whether all are the most likely, the most likely) of each request."""
    results = []
    for context, continuation in requests:
        ids = np.concatenate([context, continuation])[-CONTEXT - 1 :]
        log_p_LV = compute_log_p(model, ids[:-1])
        positions = np.arange(len(ids) - 1 - len(continuation), len(ids) - 1)
        most_likely = log_p_LV[positions].argmax(1)
        greedy = bool(np.all(most_likely == continuation))
        results.append((log_p_LV[positions, continuation], greedy, most_likely))
    return results


def compute_log_p(model, ids):
    """log p of every id after each of the ids, float64, by a forward pass of one text."""
    row = np.zeros((1, CONTEXT), np.int32)
    row[0, : len(ids)] = ids
    z_LV = np.asarray(model._forward(model._params, row))[0].astype(np.float64)
    return z_LV - np.logaddexp.reduce(z_LV, axis=1, keepdims=True)


def check_scores(scores, expected):
    assert len(scores) == len(expected)
    for score, (log_p, greedy, _) in zip(scores, expected, strict=True):
        np.testing.assert_allclose(score.token_log_p, log_p, atol=2e-5)
        assert (score.greedy, score.tokens) == (greedy, len(log_p))
        assert score.log_p == pytest.approx(log_p.sum(), abs=1e-4)


@pytest.mark.parametrize('batch_size', [1, 5])
def test_scores_equal_those_of_single_requests(model, requests, expected, batch_size):
    check_scores(model.score(requests, batch_size=batch_size), expected)


def test_order_does_not_matter_and_greedy_continuations_are_detected(model, requests, expected):
    assert not any(greedy for _, greedy, _ in expected)
    greedy_requests = []
    for request, (*_, most_likely) in zip(requests, expected, strict=True):
        ids = np.concatenate([request.context, request.continuation])[-CONTEXT - 1 :]
        context = ids[: -request.continuation.size]
        greedy_requests.append(ScoringRequest(context, most_likely[:1].astype(np.int32)))
    scores = model.score([*greedy_requests[::-1], *requests[::-1]])
    assert all(score.greedy for score in scores[: len(requests)])
    check_scores(scores[: len(requests) - 1 : -1], expected)


def test_scores_do_not_depend_on_the_mesh(run, requests, expected):
    check_scores(gpt_jax.load(run, data=2, fsdp=2, tensor=2).score(requests), expected)


def test_int8_weights_give_close_scores(run, requests, expected):
    scores = gpt_jax.load(run, weight_dtype='int8').score(requests)
    largest_error = max(
        np.abs(score.token_log_p - log_p).max()
        for score, (log_p, *_) in zip(scores, expected, strict=True)
    )
    assert 1e-4 < largest_error < 0.2


MESHES = [
    {},
    {'mesh.data': 2, 'mesh.context': 2, 'mesh.tensor': 2, 'train.eval_batch_size': 4},
    {'mesh.pipeline': 2, 'mesh.fsdp': 2, 'mesh.strategy': 'fsdp', 'train.eval_batch_size': 8},
]


@pytest.mark.parametrize('mesh', MESHES, ids=lambda mesh: '_'.join(mesh) or 'single')
def test_scores_on_a_training_mesh(requests, expected, settings, mesh):
    small = {
        'model.context': CONTEXT,
        'model.vocab_size': 256,
        'model.attention_chunk': 0,
        'mesh.data': 1,
    }
    config = settings(small | mesh)
    parts = build.build_trainer_parts(config)
    params, _ = make_model(engines.config(**trained.SMALL | {'vocab_size': 256}), seed=0)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, parts.abstract_state.params)
    params = jax.tree.map(jax.device_put, params, shardings)
    check_scores(score_continuations(config, parts, params, requests), expected)
    if not mesh:
        parts = placement.make_inference_parts(config, parts)
        params = placement.quantize_params(params, config.model, 'float32')
        check_scores(score_continuations(config, parts, params, requests), expected)


def test_shared_prefixes_are_read_once():
    token_counts = []

    def score(batch):
        token_counts.append(int((batch['segments'] > 0).sum()))
        shape = batch['query_tokens'].shape
        return np.zeros(shape), np.ones(shape, bool)

    context = make_request(30, 0).context
    choices = [ScoringRequest(context, np.array([id_], np.int32)) for id_ in range(4)]
    longer = ScoringRequest(context, np.array([3, 1, 2], np.int32))
    scoring.score_requests(
        score, [*choices, longer, ScoringRequest(context[:5], context[5:8])], context=CONTEXT
    )
    assert token_counts == [32]


def test_invalid_requests_raise(model):
    message = r"request 1: the continuation must fit into the model's context of 64, got 65 tokens"
    with pytest.raises(UserError, match=message):
        model.score([make_request(1, 1), make_request(1, 65)])
    with pytest.raises(UserError, match='request 0: the context must have at least one token'):
        model.score([make_request(0, 3)])
    with pytest.raises(UserError, match='pair 0: must be a context and a continuation'):
        model.score(['text'])
    with pytest.raises(UserError, match='pair 0: must be a string, got int'):
        model.score([('a', 3)])
    with pytest.raises(UserError, match='batch_size: must be an integer in'):
        model.score([('a', 'b')], batch_size=0)
    assert model.score([]) == []
    (empty,) = model.score([('text', '')])
    assert (empty.log_p, empty.tokens, empty.greedy) == (0.0, 0, True)
