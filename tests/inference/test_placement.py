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
    config = engines.config(layers=1, width=64, norm='rms')
    size = lambda tree: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
    params, _ = make_model(config)
    up = params['blocks']['feedforward']['up'][0]
    for dtype, share in (('bfloat16', 0.5), ('int8', 0.27), ('int4', 0.17)):
        convert = placement.WEIGHT_CONVERTERS[dtype]
        converted = jax.eval_shape(lambda up, convert=convert: convert(up, 'DF'), up)
        assert size(converted) <= share * size(up)
    converted = placement.quantize_params(params, config, 'int4')
    assert isinstance(converted['block_0']['feedforward']['up'], QuantizedWeight)
    assert isinstance(converted['embedding']['table_VD'], QuantizedWeight)
    assert converted['block_0']['norm_1']['scale'].dtype == jnp.float32
    assert converted['position']['table'].dtype == jnp.float32


def test_unknown_weight_dtype():
    config = engines.config()
    message = "^weight_dtype: must be one of .*, int4, got 'int5'; the nearest is 'int8'$"
    with pytest.raises(UserError, match=message):
        placement.quantize_params(make_model(config)[0], config, 'int5')


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return trained.folder(tmp_path_factory.mktemp('runs') / 'run', layers=1)


@pytest.mark.parametrize(
    'weight_dtype', ['bfloat16', pytest.param('int8', marks=pytest.mark.slow), 'int4']
)
def test_quantized_models_generate(run, weight_dtype):
    # test_scoring.py reads quantized weights on one device.
    model = gpt_jax.load(run, weight_dtype=weight_dtype, fsdp=2 if 'int' in weight_dtype else 1)
    (text,) = model.generate('The weather', max_length=30)
    rows = np.zeros((2, 64), np.int32)
    rows[:, :30] = [*model.encode('The weather'), *text.tokens]
    logits = np.asarray(model._forward(model._params, rows))[0, 10:29]
    assert list(text.tokens) == logits.argmax(1).tolist()
