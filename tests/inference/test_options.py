"""Generation options: defaults, parsing and checks."""

import dataclasses

import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.inference import options
from gpt_jax.inference.options import OPTIONS, GenerationOptions, make_options, parse_option


def test_every_option_has_a_field_and_a_valid_default():
    assert [field.name for field in dataclasses.fields(GenerationOptions)] == list(OPTIONS)
    defaults = {name: option.default for name, option in OPTIONS.items()}
    assert make_options({}) == GenerationOptions(**defaults)


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        ({'temprature': 1.0}, "temprature: no such option; the nearest is 'temperature'"),
        ({'temperature': -0.1}, 'temperature: must be 0 (greedy) or above, got -0.1'),
        ({'temperature': float('nan')}, 'temperature: must be 0'),
        ({'temperature': 'hot'}, "temperature: must be float, got 'hot'"),
        ({'top_p': 0.0}, 'top_p: must be in (0, 1], got 0.0'),
        ({'top_p': 1.1}, 'top_p: must be in (0, 1], got 1.1'),
        ({'top_k': -1}, 'top_k: must be at least 0, got -1'),
        ({'top_k': 2.5}, 'top_k: must be int, got 2.5'),
        ({'min_p': 2.0}, 'min_p: must be in [0, 1]'),
        ({'typical_p': 0.0}, 'typical_p: must be in (0, 1]'),
        ({'repetition_penalty': 0.0}, 'repetition_penalty: must be in [1e-6, 1e6), got 0.0'),
        ({'repetition_penalty': 1e-300}, 'repetition_penalty: must be in [1e-6, 1e6), got 1e-300'),
        ({'temperature': 0, 'top_p': 5}, 'top_p: must be in (0, 1], got 5.0'),
        ({'temperature': 10**400}, 'temperature: must be 0 (greedy) or above, got inf'),
        (
            {'max_new_tokens': 3 * 10**9},
            'max_new_tokens: must be at most 1073741824 (counts have 32 bits), got',
        ),
        (
            {'max_length': 10**15, 'context_overflow': 'sliding_window'},
            'max_length: must be at most 1073741824',
        ),
        ({'no_repeat_ngram_size': 10**400}, 'no_repeat_ngram_size: must be at most 1073741824'),
        ({'draft_tokens': 2**31}, 'draft_tokens: must be at most 1073741824 (counts have 32 bits)'),
        ({'seed': -1}, 'seed: must be in [0, 2^32)'),
        ({'stop': ('a', '')}, 'stop: must be non-empty strings'),
        ({'stop': 3}, 'stop: must be str or a list of str, got 3'),
        ({'stop_token_ids': (1, -2)}, 'stop_token_ids: must be token ids of at least 0'),
        (
            {'context_overflow': 'wrap'},
            "context_overflow: must be one of error, sliding_window, got 'wrap'",
        ),
        (
            {'early_stopping': 'soon', 'num_beams': 2},
            "early_stopping: must be one of False, True, 'never', got 'soon'",
        ),
        ({'early_stopping': 1, 'num_beams': 2}, 'early_stopping: must be one of False, True'),
        ({'early_stopping': 0.0, 'num_beams': 2}, 'early_stopping: must be one of False, True'),
        (
            {'early_stopping': ['never'], 'num_beams': 2},
            "early_stopping: must be one of False, True, 'never', got ['never']",
        ),
        (
            {'max_length': 10, 'max_new_tokens': 5},
            'max_length, max_new_tokens: give only one of them',
        ),
        (
            {'max_length': 10, 'min_length': 11},
            'min_length: must be at most max_length, 10, got 11',
        ),
        (
            {'max_new_tokens': 10, 'min_new_tokens': 11},
            'min_new_tokens: must be at most max_new_tokens, 10, got 11',
        ),
        ({'num_return_sequences': 2}, 'num_return_sequences: must be 1 for greedy decoding'),
        (
            {'num_return_sequences': 2, 'temperature': 0},
            'num_return_sequences: must be 1 for greedy decoding',
        ),
        (
            {'num_return_sequences': 3, 'num_beams': 2},
            'num_return_sequences: must be at most num_beams, 2, got 3',
        ),
        ({'num_beams': 2, 'temperature': 0.7}, 'num_beams: beam search does not sample'),
        ({'num_beams': 2, 'do_sample': True}, 'num_beams: beam search does not sample'),
        ({'num_beams': 2, 'stop': 'x'}, 'stop: beam search ends at token ids only'),
        (
            {'num_beams': 2, 'context_overflow': 'sliding_window'},
            'context_overflow: sliding_window cannot be combined with beam search',
        ),
        ({'length_penalty': 2.0}, 'length_penalty: only affects beam search'),
        ({'top_k': 4, 'do_sample': False}, 'top_k: only affects sampling'),
        ({'batch_size': 0}, 'batch_size: must be at least 1'),
    ],
)
def test_invalid_options_raise_one_line(given, message):
    with pytest.raises(UserError) as error:
        make_options(given)
    assert str(error.value).startswith(message)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('given', 'do_sample'),
    [
        ({}, False),
        ({'temperature': 1.0}, True),
        ({'top_k': 5}, True),
        ({'temperature': 0}, False),
        ({'temperature': 0, 'do_sample': True}, False),
        ({'do_sample': True}, True),
        ({'seed': 3}, False),
    ],
)
def test_any_sampling_option_enables_sampling(given, do_sample):
    assert make_options(given).do_sample is do_sample


@pytest.mark.parametrize(
    ('name', 'text', 'value'),
    [
        ('temperature', '0.8', 0.8),
        ('top_k', '40', 40),
        ('do_sample', 'True', True),
        ('stop', 'a,b', ('a,b',)),
        ('stop', r'\n\t\\n\d', ('\n\t\\n\\d',)),
        ('early_stopping', 'never', 'never'),
        ('early_stopping', 'true', True),
        ('eos_token_id', '5,7', (5, 7)),
    ],
)
def test_values_are_parsed_from_text(name, text, value):
    assert parse_option(name, text) == value
    assert isinstance(parse_option(name, text), type(value))


@pytest.mark.parametrize(
    ('name', 'text'), [('top_k', 'many'), ('do_sample', 'maybe'), ('eos_token_id', 'x'), ('k', '1')]
)
def test_invalid_text_raises(name, text):
    with pytest.raises(UserError, match=f'^{name}: '):
        parse_option(name, text)


def test_temperature_0_turns_off_all_sampling_options():
    greedy = make_options({'temperature': 0, 'top_p': 0.5})
    assert greedy.select_active(options.SAMPLING_OPTIONS) == ()
