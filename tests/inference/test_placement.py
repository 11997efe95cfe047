"""Weight dtypes of inference models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gpt_jax
from gpt_jax.core.errors import UserError
from gpt_jax.inference import placement
from gpt_jax.model.quantization import QuantizedWeight
from tests import trained
from tests.inference import engines
from tests.model.test_gpt import make_model


def test_float32_params_are_unchanged_and_the_stack_is_deleted():
    config = engines.config()
    params, _ = make_model(config)
    query = np.asarray(params['blocks']['attention']['query'])
    unstacked = placement.quantize_params(params, config, 'float32')
    np.testing.assert_array_equal(unstacked['block_1']['attention']['query'], query[1])
    assert params['blocks']['attention']['query'].is_deleted()


def test_quantized_matrices_are_smaller_and_vectors_unchanged():
    config = engines.config(width=64, norm='rms')
    size = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    params = {
        dtype: placement.quantize_params(make_model(config)[0], config, dtype)
        for dtype in placement.WEIGHT_CONVERTERS
    }
    for dtype, share in (('bfloat16', 0.5), ('int8', 0.27), ('int4', 0.17)):
        select = lambda tree: tree['block_0']['feedforward']['up']
        assert size(select(params[dtype])) <= share * size(select(params['float32']))
        assert params[dtype]['block_0']['norm_1']['scale'].dtype == jnp.float32
        assert params[dtype]['position']['table'].dtype == jnp.float32
    assert isinstance(params['int4']['embedding']['table_VD'], QuantizedWeight)


def test_unknown_weight_dtype():
    config = engines.config()
    message = "^weight_dtype: must be one of .*, int4, got 'int5'; the nearest is 'int8'$"
    with pytest.raises(UserError, match=message):
        placement.quantize_params(make_model(config)[0], config, 'int5')


@pytest.mark.parametrize('weight_dtype', ['bfloat16', 'int8', 'int4'])
def test_quantized_models_generate(tmp_path, weight_dtype):
    run = trained.folder(tmp_path / 'run', layers=1)
    model = gpt_jax.load(run, weight_dtype=weight_dtype)
    (text,) = model.generate('The weather', max_length=30)
    row = np.zeros((1, 64), np.int32)
    row[0, :30] = [*model.encode('The weather'), *text.tokens]
    logits = np.asarray(model._forward(model._params, row))[0, 10:29]
    assert list(text.tokens) == logits.argmax(1).tolist()
    if weight_dtype == 'int8':
        sharded = gpt_jax.load(run, weight_dtype=weight_dtype, fsdp=2)
        assert sharded.generate('The weather', max_length=30)[0].tokens == text.tokens
