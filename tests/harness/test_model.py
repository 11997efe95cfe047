"""Does a model answer lm_eval's requests as it answers when it is asked itself?"""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

pytest.importorskip('lm_eval', reason='the command that asks')

import gpt_jax
from gpt_jax.data import tokenizer
from gpt_jax.errors import UserError
from gpt_jax.generate import options
from gpt_jax.generate.batching import Prompt
from gpt_jax.harness.model import Model
from tests import trained
from tests.harness import local

CONTEXT = 64


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    texts = [local.text(n, 30) for n in range(20)]
    folder = tmp_path_factory.mktemp('runs') / 'small'
    return trained.folder(folder, words=tokenizer.train(texts, 300), context=CONTEXT)


@pytest.fixture(scope='module')
def model(run):
    return gpt_jax.load(run)


@pytest.fixture(scope='module')
def asked(model):
    return Model(model, batch_size=4)


def requests(*arguments):
    return [SimpleNamespace(args=one) for one in arguments]


def log_p(model, ids):
    """Of each id but the first, float64, and the likeliest there; by a forward pass of these alone."""
    row = np.zeros((1, CONTEXT), np.int32)
    row[0, : len(ids) - 1] = ids[:-1]
    scores_LV = np.asarray(model._full(model._params, row))[0, : len(ids) - 1].astype(np.float64)
    log_p_LV = scores_LV - np.logaddexp.reduce(scores_LV, axis=1, keepdims=True)
    return log_p_LV[np.arange(len(ids) - 1), ids[1:]], log_p_LV.argmax(1)


def test_log_likelihoods_are_the_models_own(model, asked):
    pairs = [('the cats', ' sat on it.'), ('dogs ', 'ran'), ('', 'and home'), ('the cats', ' s')]
    found = asked.loglikelihood(requests(*pairs))
    encode, end = model.tokenizer.encode, model.tokenizer.end_of_document
    for (context, continuation), (total, greedy) in zip(pairs, found, strict=True):
        given = encode(context.rstrip()) if context else [end]
        ids = np.concatenate([[] if context else [end], encode(context + continuation)]).astype(int)
        each, likeliest = log_p(model, ids)
        assert total == pytest.approx(each[len(given) - 1 :].sum(), abs=1e-4)
        assert greedy == bool(np.all(likeliest[len(given) - 1 :] == ids[len(given) :]))
    own = model.log_probabilities('the cats sat on it.')[len(encode('the cats')) - 1 :]
    assert found[0][0] == pytest.approx(own.sum(), abs=1e-4)


def test_greedy_continuations_are_told(model, asked):
    told = 0
    for context in (local.text(n, 5) for n in range(20)):
        (text,) = model.generate(context, max_new_tokens=2)
        if model.tokenizer.encode(text.text).tolist() == [*model.tokenizer.encode(context), *text.tokens]:
            ((total, greedy),) = asked.loglikelihood(requests((context, text.continuation)))
            assert greedy
            assert total == pytest.approx(sum(text.log_probabilities), abs=1e-4)
            told += 1
    assert told  # others write what no text is encoded as


def test_rolling_log_likelihoods(model, asked):
    texts = [local.text(1, 3), local.text(2, 100)]
    found = asked.loglikelihood_rolling(requests(*[(text,) for text in texts]))
    for text, total in zip(texts, found, strict=True):
        ids = np.array([model.tokenizer.end_of_document, *model.tokenizer.encode(text)])
        expected, done = 0.0, 0
        while done < len(ids) - 1:
            stop = min(done + CONTEXT, len(ids) - 1)
            each, _ = log_p(model, ids[max(0, stop - CONTEXT) : stop + 1])
            expected += each[len(each) - (stop - done) :].sum()
            done = stop
        assert total == pytest.approx(expected, rel=1e-6)
        assert total == pytest.approx(-model.perplexity(text).nats, rel=1e-6)
    assert len(ids) > 2 * CONTEXT


def test_texts_are_written_up_to_a_stop(model, asked):
    long = local.text(5, 80)
    how = {'until': ['s', 'home'], 'max_gen_toks': 10, 'do_sample': False, 'temperature': 0.7}
    free = {'max_gen_toks': 10}
    texts = asked.generate_until(requests(('the cats', how), (long, how), ('and', free), ('the cats', free)))
    cut = [model.tokenizer.encode(text)[-(CONTEXT - 10) :] for text in ('the cats', long, 'and', 'the cats')]
    prompts = [Prompt('', ids.astype(np.int32)) for ids in cut]
    given = options.make({'max_new_tokens': 10})
    done = sorted((update.number, update.done) for update in model.write(prompts, given) if update.done)
    end = model.tokenizer.end_of_document
    written = [model.tokenizer.decode([id_ for id_ in text.tokens if id_ != end]) for _, text in done]
    for number, text in enumerate(texts):
        expected = written[number]
        for stop in how['until'] if number < 2 else ():
            expected = expected.split(stop)[0]
        assert text == expected


def test_sampling_draws_and_a_prompt_twice_is_drawn_twice(asked):
    how = {'do_sample': True, 'temperature': 1.5, 'max_gen_toks': 12}
    one, two = asked.generate_until(requests(('the cats', how), ('the cats', how)))
    assert one != two
    with pytest.raises(UserError, match='top_kk: no such option; the nearest is'):
        asked.generate_until(requests(('a', {'top_kk': 3})))
    with pytest.raises(UserError, match='max_gen_toks: 64 leave no room for a prompt'):
        asked.generate_until(requests(('a', {'max_gen_toks': 64})))


def test_a_mesh_gives_the_same(run, asked):
    pairs = [(row['question'], choice) for row in local.questions(5) for choice in row['choices']]
    spread = Model(str(run), data=1, fsdp=2, tensor=2, batch_size=3)
    for one, two in zip(asked.loglikelihood(requests(*pairs)), spread.loglikelihood(requests(*pairs)), strict=True):
        assert one == (pytest.approx(two[0], abs=1e-4), two[1])
    assert jax.device_count() >= 4


def test_arguments(run, model):
    made = Model.create_from_arg_string(
        f'pretrained={run},max_length=32,batch_size=2', {'batch_size': 1, 'device': 'cuda:0'}
    )
    assert (made.rows, made.max_length) == (2, 32)
    assert Model.create_from_arg_obj({'pretrained': model}, {'batch_size': 1}).rows == 16
    assert Model.create_from_arg_obj({'pretrained': model}, {'batch_size': 8}).rows == 8
    with pytest.raises(UserError, match='model_args: dtype: no such argument'):
        Model(model, dtype='auto')
    with pytest.raises(UserError, match='max_length: wants tokens up to'):
        Model(model, max_length=65)
    with pytest.raises(UserError, match='prefix_token_id: 300 is no id'):
        Model(model, prefix_token_id=300)
    with pytest.raises(UserError, match='has no chat template'):
        Model(model).apply_chat_template([{'role': 'user', 'content': 'hi'}])
    short = made.loglikelihood(requests((local.text(3, 60), ' home')))
    (same,) = model.scorer.score([(local.text(3, 60), ' home')], context=32)
    assert short == [(same.log_p, same.greedy)]
