"""FLOPs and bytes of instructions against closed forms."""

import jax
import jax.numpy as jnp
import pytest

from gpt_jax.preflight.estimate import count_bytes
from gpt_jax.preflight.hlo import parse_hlo
from tests.preflight import sample
from tests.preflight.test_hlo import compile_text, count_program_flops


def make_arrays(*shapes, dtype=jnp.float32):
    return [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]


@pytest.mark.parametrize(
    ('terms', 'left', 'right', 'expected'),
    [
        ('ab,bc->ac', (8, 16), (16, 4), 2 * 8 * 16 * 4),
        ('zab,zcb->zac', (3, 8, 16), (3, 4, 16), 2 * 3 * 8 * 16 * 4),
        ('abc,cbd->ad', (8, 2, 16), (16, 2, 4), 2 * 8 * 32 * 4),
    ],
)
def test_flops_of_products(terms, left, right, expected):
    text = compile_text(lambda a, b: jnp.einsum(terms, a, b), *make_arrays(left, right))
    assert count_program_flops(text)[0] == expected


@pytest.mark.parametrize('padding', [((2, 1),), ((0, 0),)])
def test_a_convolution_counts_only_taps_on_an_input(padding):
    def function(x, w):
        return jax.lax.conv_general_dilated(x, w, (2,), padding, lhs_dilation=(3,))

    x, w = jnp.ones((2, 3, 11)), jnp.ones((5, 3, 4))
    taps = function(x[:1, :1], w[:1, :1]).sum()
    expected = 2 * 2 * 3 * 5 * int(taps)
    text = compile_text(function, *make_arrays(x.shape, w.shape))
    assert count_program_flops(text)[0] == expected


def count_entry_bytes(text):
    program = parse_hlo(text)
    return sum(count_bytes(program, program.entry, each) for each in program.entry.instructions)


def test_a_fused_chain_moves_its_input_and_output():
    text = compile_text(lambda x: jnp.tanh(x * 2 + 1) * x, *make_arrays((256, 256)))
    assert count_entry_bytes(text) == 2 * 256 * 256 * 4


def test_a_slice_moves_its_own_bytes():
    text = compile_text(
        lambda x, start: jax.lax.dynamic_slice(x, (start, 0), (4, 256)) * 2.0,
        *make_arrays((4096, 256)),
        jnp.int32(3),
    )
    assert 2 * 4 * 256 * 4 <= count_entry_bytes(text) < 3 * 4 * 256 * 4


@pytest.mark.parametrize('platform', ['cpu', 'tpu'])
def test_flops_of_the_sample_on_both_platforms(platform):
    text = sample.read_text(platform)
    assert count_program_flops(text) == (sample.count_sample_flops(), [])
