"""Are FLOPs and bytes those of the closed forms?"""

import gzip

import jax
import jax.numpy as jnp
import pytest

from gpt_jax.compiled.text import parse
from gpt_jax.compiled.work import moved
from tests.compiled import sample
from tests.compiled.test_loops import counted, text_of


def arrays(*shapes, dtype=jnp.float32):
    return [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]


@pytest.mark.parametrize(
    ('terms', 'left', 'right', 'expected'),
    [
        ('ab,bc->ac', (8, 16), (16, 4), 2 * 8 * 16 * 4),
        ('zab,zcb->zac', (3, 8, 16), (3, 4, 16), 2 * 3 * 8 * 16 * 4),
        ('abc,cbd->ad', (8, 2, 16), (16, 2, 4), 2 * 8 * 32 * 4),
    ],
)
def test_products(terms, left, right, expected):
    assert counted(text_of(lambda a, b: jnp.einsum(terms, a, b), *arrays(left, right)))[0] == expected


@pytest.mark.parametrize('padding', [((2, 1),), ((0, 0),)])
def test_a_convolution_counts_only_what_meets_an_input(padding):
    def function(x, w):
        return jax.lax.conv_general_dilated(x, w, (2,), padding, lhs_dilation=(3,))

    x, w = jnp.ones((2, 3, 11)), jnp.ones((5, 3, 4))
    taps = jax.lax.conv_general_dilated(x[:1, :1], w[:1, :1], (2,), padding, lhs_dilation=(3,)).sum()
    expected = 2 * 2 * 3 * 5 * int(taps)
    assert counted(text_of(function, *arrays(x.shape, w.shape)))[0] == expected


def bytes_of(text):
    program = parse(text)
    return sum(moved(program, program.entry, one) for one in program.entry.instructions)


def test_bytes_of_a_chain_that_is_fused_are_its_ends():
    given = arrays((256, 256))
    assert bytes_of(text_of(lambda x: jnp.tanh(x * 2 + 1) * x, *given)) == 2 * 256 * 256 * 4


def test_a_slice_moves_its_own_bytes():
    text = text_of(lambda x, at: jax.lax.dynamic_slice(x, (at, 0), (4, 256)) * 2.0, *arrays((4096, 256)), jnp.int32(3))
    assert 2 * 4 * 256 * 4 <= bytes_of(text) < 3 * 4 * 256 * 4


@pytest.mark.parametrize('machine', ['cpu', 'tpu'])
def test_the_sample_is_counted_alike_on_both(machine):
    if machine == 'tpu':
        text = gzip.decompress(sample.TEXT.read_bytes()).decode()
    else:
        text = sample.compiled(jax.devices()[:4]).as_text()
    assert counted(text) == (sample.flops(), [])
