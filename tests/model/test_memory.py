"""Are the bytes those of the real cache and of the compiled program?"""

import jax
import pytest

from gpt_jax.model import cache
from gpt_jax.model.memory import activation_bytes, cache_bytes
from tests.model import compiled
from tests.model.architectures import ARCHITECTURES


@pytest.mark.parametrize('name', ['gpt2', 'mistral', 'gpt3_banded', 'qwen3', 'sink'])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_cache_takes_the_bytes_of_its_arrays(model_config, name, dtype):
    config = model_config(**ARCHITECTURES[name], matmul_dtype=dtype)
    for batch, capacity, chunk in ((1, 100, 1), (3, 4, 2), (2, 8, 4)):
        kept = cache.empty(config, batch, capacity, chunk)
        assert cache_bytes(config, batch, capacity, chunk) == sum(leaf.nbytes for leaf in jax.tree.leaves(kept))


def temporaries(config, batch):
    """Bytes that the compiled gradient needs beside what it is given and gives back."""
    return compiled.gradient(config, batch).memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(('name', 'remat'), [('gpt2', 'none'), ('llama', 'dots'), ('experts', 'dots')])
def test_what_another_layer_keeps_is_what_it_adds_to_the_compiled_program(model_config, name, remat):
    """The whole of both programs also holds what is at work, which is the same in both."""
    shape = {'width': 64, 'scan_layers': True, 'remat': remat}
    two, four = (model_config(**ARCHITECTURES[name] | shape | {'layers': n}) for n in (2, 4))
    counted = activation_bytes(four, 8) - activation_bytes(two, 8)
    held = temporaries(two, 8)
    assert temporaries(four, 8) - held == pytest.approx(counted, rel=0.01)
    assert held > activation_bytes(two, 8)


def test_a_policy_keeps_the_products_or_the_blocks_inputs_alone(model_config):
    """In units of one activation [B, L, D], in bytes of its type; the vectors of a norm or softmax count nothing."""
    layer = {}
    for remat in ('none', 'dots', 'block'):
        few, many = (model_config(layers=n, remat=remat, activation_dtype='bfloat16') for n in (2, 3))
        layer[remat] = (activation_bytes(many, 4) - activation_bytes(few, 4)) / (4 * 16 * 32 * 2)
    assert layer['block'] == 1
    assert layer['dots'] == 1 + 3 + 1 + 4  # its input; query, key, value; attention's output; the hidden units
    assert layer['none'] > 2 * layer['dots']


def test_the_batch_counts_in_proportion(model_config):
    one, two, three = (activation_bytes(model_config(dropout=0.1), n) for n in (1, 2, 3))
    assert three - two == two - one > 0
