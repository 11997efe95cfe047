"""Are the closed forms the real counts?"""

import itertools

import jax
import jax.numpy as jnp
import pytest

from gpt_jax import assemble, trees
from gpt_jax.model import accounting, weights
from gpt_jax.parallel.place import ANYWHERE

FIELDS = [
    dict(zip(('norm', 'bias', 'tied_head', 'position', 'kv_heads', 'vocab_multiple'), values, strict=True))
    for values in itertools.product(
        ('layer', 'rms'), (True, False), (True, False), ('learned', 'none'), (4, 1), (1, 64)
    )
]


@pytest.mark.parametrize('fields', FIELDS, ids=str)
def test_parameters_equal_the_tree(model_config, fields):
    config = model_config(**fields)
    tree = weights.unbox(assemble.declarations(config))
    counts = accounting.parameters(config)
    assert counts['padded_total'] == trees.size(tree)
    assert counts['non_embedding'] == trees.size(tree['blocks']) + trees.size(tree['norm'])


def test_gpt2_flops_per_token(model_config):
    config = model_config(layers=12, width=768, heads=12, vocab_size=50_257, context=1_024)
    assert accounting.parameters(config)['total'] == 124_439_808
    flops = accounting.flops_per_token(config)
    assert (flops['6N'], flops['with_attention'], flops['causal']) == (741_920_256, 855_166_464, 798_543_360)


def test_flops_equal_the_compiled_program(model_config):
    """The compiler counts every matrix product, and the smaller work around them, which is the gap allowed."""
    config = model_config(layers=2, width=256, heads=2, vocab_size=512, context=128)
    loss = assemble.summed_loss(config, ANYWHERE, train=True)
    params = jax.eval_shape(assemble.form(config).enter, weights.unbox(assemble.declarations(config)))
    batch = {'inputs': jax.ShapeDtypeStruct((4, 128), jnp.int32), 'targets': jax.ShapeDtypeStruct((4, 128), jnp.int32)}
    key = jax.eval_shape(lambda: jax.random.key(0))
    step = jax.jit(jax.grad(lambda p, b, k: loss(p, b, k)[0])).lower(params, batch, key).compile()
    counted = step.cost_analysis()['flops'] / (4 * 128)
    assert counted == pytest.approx(accounting.flops_per_token(config)['with_attention'], rel=0.08)
