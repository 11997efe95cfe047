"""Do prompts of any length share few shapes, and are those without room refused?"""

import numpy as np
import pytest

from gpt_jax.errors import UserError
from gpt_jax.generate import batching
from gpt_jax.generate.batching import Prompt
from gpt_jax.generate.decode import HALTED, RUNNING
from gpt_jax.generate.options import make

ENDS = np.zeros(50, bool)


def prompt(length):
    return Prompt('', np.arange(1, length + 1, dtype=np.int32))


def wanted(lengths, given=(), context=64):
    return batching.requests([prompt(length) for length in lengths], make(dict(given)), context)


@pytest.mark.parametrize(
    ('lengths', 'given', 'message'),
    [
        ([0], {}, 'the prompt is empty'),
        ([3, 0], {}, 'prompt 2: the prompt is empty'),
        ([9], {'max_length': 9}, 'max_length: 9 tokens, and the prompt alone has 9'),
        ([64], {}, "the prompt's 64 tokens fill the model's context of 64"),
        ([60], {'max_new_tokens': 5}, "60 tokens of the prompt and 5 new ones are more than the model's context of 64"),
        ([3], {'num_beams': 2, 'length_penalty': -30.0}, 'length_penalty: -30 makes scores of 61 tokens that float32'),
        ([60], {'max_length': 65}, '60 tokens of the prompt and 5 new ones'),
        ([3], {'min_length': 65}, "min_length: 65, and there is room for 61 tokens after the prompt's 3"),
        ([3, 60], {'min_new_tokens': 9}, 'prompt 2: min_new_tokens: 9, and there is room for 4 tokens after the'),
        ([3], {'min_new_tokens': 101, 'overflow': 'slide'}, 'min_new_tokens: 101, and there is room for 100 tokens'),
        ([30], {'min_new_tokens': 20, 'max_length': 40}, 'min_new_tokens: 20, and there is room for 10 tokens'),
    ],
)
def test_no_room_is_one_line(lengths, given, message):
    with pytest.raises(UserError) as error:
        wanted(lengths, given)
    assert str(error.value).startswith(message)


def test_limits_and_minima():
    assert [one.limit for one in wanted([3, 60])] == [64, 64]
    assert [one.limit for one in wanted([3, 9], {'max_new_tokens': 5})] == [8, 14]
    assert [one.limit for one in wanted([3, 9], {'max_length': 20})] == [20, 20]
    assert [one.limit for one in wanted([3, 90], {'overflow': 'slide'})] == [103, 190]
    assert [one.minimum for one in wanted([3, 9], {'min_length': 7})] == [7, 7]
    assert [one.minimum for one in wanted([3, 9], {'min_new_tokens': 7, 'min_length': 12})] == [12, 16]


def test_texts_of_a_prompt_stand_together_with_seeds_that_the_batch_does_not_decide():
    two = wanted([3, 4], {'num_return_sequences': 2, 'temperature': 1.0, 'seed': 9})
    assert [len(one.prompt.ids) for one in two] == [3, 3, 4, 4]
    three = wanted([3, 4], {'num_return_sequences': 3, 'temperature': 1.0, 'seed': 9})
    assert [one.seed for one in two] == [three[k].seed for k in (0, 1, 3, 4)]
    assert two[0].seed == 9


def test_shapes_are_rounded_up_and_what_fills_up_rests():
    made = batching.arrays(wanted([2, 20, 7], {'max_new_tokens': 9}), context=64, chunk=1, ways=1, ends_V=ENDS)
    assert made.read_BL.shape == (4, 32)
    assert made.texts.tokens_BL.shape == (4, 32)
    assert made.count_B.tolist() == [1, 19, 6, 0]
    assert made.texts.length_B.tolist() == [2, 20, 7, 1]
    assert made.texts.reason_B.tolist() == [RUNNING] * 3 + [HALTED]
    assert made.read_BL[1, :20].tolist() == [*range(1, 20), 0]
    assert made.texts.tokens_BL[1, :21].tolist() == [*range(1, 21), 0]
    assert made.sizes.room == 32


def test_rows_divide_over_devices_and_room_is_the_context_at_most():
    made = batching.arrays(wanted([50]), context=50 + 14, chunk=1, ways=3, ends_V=ENDS)
    assert made.read_BL.shape == (3, 64)
    made = batching.arrays(wanted([50], context=60), context=60, chunk=1, ways=1, ends_V=ENDS)
    assert made.read_BL.shape == (1, 60)
    assert made.sizes.room == 60


def test_the_last_of_several_batches_is_filled_up_to_the_others():
    made = batching.arrays(wanted([5]), context=64, chunk=1, ways=2, ends_V=ENDS, least=5)
    assert made.texts.reason_B.tolist() == [RUNNING, *[HALTED] * 5]


def test_one_token_is_read_in_no_prefill():
    made = batching.arrays(wanted([1]), context=64, chunk=1, ways=1, ends_V=ENDS)
    assert made.read_BL.shape == (1, 0)


def test_a_prompt_longer_than_the_context_is_read_from_its_last_half_context_on():
    made = batching.arrays(wanted([100], {'overflow': 'slide'}), context=64, chunk=1, ways=1, ends_V=ENDS)
    assert made.count_B.tolist() == [32]
    assert made.read_BL[0, :32].tolist() == list(range(68, 100))
    assert made.sizes.room == 64
    made = batching.arrays(wanted([64], {'overflow': 'slide'}), context=64, chunk=1, ways=1, ends_V=ENDS)
    assert made.count_B.tolist() == [63]


def test_texts_without_a_near_end_have_little_room_at_first():
    endless = wanted([3, 5000], {'overflow': 'slide', 'max_new_tokens': 2**30})
    made = batching.arrays(endless[:1], context=64, chunk=1, ways=1, ends_V=ENDS)
    assert made.texts.tokens_BL.shape == (1, 4096)
    assert (made.limit_B.tolist(), made.fixed.limit_B.tolist()) == ([3 + 2**30], [4096])
    made = batching.arrays(endless, context=64, chunk=1, ways=1, ends_V=ENDS)
    assert made.texts.tokens_BL.shape == (2, 8192)
    wider, limit_B = batching.grown(made.texts, np.array([2**30, 9000], np.int32))
    assert wider.tokens_BL.shape == wider.log_p_BL.shape == (2, 32768)
    assert np.array_equal(wider.tokens_BL[:, :8192], made.texts.tokens_BL)
    assert limit_B.tolist() == [32768, 9000]
