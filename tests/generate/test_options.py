"""Are options that make no sense refused in one line, and the others read as they are meant?"""

import dataclasses

import pytest

from gpt_jax.errors import UserError
from gpt_jax.generate import options
from gpt_jax.generate.options import OPTIONS, Options, make, parsed


def test_every_option_has_a_field_and_a_default_that_is_good():
    assert [field.name for field in dataclasses.fields(Options)] == list(OPTIONS)
    assert make({}) == Options(**{name: option.default for name, option in OPTIONS.items()})


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        ({'temprature': 1.0}, "temprature: no such option; the nearest is 'temperature'"),
        ({'temperature': -0.1}, 'temperature: must be 0 (the likeliest token) or above, got -0.1'),
        ({'temperature': float('nan')}, 'temperature: must be 0'),
        ({'temperature': 'hot'}, "temperature: wants float, got 'hot'"),
        ({'top_p': 0.0}, 'top_p: must be in (0, 1], got 0.0'),
        ({'top_p': 1.1}, 'top_p: must be in (0, 1], got 1.1'),
        ({'top_k': -1}, 'top_k: must be 0 or above, got -1'),
        ({'top_k': 2.5}, 'top_k: wants int, got 2.5'),
        ({'min_p': 2.0}, 'min_p: must be in [0, 1]'),
        ({'typical_p': 0.0}, 'typical_p: must be in (0, 1]'),
        ({'repetition_penalty': 0.0}, 'repetition_penalty: must be above 0'),
        ({'repetition_penalty': 1e-300}, 'repetition_penalty: must be above 0, by 1e-6 at least, got 1e-300'),
        ({'temperature': 0, 'top_p': 5}, 'top_p: must be in (0, 1], got 5.0'),
        ({'temperature': 10**400}, 'temperature: must be 0 (the likeliest token) or above, got inf'),
        ({'max_new_tokens': 3 * 10**9}, 'max_new_tokens: must be at most 1073741824 (counts have 32 bits), got'),
        ({'max_length': 10**15, 'overflow': 'slide'}, 'max_length: must be at most 1073741824'),
        ({'no_repeat_ngram_size': 10**400}, 'no_repeat_ngram_size: must be at most 1073741824'),
        ({'draft_tokens': 2**31}, 'draft_tokens: must be at most 1073741824, got 2147483648'),
        ({'seed': -1}, 'seed: must be in [0, 2^32)'),
        ({'stop': ('a', '')}, 'stop: must be strings that are not empty'),
        ({'stop': 3}, 'stop: wants str or several of them, got 3'),
        ({'stop_token_ids': (1, -2)}, 'stop_token_ids: must be ids, 0 or above'),
        ({'overflow': 'wrap'}, 'overflow: must be one of refuse, slide'),
        ({'early_stopping': 'soon', 'num_beams': 2}, "early_stopping: 'soon'; one of False, True, 'never'"),
        ({'early_stopping': 1, 'num_beams': 2}, "early_stopping: 1; one of False, True, 'never'"),
        ({'early_stopping': 0.0, 'num_beams': 2}, "early_stopping: 0.0; one of False, True, 'never'"),
        ({'early_stopping': ['never'], 'num_beams': 2}, "early_stopping: ['never']; one of False"),
        ({'max_length': 10, 'max_new_tokens': 5}, 'max_length, max_new_tokens: give one of them'),
        ({'max_length': 10, 'min_length': 11}, 'min_length: 11 is above max_length, 10'),
        ({'max_new_tokens': 10, 'min_new_tokens': 11}, 'min_new_tokens: 11 is above max_new_tokens, 10'),
        ({'num_return_sequences': 2}, 'num_return_sequences: 2 texts of the likeliest tokens are all the same'),
        ({'num_return_sequences': 2, 'temperature': 0}, 'num_return_sequences: 2 texts of the likeliest'),
        ({'num_return_sequences': 3, 'num_beams': 2}, 'num_return_sequences: 3 texts from 2 beams'),
        ({'num_beams': 2, 'temperature': 0.7}, 'num_beams: beams draw nothing at random'),
        ({'num_beams': 2, 'do_sample': True}, 'num_beams: beams draw nothing at random'),
        ({'num_beams': 2, 'stop': 'x'}, 'stop: beams end at ids alone'),
        ({'num_beams': 2, 'overflow': 'slide'}, 'overflow: beams cannot slide'),
        ({'length_penalty': 2.0}, 'length_penalty: is for beam search'),
        ({'top_k': 4, 'do_sample': False}, 'top_k: is for sampling'),
        ({'batch_size': 0}, 'batch_size: must be 1 or above'),
    ],
)  # fmt: skip
def test_bad_options_are_one_line(given, message):
    with pytest.raises(UserError) as error:
        make(given)
    assert str(error.value).startswith(message)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('given', 'drawn'),
    [({}, False), ({'temperature': 1.0}, True), ({'top_k': 5}, True), ({'temperature': 0}, False),
     ({'temperature': 0, 'do_sample': True}, False), ({'do_sample': True}, True), ({'seed': 3}, False)],
)  # fmt: skip
def test_tokens_are_drawn_where_an_option_of_sampling_is_given(given, drawn):
    assert make(given).do_sample is drawn


@pytest.mark.parametrize(
    ('name', 'text', 'value'),
    [('temperature', '0.8', 0.8), ('top_k', '40', 40), ('do_sample', 'True', True), ('stop', 'a,b', ('a,b',)),
     ('stop', r'\n\t\\n\d', ('\n\t\\n\\d',)),
     ('early_stopping', 'never', 'never'), ('early_stopping', 'true', True), ('eos_token_id', '5,7', (5, 7))],
)  # fmt: skip
def test_values_are_read_from_text(name, text, value):
    assert parsed(name, text) == value
    assert isinstance(parsed(name, text), type(value))


@pytest.mark.parametrize(
    ('name', 'text'), [('top_k', 'many'), ('do_sample', 'maybe'), ('eos_token_id', 'x'), ('k', '1')]
)
def test_a_text_that_is_no_value_is_refused(name, text):
    with pytest.raises(UserError, match=f'^{name}: '):
        parsed(name, text)


def test_greedy_takes_no_part_of_sampling():
    zero = make({'temperature': 0, 'top_p': 0.5})
    assert zero.changed(options.WARPS) == ()
