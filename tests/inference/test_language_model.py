"""The Python API: load, generate, stream, score, and their error messages."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
import tokenizers

import gpt_jax
from gpt_jax.core.config import default_config
from gpt_jax.core.errors import UserError
from gpt_jax.data import tokenizer
from gpt_jax.trainer import export_weights
from tests import trained

PROMPTS = ['a', 'The weather', 'of', 'many devices']
GREEDY = {'max_length': 40}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return trained.folder(tmp_path_factory.mktemp('runs') / 'large', layers=1)


@pytest.fixture(scope='module')
def model(run):
    return gpt_jax.load(run)


def list_tokens(texts):
    return [list(map(int, text.tokens)) for text in texts]


@pytest.fixture(scope='module')
def greedy_tokens(model):
    """What the model writes after PROMPTS."""
    return list_tokens(model.generate(PROMPTS, **GREEDY))


def test_importing_the_package_imports_no_dependencies():
    code = 'import sys, gpt_jax; print([m for m in ("jax", "numpy", "absl") if m in sys.modules])'
    process = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == '[]'
    with pytest.raises(AttributeError, match='lood'):
        _ = gpt_jax.lood


@pytest.mark.slow
def test_process_with_one_device_generates_the_same(run, greedy_tokens):
    """One CPU device is the default; it stores matrices transposed and uses another library."""
    code = f"""
import gpt_jax, jax, json
model = gpt_jax.load({str(run)!r})
def generate(prompts):
    texts = model.generate(prompts, **{GREEDY})
    return [list(map(int, text.tokens)) for text in texts]
