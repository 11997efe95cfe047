"""Request validation and rounded batch shapes."""

import numpy as np
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.inference import batching
from gpt_jax.inference.batching import TokenizedPrompt
from gpt_jax.inference.decode import HALTED, RUNNING
from gpt_jax.inference.options import make_options

SLIDING = {'context_overflow': 'sliding_window'}


def make_requests(lengths, given=(), context=64):
    prompts = [TokenizedPrompt('', np.arange(1, length + 1, dtype=np.int32)) for length in lengths]
    return batching.make_requests(prompts, make_options(dict(given)), context)


def make_batch(requests, *, context=64, row_shards=1, min_rows=1):
    return batching.make_batch(
        requests,
        context=context,
        chunk=1,
        row_shards=row_shards,
        is_end_V=np.zeros(50, bool),
        min_rows=min_rows,
    )


@pytest.mark.parametrize(
    ('lengths', 'given', 'message'),
    [
        ([0], {}, 'the prompt must have at least one token'),
        ([3, 0], {}, 'prompt 2: the prompt must have at least one token'),
        ([9], {'max_length': 9}, 'max_length: must be above 9, the length of the prompt, got 9'),
        ([64], {}, "the prompt's 64 tokens fill the model's context of 64"),
        (
            [60],
            {'max_new_tokens': 5},
            "60 prompt tokens and 5 new tokens exceed the model's context of 64",
        ),
        (
            [3],
            {'num_beams': 2, 'length_penalty': -30.0},
            'length_penalty: must be in [-16.8, 16.8] for 61 new tokens, got -30; beyond',
        ),
        ([60], {'max_length': 65}, '60 prompt tokens and 5 new tokens exceed'),
        (
            [3],
            {'min_length': 65},
            'min_length: must be reachable with 3 prompt tokens and 61 new tokens, got 65',
        ),
        (
            [3, 60],
            {'min_new_tokens': 9},
            'prompt 2: min_new_tokens: must be reachable with 60 prompt tokens and 4 new tokens',
        ),
        (
            [3],
            {'min_new_tokens': 101, **SLIDING},
            'min_new_tokens: must be reachable with 3 prompt tokens and 100 new tokens, got 101',
        ),
        (
            [30],
            {'min_new_tokens': 20, 'max_length': 40},
            'min_new_tokens: must be reachable with 30 prompt tokens and 10 new tokens, got 20',
        ),
    ],
)
def test_requests_without_room_raise_one_line(lengths, given, message):
    with pytest.raises(UserError) as error:
        make_requests(lengths, given)
    assert str(error.value).startswith(message)


def test_length_limits():
    def max_lengths(lengths, given=()):
        return [request.max_length for request in make_requests(lengths, given)]

    def min_lengths(given):
        return [request.min_length for request in make_requests([3, 9], given)]

    assert max_lengths([3, 60]) == [64, 64]
    assert max_lengths([3, 9], {'max_new_tokens': 5}) == [8, 14]
    assert max_lengths([3, 9], {'max_length': 20}) == [20, 20]
    assert max_lengths([3, 90], SLIDING) == [103, 190]
    assert min_lengths({'min_length': 7}) == [7, 7]
    assert min_lengths({'min_new_tokens': 7, 'min_length': 12}) == [12, 16]


def test_seeds_do_not_depend_on_the_number_of_texts():
    two = make_requests([3, 4], {'num_return_sequences': 2, 'temperature': 1.0, 'seed': 9})
    assert [len(request.prompt.ids) for request in two] == [3, 3, 4, 4]
    three = make_requests([3, 4], {'num_return_sequences': 3, 'temperature': 1.0, 'seed': 9})
    assert [request.seed for request in two] == [three[k].seed for k in (0, 1, 3, 4)]
    assert two[0].seed == 9


def test_shapes_are_rounded_up_and_padding_rows_are_halted():
    batch = make_batch(make_requests([2, 20, 7], {'max_new_tokens': 9}))
    assert batch.prefill_BL.shape == (4, 32)
    assert batch.sequences.tokens_BL.shape == (4, 32)
    assert batch.count_B.tolist() == [1, 19, 6, 0]
    assert batch.sequences.length_B.tolist() == [2, 20, 7, 1]
    assert batch.sequences.status_B.tolist() == [RUNNING] * 3 + [HALTED]
    assert batch.prefill_BL[1, :20].tolist() == [*range(1, 20), 0]
    assert batch.sequences.tokens_BL[1, :21].tolist() == [*range(1, 21), 0]
    assert batch.cache_shape.capacity == 32


def test_rows_are_divisible_by_devices_and_capacity_is_at_most_the_context():
    batch = make_batch(make_requests([50]), row_shards=3)
    assert batch.prefill_BL.shape == (3, 64)
    batch = make_batch(make_requests([50], context=60), context=60)
    assert batch.prefill_BL.shape == (1, 60)
    assert batch.cache_shape.capacity == 60


def test_last_batch_is_padded_to_the_size_of_the_others():
    batch = make_batch(make_requests([5]), row_shards=2, min_rows=5)
    assert batch.sequences.status_B.tolist() == [RUNNING, *[HALTED] * 5]


def test_prompt_of_one_token_has_no_prefill():
    assert make_batch(make_requests([1])).prefill_BL.shape == (1, 0)


def test_prompt_longer_than_the_context_is_read_from_its_last_half_context():
    batch = make_batch(make_requests([100], SLIDING))
    assert batch.count_B.tolist() == [32]
    assert batch.prefill_BL[0, :32].tolist() == list(range(68, 100))
    assert batch.cache_shape.capacity == 64
    assert make_batch(make_requests([64], SLIDING)).count_B.tolist() == [63]


def test_capacity_of_long_texts_grows():
    requests = make_requests([3, 5000], SLIDING | {'max_new_tokens': 2**30})
    batch = make_batch(requests[:1])
    assert batch.sequences.tokens_BL.shape == (1, 4096)
    assert batch.max_length_B.tolist() == [3 + 2**30]
    assert batch.settings.max_length_B.tolist() == [4096]
    batch = make_batch(requests)
    assert batch.sequences.tokens_BL.shape == (2, 8192)
    grown, max_length_B = batching.grow_capacity(batch.sequences, np.array([2**30, 9000], np.int32))
    assert grown.tokens_BL.shape == grown.log_p_BL.shape == (2, 32768)
    assert np.array_equal(grown.tokens_BL[:, :8192], batch.sequences.tokens_BL)
    assert max_length_B.tolist() == [32768, 9000]
