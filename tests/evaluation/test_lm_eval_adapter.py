"""lm_eval's requests against the model's own scores and generations."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

pytest.importorskip('lm_eval', reason='the harness')

import gpt_jax
from gpt_jax.core.errors import UserError
from gpt_jax.data import tokenizer
from gpt_jax.evaluation.lm_eval_adapter import LmEvalModel
from gpt_jax.inference import options
from gpt_jax.inference.batching import TokenizedPrompt
from tests import trained
from tests.evaluation.lm_eval_tasks import make_questions, make_text

CONTEXT = 64


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    texts = [make_text(seed, 30) for seed in range(20)]
    folder = tmp_path_factory.mktemp('runs') / 'small'
    return trained.folder(folder, words=tokenizer.train_bpe(texts, 300), context=CONTEXT)


@pytest.fixture(scope='module')
def model(run):
    return gpt_jax.load(run)


@pytest.fixture(scope='module')
def adapter(model):
    return LmEvalModel(model, batch_size=4)


def make_requests(*arguments):
    return [SimpleNamespace(args=each) for each in arguments]


def compute_log_p(model, ids):
    """Log p of each id but the first, float64, and the likeliest ids, by one forward pass."""
    row = np.zeros((1, CONTEXT), np.int32)
    row[0, : len(ids) - 1] = ids[:-1]
    z_LV = np.asarray(model._forward(model._params, row))[0, : len(ids) - 1].astype(np.float64)
    log_p_LV = z_LV - np.logaddexp.reduce(z_LV, axis=1, keepdims=True)
    return log_p_LV[np.arange(len(ids) - 1), ids[1:]], log_p_LV.argmax(1)


def test_log_likelihoods_are_those_of_the_model(model, adapter):
    pairs = [('the cats', ' sat on it.'), ('dogs ', 'ran'), ('', 'and home'), ('the cats', ' s')]
    results = adapter.loglikelihood(make_requests(*pairs))
    encode, end = model.tokenizer.encode, model.tokenizer.end_of_document
    for (context, continuation), (total, greedy) in zip(pairs, results, strict=True):
        prompt = encode(context.rstrip()) if context else [end]
        ids = np.concatenate([[] if context else [end], encode(context + continuation)]).astype(int)
        log_p, likeliest = compute_log_p(model, ids)
        assert total == pytest.approx(log_p[len(prompt) - 1 :].sum(), abs=1e-4)
        assert greedy == bool(np.all(likeliest[len(prompt) - 1 :] == ids[len(prompt) :]))
    own = model.log_probabilities('the cats sat on it.')[len(encode('the cats')) - 1 :]
    assert results[0][0] == pytest.approx(own.sum(), abs=1e-4)


def test_greedy_continuations_are_recognized(model, adapter):
    """Generated ids are compared where the text is encoded as the same ids."""
    encode, compared = model.tokenizer.encode, 0
    for context in (make_text(seed, 5) for seed in range(20)):
        (text,) = model.generate(context, max_new_tokens=2)
        if encode(text.text).tolist() == [*encode(context), *text.tokens]:
            request = (context, text.continuation)
            ((total, greedy),) = adapter.loglikelihood(make_requests(request))
            assert greedy
            assert total == pytest.approx(sum(text.log_probabilities), abs=1e-4)
            compared += 1
    assert compared


def test_rolling_log_likelihoods(model, adapter):
    texts = [make_text(1, 3), make_text(2, 100)]
    totals = adapter.loglikelihood_rolling(make_requests(*[(text,) for text in texts]))
    for text, total in zip(texts, totals, strict=True):
        ids = np.array([model.tokenizer.end_of_document, *model.tokenizer.encode(text)])
        expected, done = 0.0, 0
        while done < len(ids) - 1:
            stop = min(done + CONTEXT, len(ids) - 1)
            log_p, _ = compute_log_p(model, ids[max(0, stop - CONTEXT) : stop + 1])
            expected += log_p[len(log_p) - (stop - done) :].sum()
            done = stop
        assert total == pytest.approx(expected, rel=1e-6)
        assert total == pytest.approx(-model.perplexity(text).nats, rel=1e-6)
    assert len(ids) > 2 * CONTEXT


def test_texts_are_generated_up_to_a_stop_string(model, adapter):
    long = make_text(5, 80)
    stopped = {'until': ['s', 'home'], 'max_gen_toks': 10, 'do_sample': False, 'temperature': 0.7}
    free = {'max_gen_toks': 10}
    contexts = ('the cats', long, 'and', 'the cats')
    requests = make_requests(*zip(contexts, (stopped, stopped, free, free), strict=True))
    texts = adapter.generate_until(requests)
    encoded = [model.tokenizer.encode(text)[-(CONTEXT - 10) :] for text in contexts]
    prompts = [TokenizedPrompt('', ids.astype(np.int32)) for ids in encoded]
    chunks = model.stream_chunks(prompts, options.make_options({'max_new_tokens': 10}))
    results = {chunk.number: chunk.result for chunk in chunks if chunk.result}
    end = model.tokenizer.end_of_document
    for index, text in enumerate(texts):
        ids = [token for token in results[index].tokens if token != end]
        expected = model.tokenizer.decode(ids)
        for stop in stopped['until'] if index < 2 else ():
            expected = expected.split(stop)[0]
        assert text == expected


def test_equal_prompts_are_sampled_independently(adapter):
    sampling = {'do_sample': True, 'temperature': 1.5, 'max_gen_toks': 12}
    first, second = adapter.generate_until(
        make_requests(('the cats', sampling), ('the cats', sampling))
    )
    assert first != second
    with pytest.raises(UserError, match='top_kk: no such option; the nearest is'):
        adapter.generate_until(make_requests(('a', {'top_kk': 3})))
    with pytest.raises(UserError, match=r'max_gen_toks: must be below 64, .* got 64'):
        adapter.generate_until(make_requests(('a', {'max_gen_toks': 64})))


def test_a_mesh_gives_the_same_scores(run, adapter):
    pairs = [(row['question'], choice) for row in make_questions(5) for choice in row['choices']]
    sharded = LmEvalModel(str(run), data=1, fsdp=2, tensor=2, batch_size=3)
    scores = adapter.loglikelihood(make_requests(*pairs))
    sharded_scores = sharded.loglikelihood(make_requests(*pairs))
    for score, (log_p, greedy) in zip(scores, sharded_scores, strict=True):
        assert score == (pytest.approx(log_p, abs=1e-4), greedy)
    assert jax.device_count() >= 4


def test_arguments(run, model):
    short = LmEvalModel.create_from_arg_string(
        f'pretrained={run},max_length=32,batch_size=2', {'batch_size': 1, 'device': 'cuda:0'}
    )
    assert (short.rows, short.max_length) == (2, 32)
    assert LmEvalModel.create_from_arg_obj({'pretrained': model}, {'batch_size': 1}).rows == 16
    assert LmEvalModel.create_from_arg_obj({'pretrained': model}, {'batch_size': 8}).rows == 8
    with pytest.raises(UserError, match='model_args: dtype: no such argument'):
        LmEvalModel(model, dtype='auto')
    with pytest.raises(UserError, match=r'max_length: must be an integer in \[1, 64\]'):
        LmEvalModel(model, max_length=65)
    with pytest.raises(UserError, match=r'prefix_token_id: must be below .* got 300'):
        LmEvalModel(model, prefix_token_id=300)
    with pytest.raises(UserError, match='has no chat template'):
        LmEvalModel(model).apply_chat_template([{'role': 'user', 'content': 'hi'}])
    pair = (make_text(3, 60), ' home')
    (score,) = model.scorer.score([pair], context=32)
    assert short.loglikelihood(make_requests(pair)) == [(score.log_p, score.greedy)]