print(json.dumps([jax.device_count(), generate({PROMPTS[:1]}), generate({PROMPTS})]))
"""
    process = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    devices, one, several = json.loads(process.stdout.splitlines()[-1])
    assert (devices, one, several) == (1, greedy_tokens[:1], greedy_tokens)


def test_greedy_text_is_the_argmax_of_the_logits(model):
    (text,) = model.generate('The weather today is', max_length=50)
    assert text.text == text.prompt + text.continuation
    assert text.prompt == 'The weather today is'
    assert len(text.tokens) == 30
    assert model.tokenizer.decode(text.tokens) == text.continuation
    logits = compute_logits(model, [*model.encode(text.prompt), *text.tokens])
    assert list(text.tokens) == logits[19:-1].argmax(1).tolist()
    expected = np.asarray(jax.nn.log_softmax(logits))[np.arange(19, 49), list(text.tokens)]
    np.testing.assert_allclose(text.log_probabilities, expected, atol=1e-4)


def compute_logits(model, ids):
    """The logits after each id, by a forward pass without a cache."""
    rows = np.zeros((1, model.config.context), np.int32)
    rows[0, : len(ids)] = ids
    return np.asarray(model._forward(model._params, rows))[0, : len(ids)]


def test_stream_yields_the_text_in_pieces(model):
    options = {'max_new_tokens': 30, 'temperature': 1.0, 'seed': 3}
    pieces = list(model.stream('One, two', **options))
    assert len(pieces) > 5
    assert ''.join(pieces) == model.generate('One, two', **options)[0].continuation


def test_several_prompts_and_texts(model):
    texts = model.generate(
        ['a', 'longer prompt'], max_new_tokens=8, temperature=1.0, num_return_sequences=2
    )
    assert [text.prompt for text in texts] == ['a', 'a', 'longer prompt', 'longer prompt']
    assert len({text.seed for text in texts}) == 4
    again = model.generate('longer prompt', max_new_tokens=8, temperature=1.0, seed=texts[3].seed)
    assert again[0].continuation == texts[3].continuation


def test_logits_and_log_probabilities_of_a_text(model):
    text = 'The weather'
    assert model.logits(text).shape == (11, 256)
    log_p = np.asarray(jax.nn.log_softmax(model.logits(text)))
    assert model.log_probabilities(text) == pytest.approx(
        [log_p[k, ord(text[k + 1])] for k in range(10)]
    )
    np.testing.assert_allclose(model.logits(text[:4]), model.logits(text)[:4], atol=1e-4)


INVALID_ARGUMENTS = [
    ({'data': 0}, 'data: must be a number of devices, at least 1, got 0'),
    ({'fsdp': -1}, 'fsdp: must be a number of devices, at least 1, got -1'),
    ({'fsdp': '2'}, "fsdp: must be a number of devices, at least 1, got '2'"),
    ({'data': True}, 'data: must be a number of devices, at least 1, got True'),
    (
        {'data': 3, 'fsdp': 3},
        'data x fsdp x tensor: must be at most 8 devices, got 9; load the model before',
    ),
    (
        {'weight_dtype': None},
        'weight_dtype: must be one of float32, bfloat16, int8, int4, got None',
    ),
    ({'weight_dtype': []}, 'weight_dtype: must be one of float32'),
    (
        {'weight_dtype': 'int5'},
        "weight_dtype: must be one of float32, bfloat16, int8, int4, got 'int5'; the nearest",
    ),
    ({'step': '3'}, "step: must be the step of a checkpoint, or None, got '3'"),
    ({'log': None}, 'log: must be a function that takes a line, got None'),
    ({'draft': ''}, "draft: must be the folder or the name of a model, or 'lookup', got ''"),
    ({'draft': 5}, "draft: must be the folder or the name of a model, or 'lookup', got 5"),
]


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda m: m.generate(''), 'the prompt must have at least one token'),
        (lambda m: m.generate(['a', '']), 'prompt 2: the prompt must have at least one token'),
        (
            lambda m: m.generate('a\ud800'),
            'prompt: must be valid text; character 1 is half a surrogate pair',
        ),
        (lambda m: m.generate(5), 'prompts: must be a string or a list of strings, got 5'),
        (lambda m: m.generate(None), 'prompts: must be a string or a list of strings, got None'),
        (lambda m: m.generate(b'a'), 'prompt: must be a string, got bytes'),
        (lambda _: gpt_jax.load(''), "source: must be the folder or the name of a model, got ''"),
        *(
            (lambda _, given=given: gpt_jax.load('runs/x', **given), message)
            for given, message in INVALID_ARGUMENTS
        ),
        (
            lambda _: gpt_jax.load(None),
            'source: must be the folder or the name of a model, got None',
        ),
        (lambda m: m.generate(['a', b'b']), 'prompt 2: must be a string, got bytes'),
        (lambda m: m.generate('a' * 64), "the prompt's 64 tokens fill the model's context of 64"),
        (lambda m: m.generate('a', max_length=65), '1 prompt tokens and 64 new tokens exceed'),
        (
            lambda m: m.generate('a', max_tokens=5),
            "max_tokens: no such option; the nearest is 'max_new_tokens'",
        ),
        (
            lambda m: m.generate('a', stop_token_ids=[256]),
            "stop_token_ids: must be below the model's vocabulary size of 256, got 256",
        ),
        (lambda m: m.stream(['a']), 'prompt: must be a single string'),
        (
            lambda m: m.stream('a', num_return_sequences=2, top_k=3),
            'num_return_sequences: must be 1 in a stream, got 2',
        ),
        (lambda m: m.logits(''), 'text: must not be empty'),
        (lambda m: m.logits('a' * 65), "text: must fit into the model's context of 64, got 65"),
    ],
)
def test_invalid_input_raises_one_line(model, call, message):
    with pytest.raises(UserError) as error:
        call(model)
    assert str(error.value).startswith(message)
    assert '\n' not in str(error.value)


def test_prompt_without_token_ids_raises(model, monkeypatch):
    letters = tokenizers.Tokenizer(tokenizers.models.BPE({'a': 0, 'b': 1}, []))
    words = tokenizer.parse_tokenizer_json(letters.to_str().encode(), '')
    monkeypatch.setitem(vars(model), '_prompt_tokenizer', words)
    with pytest.raises(
        UserError, match=r"^prompt 2: the tokenizer has no id for 'z', at character 1"
    ):
        model.generate(['ab', 'azb'])


def test_drafts_do_not_change_greedy_texts_and_are_counted(run, greedy_tokens):
    drafted = gpt_jax.load(run, draft='lookup')
    assert list_tokens(drafted.generate(PROMPTS, **GREEDY)) == greedy_tokens
    assert drafted.speculative_stats.proposed >= drafted.speculative_stats.accepted
    assert drafted.speculative_stats.readings > 0
    with pytest.raises(
        UserError, match='num_beams: beam search cannot be combined with a draft model'
    ):
        drafted.generate('a', num_beams=2)
    with pytest.raises(
        UserError, match='context_overflow: sliding_window cannot be combined with a draft'
    ):
        drafted.generate('a', context_overflow='sliding_window')
    message = r"^draft_tokens: must be below the model's context of 64, got 64"
    with pytest.raises(UserError, match=message):
        drafted.generate('a', draft_tokens=64)


def test_unsuitable_drafts_raise(run, tmp_path):
    message = r"^draft: must have the model's vocabulary, got a different one in .*words"
    with pytest.raises(UserError, match=message):
        gpt_jax.load(run, draft=trained.folder(tmp_path / 'words', vocab_size=300))
    message = r"^draft: must have at least the model's context of 64, got 32 in .*short"
    with pytest.raises(UserError, match=message):
        gpt_jax.load(run, draft=trained.folder(tmp_path / 'short', context=32))


def test_run_and_its_export_can_draft_for_each_other(run, model, greedy_tokens, tmp_path):
    export_weights.export_weights(run, tmp_path / 'exported', default_config(), 'float32', print)
    drafted = gpt_jax.load(run, draft=tmp_path / 'exported')
    assert list_tokens(drafted.generate(PROMPTS, **GREEDY)) == greedy_tokens
    assert drafted.speculative_stats.accepted == drafted.speculative_stats.proposed > 0
    assert (
        gpt_jax.load(tmp_path / 'exported', draft=run).tokenizer.fingerprint
        != model.tokenizer.fingerprint
    )


@pytest.mark.parametrize(
    ('data', 'fsdp', 'tensor'),
    [
        (2, 2, 2),
        *(
            pytest.param(*axes, marks=pytest.mark.slow)
            for axes in ((8, 1, 1), (1, 8, 1), (2, 4, 1), (1, 1, 4))
        ),
    ],
)
def test_texts_do_not_depend_on_the_number_of_devices(
    run, model, greedy_tokens, data, fsdp, tensor
):
    sharded = gpt_jax.load(run, data=data, fsdp=fsdp, tensor=tensor)
    sampled = {'max_length': 40, 'temperature': 0.8, 'top_p': 0.9, 'num_return_sequences': 2}
    one, many = (lm.generate('The weather', **sampled) for lm in (model, sharded))
    assert list_tokens(one) == list_tokens(many)
    if data == 2:
        one, many = (lm.generate(PROMPTS, max_length=40, num_beams=3) for lm in (model, sharded))
        assert list_tokens(one) == list_tokens(many)
        np.testing.assert_allclose(
            sharded.logits('The weather'), model.logits('The weather'), atol=1e-4
        )
    else:
        assert list_tokens(sharded.generate(PROMPTS, **GREEDY)) == greedy_tokens


def test_more_devices_than_available_raise(run):
    message = r'^data x fsdp x tensor: must be at most 8 devices, got 9; [^-]* request fewer$'
    with pytest.raises(UserError, match=message):
        gpt_jax.load(run, data=9)


def test_an_empty_prompt_may_have_a_start_token(run, model):
    other = gpt_jax.load(run)
    other.pretrained = other.pretrained._replace(prefix_ids=(5,))
    texts = other.generate([''], max_new_tokens=3)
    assert texts[0].prompt == ''
    assert list_tokens(texts) == list_tokens(model.generate(['\x05'], max_new_tokens=3))
