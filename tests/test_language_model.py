"""Does a model loaded from its folder write, score and refuse as it is documented to?"""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import tokenizers

import gpt_jax
from gpt_jax import overrides
from gpt_jax.data import tokenizer
from gpt_jax.errors import UserError
from gpt_jax.modes import export_weights
from tests import trained


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return trained.folder(tmp_path_factory.mktemp('runs') / 'large')


@pytest.fixture(scope='module')
def model(run):
    return gpt_jax.load(run)


def test_importing_the_package_takes_nothing_else():
    code = 'import sys, gpt_jax; print([m for m in ("jax", "numpy", "absl") if m in sys.modules])'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'
    with pytest.raises(AttributeError, match='lood'):
        _ = gpt_jax.lood


def test_a_process_of_its_own_writes_the_same(run, model):
    """With one device, as a user has it: matrices lie the other way there, and products are another library's."""
    prompts = ['The weather today is', 'x', 'def f(']
    code = f"""
import gpt_jax, jax, json
model = gpt_jax.load({str(run)!r})
write = lambda prompts: [list(map(int, text.tokens)) for text in model.generate(prompts, max_new_tokens=12)]
print(json.dumps([jax.device_count(), write({prompts[:1]}), write({prompts})]))
"""
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True, env=os.environ | {'XLA_FLAGS': ''}
    )
    devices, one, three = json.loads(done.stdout.splitlines()[-1])
    expected = [list(text.tokens) for text in model.generate(prompts, max_new_tokens=12)]
    assert (devices, one, three) == (1, expected[:1], expected)


def test_greedy_text_is_what_the_logits_say(model):
    (text,) = model.generate('The weather today is', max_length=50)
    assert text.text == text.prompt + text.continuation
    assert text.prompt == 'The weather today is'
    assert len(text.tokens) == 30
    assert model.tokenizer.decode(text.tokens) == text.continuation
    whole = [*model.encode(text.prompt), *text.tokens]
    scores = full(model, whole)
    assert list(text.tokens) == scores[19:-1].argmax(1).tolist()
    expected = np.asarray(jax.nn.log_softmax(scores))[np.arange(19, 49), list(text.tokens)]
    np.testing.assert_allclose(text.log_probabilities, expected, atol=1e-4)


def full(model, ids):
    """The scores after each of the ids, by a forward pass without a cache."""
    rows = np.zeros((1, model.config.context), np.int32)
    rows[0, : len(ids)] = ids
    return np.asarray(model._full(model._params, rows))[0, : len(ids)]


def test_a_stream_is_the_text_in_pieces(model):
    pieces = list(model.stream('One, two', max_new_tokens=30, temperature=1.0, seed=3))
    assert len(pieces) > 5
    assert ''.join(pieces) == model.generate('One, two', max_new_tokens=30, temperature=1.0, seed=3)[0].continuation


def test_several_prompts_and_texts(model):
    texts = model.generate(['a', 'longer prompt'], max_new_tokens=8, temperature=1.0, num_return_sequences=2)
    assert [text.prompt for text in texts] == ['a', 'a', 'longer prompt', 'longer prompt']
    assert len({text.seed for text in texts}) == 4
    again = model.generate('longer prompt', max_new_tokens=8, temperature=1.0, seed=texts[3].seed)
    assert again[0].continuation == texts[3].continuation


def test_scores_of_a_text(model):
    text = 'The weather'
    assert model.logits(text).shape == (11, 256)
    log_p = np.asarray(jax.nn.log_softmax(model.logits(text)))
    assert model.log_probabilities(text) == pytest.approx([log_p[k, ord(text[k + 1])] for k in range(10)])
    np.testing.assert_allclose(model.logits(text[:4]), model.logits(text)[:4], atol=1e-4)


BAD = [
    ({'data': 0}, 'data: wants a number of devices, 1 or above, got 0'),
    ({'fsdp': -1}, 'fsdp: wants a number of devices, 1 or above, got -1'),
    ({'fsdp': '2'}, "fsdp: wants a number of devices, 1 or above, got '2'"),
    ({'data': True}, 'data: wants a number of devices, 1 or above, got True'),
    (
        {'data': 3, 'fsdp': 3},
        "data x fsdp x tensor makes 9 devices, but there are 8; load the model before JAX's first array",
    ),
    ({'weights': None}, 'weights: no None; one of float32, bfloat16, int8, int4'),
    ({'weights': []}, 'weights: no []; one of float32'),
    ({'weights': 'int5'}, "weights: no 'int5'; one of float32, bfloat16, int8, int4; the nearest is 'int"),
    ({'step': '3'}, "step: wants the step of a checkpoint, or None, got '3'"),
    ({'say': None}, 'say: wants a function that takes a line, got None'),
    ({'draft': ''}, "draft: wants the folder or the name of a model, or 'lookup', got ''"),
    ({'draft': 5}, "draft: wants the folder or the name of a model, or 'lookup', got 5"),
]


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda m: m.generate(''), 'the prompt is empty'),
        (lambda m: m.generate(['a', '']), 'prompt 2: the prompt is empty'),
        (lambda m: m.generate('a\ud800'), 'character 1 is half a surrogate pair, and no text'),
        (lambda m: m.generate(5), 'prompts: wants a string or several, got 5'),
        (lambda m: m.generate(None), 'prompts: wants a string or several, got None'),
        (lambda m: m.generate(b'a'), 'a prompt is a string, not bytes'),
        (lambda _: gpt_jax.load(''), "source: wants the folder or the name of a model, got ''"),
        *((lambda _, given=given: gpt_jax.load('runs/x', **given), message) for given, message in BAD),
        (lambda _: gpt_jax.load(None), 'source: wants the folder or the name of a model, got None'),
        (lambda m: m.generate(['a', b'b']), 'prompt 2: a prompt is a string, not bytes'),
        (lambda m: m.generate('a' * 64), "the prompt's 64 tokens fill the model's context of 64"),
        (lambda m: m.generate('a', max_length=65), '1 tokens of the prompt and 64 new ones'),
        (lambda m: m.generate('a', max_tokens=5), "max_tokens: no such option; the nearest is 'max_new_tokens'"),
        (lambda m: m.generate('a', stop_token_ids=[256]), 'stop_token_ids: 256 is no id of this model; there are 256'),
        (lambda m: m.stream(['a']), 'stream: takes one prompt'),
        (lambda m: m.stream('a', num_return_sequences=2, top_k=3), 'num_return_sequences: one text can be streamed'),
        (lambda m: m.logits(''), 'the text is empty'),
        (lambda m: m.logits('a' * 65), "65 tokens are more than the model's context of 64"),
    ],
)
def test_bad_input_is_one_line(model, call, message):
    with pytest.raises(UserError) as error:
        call(model)
    assert str(error.value).startswith(message)
    assert '\n' not in str(error.value)


