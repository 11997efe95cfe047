"""Does a matrix that lies the other way give the same product, in every kind, for one row and for several?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax import inference
from gpt_jax.generate import rounds
from gpt_jax.generate.decode import Model
from gpt_jax.model.products import einsum
from gpt_jax.model.quantized import SUMMED
from gpt_jax.model.turned import Turned, across, turnable, turned
from gpt_jax.parallel.place import ANYWHERE
from tests.generate import writing
from tests.model.architectures import ARCHITECTURES
from tests.model.test_gpt import make

SIZES = {'D': 24, 'H': 4, 'G': 2, 'K': 6, 'F': 32, 'U': 16}
TERMS = {'DHK': 'BLD,DHK->BLHK', 'DGK': 'BLD,DGK->BLGK', 'HKD': 'BLHK,HKD->BLD', 'DF': 'BLD,DF->BLF',
         'FD': 'BLF,FD->BLD', 'DU': 'BLD,DU->BLU', 'UD': 'BLU,UD->BLD'}  # fmt: skip


def random(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize('letters', TERMS)
def test_every_weight_that_is_turned_gives_the_product_of_the_weight(model_config, letters):
    config = model_config()
    weight = random(0, *(SIZES[letter] for letter in letters))
    a = random(1, 2, 3, *weight.shape[: len(SUMMED[letters])])
    kept = Turned(turned(weight, letters), weight.shape)
    expected = einsum(TERMS[letters], a, weight, config)
    np.testing.assert_allclose(einsum(TERMS[letters], a, kept, config), expected, rtol=1e-5, atol=1e-5)


def test_what_is_looked_up_or_routed_is_not_turned():
    assert {letters for letters in SUMMED if turnable(letters)} == set(TERMS)
    assert not turnable('LD')


@pytest.mark.parametrize('rows', [1, 5])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('kind', inference.WEIGHTS)
def test_rows_meet_the_matrix_in_float64(rows, dtype, kind):
    x, w = random(2, rows, 64), random(3, 40, 64)
    kept = inference.WEIGHTS[kind](w, 'VD')
    exact = [
        np.asarray(jnp.asarray(a).astype(dtype).astype(jnp.float32), np.float64) for a in (x, kept.astype('float32'))
    ]
    found = jax.jit(lambda x, kept: across(x, kept, dtype) + 1)(x, kept)
    assert found.dtype == jnp.float32
    near = 2e-5 if dtype == 'float32' else 0.1  # where the operands are rounded is the compiler's business
    np.testing.assert_allclose(found, exact[0] @ exact[1].T + 1, atol=near)


@pytest.mark.parametrize('name', ['gpt2', 'llama'])
@pytest.mark.parametrize('texts', [1, 3])
def test_a_model_writes_the_same_with_its_matrices_turned(name, texts):
    config = writing.config(**ARCHITECTURES[name])
    written = []
    for turn in (False, True):
        params = inference.kept_as(make(config)[0], config, 'float32', turn)
        device = rounds.device(Model(config, ANYWHERE), params, None, writing.on_device, writing.on_device)
        written.append(writing.ids(writing.write(device, writing.prompts(*[3, 5, 4][:texts]), max_length=16)))
    assert written[0] == written[1]
