"""Are a model's weights kept as asked, and is nothing of what they were made from left?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gpt_jax
from gpt_jax import inference
from gpt_jax.errors import UserError
from gpt_jax.model.quantized import Quantized
from tests import trained
from tests.generate import writing
from tests.model.test_gpt import make


def test_float32_is_the_weights_themselves():
    config = writing.config()
    params, _ = make(config)
    query = np.asarray(params['blocks']['attention']['query'])
    kept = inference.kept_as(params, config, 'float32')
    np.testing.assert_array_equal(kept['block_1']['attention']['query'], query[1])
    assert params['blocks']['attention']['query'].is_deleted()


def test_matrices_take_fewer_bytes_and_vectors_stay():
    config = writing.config(width=64, norm='rms')
    size = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves(tree))  # noqa: E731
    made = {kind: inference.kept_as(make(config)[0], config, kind) for kind in inference.WEIGHTS}
    for kind, share in (('bfloat16', 0.5), ('int8', 0.27), ('int4', 0.17)):
        part = lambda kept: kept['block_0']['feedforward']['up']  # noqa: E731
        assert size(part(made[kind])) <= share * size(part(made['float32']))
        assert made[kind]['block_0']['norm_1']['scale'].dtype == jnp.float32
        assert made[kind]['position']['table'].dtype == jnp.float32
    assert isinstance(made['int4']['embedding']['table_VD'], Quantized)


def test_no_such_kind():
    config = writing.config()
    with pytest.raises(
        UserError, match="weights: no 'int5'; one of float32, bfloat16, int8, int4; the nearest is 'int8'"
    ):
        inference.kept_as(make(config)[0], config, 'int5')


@pytest.mark.parametrize('weights', ['bfloat16', 'int8', 'int4'])
def test_a_model_in_few_bits_writes(tmp_path, weights):
    run = trained.folder(tmp_path / 'run', layers=1)
    model = gpt_jax.load(run, weights=weights)
    (text,) = model.generate('The weather', max_length=30)
    row = np.zeros((1, 64), np.int32)
    row[0, :30] = [*model.encode('The weather'), *text.tokens]
    assert list(text.tokens) == np.asarray(model._full(model._params, row))[0, 10:29].argmax(1).tolist()
    if weights == 'int8':
        spread = gpt_jax.load(run, weights=weights, fsdp=2)
        assert spread.generate('The weather', max_length=30)[0].tokens == text.tokens