def test_a_prompt_that_the_tokenizer_has_no_ids_for_is_refused(model, monkeypatch):
    letters = tokenizers.Tokenizer(tokenizers.models.BPE({'a': 0, 'b': 1}, []))
    monkeypatch.setattr(model, 'tokenizer', tokenizer._from_content(letters.to_str().encode(), ''))
    with pytest.raises(UserError, match=r"^prompt 2: the tokenizer has no id for 'z', at character 1"):
        model.generate(['ab', 'azb'])


def test_drafts_change_no_greedy_text_and_are_counted(run, model, tmp_path):
    small = trained.folder(tmp_path / 'small', seed=5, layers=1, width=16, heads=2)
    expected = model.generate(['ab', 'The weather'], max_length=40)
    for draft in (small, 'lookup'):
        drafted = gpt_jax.load(run, draft=draft)
        texts = drafted.generate(['ab', 'The weather'], max_length=40)
        assert [text.tokens for text in texts] == [text.tokens for text in expected]
        assert drafted.tally.proposed >= drafted.tally.accepted
        assert drafted.tally.readings > 0
    with pytest.raises(UserError, match='num_beams: beams take no draft'):
        drafted.generate('a', num_beams=2)
    with pytest.raises(UserError, match='overflow: a draft cannot slide'):
        drafted.generate('a', overflow='slide')
    with pytest.raises(UserError, match=r"^draft_tokens: 64 do not fit into the model's context of 64"):
        drafted.generate('a', draft_tokens=64)


def test_drafts_that_do_not_fit_are_refused(run, tmp_path):
    with pytest.raises(UserError, match=r'^draft: .*words has another vocabulary'):
        gpt_jax.load(run, draft=trained.folder(tmp_path / 'words', vocab_size=300))
    with pytest.raises(UserError, match=r"^draft: .*short has a context of 32, less than the model's 64"):
        gpt_jax.load(run, draft=trained.folder(tmp_path / 'short', context=32))


def test_a_run_and_its_export_draft_for_each_other(run, model, tmp_path):
    export_weights.export(run, tmp_path / 'exported', overrides.defaults(), 'float32', print)
    expected = model.generate('ab', max_length=20)
    drafted = gpt_jax.load(run, draft=tmp_path / 'exported')
    assert [text.tokens for text in drafted.generate('ab', max_length=20)] == [text.tokens for text in expected]
    assert drafted.tally.accepted == drafted.tally.proposed > 0
    assert gpt_jax.load(tmp_path / 'exported', draft=run).tokenizer.fingerprint != model.tokenizer.fingerprint


@pytest.mark.parametrize(
    ('data', 'fsdp', 'tensor'),
    [(8, 1, 1), (2, 2, 2), *(pytest.param(*one, marks=pytest.mark.slow) for one in ((1, 8, 1), (2, 4, 1), (1, 1, 4)))],
)
def test_texts_of_many_devices_are_those_of_one(run, model, data, fsdp, tensor):
    spread = gpt_jax.load(run, data=data, fsdp=fsdp, tensor=tensor)
    prompts = ['a', 'The weather', 'of', 'many devices']
    for given in ({'max_length': 40}, {'max_length': 40, 'temperature': 0.8, 'top_p': 0.9}):
        one, many = model.generate(prompts, **given), spread.generate(prompts, **given)
        assert [text.tokens for text in one] == [text.tokens for text in many]
    if data == 2:
        one, many = (each.generate(prompts, max_length=40, num_beams=3) for each in (model, spread))
        assert [text.tokens for text in one] == [text.tokens for text in many]
        np.testing.assert_allclose(spread.logits('The weather'), model.logits('The weather'), atol=1e-4)


def test_more_devices_than_there_are(run):
    with pytest.raises(
        UserError, match=r'^data x fsdp x tensor makes 9 devices, but there are 8; [^-]* ask for fewer$'
    ):
        gpt_jax.load(run, data=9)
