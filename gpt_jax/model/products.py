"""How does a weight meet the activations? A matrix is multiplied with them, a vector is spread over them.

Both have gradients of our own, for JAX's rules give a CPU the slowest forms: a weight's gradient with its first operand
transposed in memory, and a vector's as a sum that XLA cuts into windows. Here the one is a product of two matrices as
they lie, and the other a product with ones; experiments/cpu_speed/forms.py times them. A TPU's compiler is given the
dims as they are: it lays a product's result out as whoever comes next wants it, where a reshape would be a copy.

Each operand's gradient is computed where somebody asks for it: a weight that is not trained costs no product, and what
that would be made of is not kept.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from gpt_jax.model.config import ModelConfig
from gpt_jax.model.lowrank import Adapted, between
from gpt_jax.model.quantized import Quantized, operand
from gpt_jax.model.turned import Turned, across
from gpt_jax.model.wanted import arrays, typed, values

PRODUCT = 'product'  # names the results, in `activation_dtype`, for the policy of rematerialization that keeps them

_product = functools.partial(jax.lax.dot_general, preferred_element_type=jnp.float32)


def einsum(terms: str, a: jax.Array, b: Any, config: ModelConfig) -> jax.Array:
    """A matrix product with operands in `matmul_dtype`, sums in float32, the result in `activation_dtype`.

    Args:
      terms: as for jnp.einsum; the letters summed over are the last of `a` and the first of `b`.
      b: a weight, also a quantized or a turned one, which has no gradient, or one with an adapter.
    """
    if not isinstance(b, Adapted):
        return checkpoint_name(_einsum(terms, a, b, config), PRODUCT)
    down, up = between(terms)
    h = checkpoint_name(_einsum(down, b.dropped(a), b.a, config), PRODUCT)
    y = _einsum(terms, a, b.w, config) + _einsum(up, _times(h, b.scale), b.b, config)
    return checkpoint_name(y, PRODUCT)


def _times(h: jax.Array, scale: jax.Array) -> jax.Array:
    return h * scale.astype(h.dtype)


def _multiplied(terms: str, a: jax.Array, b: Any, config: ModelConfig) -> jax.Array:
    inner = _summed(terms)
    if isinstance(b, Turned):
        y = across(a.reshape(-1, math.prod(b.shape[:inner])), b.w_2d, config.matmul_dtype)
    else:
        b, scale = operand(b, config.matmul_dtype)
        y = _dims(terms, a, b, config)
        y = y if scale is None else y * scale.reshape(y.shape[a.ndim - inner :])
    return y.astype(config.activation_dtype).reshape(*a.shape[: a.ndim - inner], *b.shape[inner:])


_einsum = jax.custom_vjp(_multiplied, nondiff_argnums=(0, 3))


class Kept(NamedTuple):
    """For the backward pass. a, b: what goes into the other's gradient. like_a, like_b: of those whose gradients are
    wanted; all else is None."""

    a: Any
    b: Any
    like_a: jax.Array | None
    like_b: jax.Array | None


def _keep(a: Any, b: Any) -> tuple[Any, Any, Kept]:
    """(a, b, what is kept of them), of operands as the forward pass gets them."""
    (a, b), (want_a, want_b) = values((a, b))
    kept = Kept(a=None, b=None, like_a=None, like_b=None)
    kept = kept._replace(b=b, like_a=typed(a)) if want_a else kept
    return a, b, kept._replace(a=a, like_b=typed(b)) if want_b else kept


def _einsum_forward(terms: str, a: Any, b: Any, config: ModelConfig) -> tuple[jax.Array, Kept]:
    a, b, kept = _keep(a, b)
    return _multiplied(terms, a, b, config), kept


def _einsum_backward(terms: str, config: ModelConfig, kept: Kept, dy: Any) -> tuple[Any, Any]:
    dy = arrays(dy)
    da = None if kept.like_a is None else _dims(terms, dy, kept.b, config, 'a').astype(kept.like_a.dtype)
    db = None if kept.like_b is None else _dims(terms, kept.a, dy, config, 'b').astype(kept.like_b.dtype)
    return da, db


_einsum.defvjp(_einsum_forward, _einsum_backward, symbolic_zeros=True)


def _summed(terms: str) -> int:
    """How many letters are summed over; raises ValueError where they are not the last and the first."""
    inputs, output = terms.split('->')
    left, right = inputs.split(',')
    count = sum(letter in right for letter in left)
    if left[len(left) - count :] != right[:count] or output != left[: len(left) - count] + right[count:]:
        raise ValueError(f"einsum('{terms}'): wants 'xs,sy->xy', s being the letters that are summed over")
    return count


def _dims(terms: str, a: jax.Array, b: jax.Array, config: ModelConfig, wanted: str = 'y') -> jax.Array:
    """Of `terms` as for y = einsum(terms, a, b), float32: y, or the gradient 'a' from (dy, b), or 'b' from (a, dy)."""
    inputs, y = terms.split('->')
    left, right = inputs.split(',')
    straight = {'y': terms, 'a': f'{y},{right}->{left}', 'b': f'{left},{y}->{right}'}[wanted]
    return jax.lax.platform_dependent(
        a.astype(config.matmul_dtype), b.astype(config.matmul_dtype),
        tpu=functools.partial(jnp.einsum, straight, preferred_element_type=jnp.float32),
        default=functools.partial(_by_matrices, summed=_summed(terms), wanted=wanted),
    )  # fmt: skip


def _by_matrices(a: jax.Array, b: jax.Array, *, summed: int, wanted: str) -> jax.Array:
    """The same as one product of two matrices, as they lie."""
    if wanted == 'y':
        a_2d, b_2d = _matrix(a, a.ndim - summed), _matrix(b, summed)
        return _product(a_2d, b_2d, (((1,), (0,)), ((), ()))).reshape(*a.shape[: a.ndim - summed], *b.shape[summed:])
    if wanted == 'a':
        rest = a.ndim - (b.ndim - summed)  # dy and b
        a_2d, b_2d = _matrix(a, rest), _matrix(b, summed)
        return _product(a_2d, b_2d, (((1,), (1,)), ((), ()))).reshape(*a.shape[:rest], *b.shape[:summed])
    rest = a.ndim - summed  # a and dy
    a_2d, b_2d = _matrix(a, rest), _matrix(b, rest)
    return _product(a_2d, b_2d, (((0,), (0,)), ((), ()))).reshape(*a.shape[rest:], *b.shape[rest:])


def _matrix(a: jax.Array, rows: int) -> jax.Array:
    """The first `rows` dims become one, and the others."""
    return a.reshape(math.prod(a.shape[:rows]), -1)


def grouped(a: jax.Array, w: Any, owner_P: jax.Array | None, config: ModelConfig) -> jax.Array:
    """Blocks of rows, each multiplied with the matrix of its expert: [P, C, x], [E, x, y] -> [P, C, y].

    Args:
      w: as in `einsum`.
      owner_P: int32, ascending: the expert of each block. None: block p is expert p's.
    """
    if not isinstance(w, Adapted):
        return checkpoint_name(_grouped_product(a, w, owner_P, config), PRODUCT)
    h = checkpoint_name(_grouped_product(w.dropped(a), w.a, owner_P, config), PRODUCT)
    y = _grouped_product(a, w.w, owner_P, config) + _grouped_product(_times(h, w.scale), w.b, owner_P, config)
    return checkpoint_name(y, PRODUCT)


def _grouped_multiplied(a: jax.Array, w: Any, owner_P: jax.Array | None, config: ModelConfig) -> jax.Array:
    if not isinstance(w, Quantized) or owner_P is None:  # a quantized expert becomes an array when its turn is
        w = w.astype(config.matmul_dtype)
    return _grouped(a.astype(config.matmul_dtype), w, owner_P, 1).astype(config.activation_dtype)


_grouped_product = jax.custom_vjp(_grouped_multiplied, nondiff_argnums=(3,))


def _grouped_forward(a: Any, w: Any, owner_P: Any, config: ModelConfig) -> tuple[jax.Array, Any]:
    a, w, kept = _keep(a, w)
    (owner_P,), _ = values((owner_P,))
    return _grouped_multiplied(a, w, owner_P, config), (kept, owner_P)


def _grouped_backward(config: ModelConfig, residuals: Any, dy: Any) -> tuple[Any, Any, None]:
    kept, owner_P = residuals
    dy = arrays(dy).astype(config.matmul_dtype)
    da = dw = None
    if kept.like_a is not None:
        da = _grouped(dy, kept.b.astype(config.matmul_dtype), owner_P, 2).astype(kept.like_a.dtype)
    if kept.like_b is not None:
        a = kept.a.astype(config.matmul_dtype)
        dw = _grouped_outer(a, dy, owner_P, kept.like_b.shape[1]).astype(kept.like_b.dtype)
    return da, dw, None


_grouped_product.defvjp(_grouped_forward, _grouped_backward, symbolic_zeros=True)


def _grouped(a: jax.Array, w: jax.Array, owner_P: jax.Array | None, inner: int) -> jax.Array:
    """Sums over dim `inner` of w; float32."""
    if owner_P is None:
        return _product(a, w, (((2,), (inner,)), ((0,), (0,))))
    platforms = {'tpu': _ragged, 'default': _looped}
    calls = {name: functools.partial(function, inner=inner) for name, function in platforms.items()}
    return jax.lax.platform_dependent(a, w, owner_P, **calls)


def _looped(a: jax.Array, w: jax.Array, owner_P: jax.Array, *, inner: int) -> jax.Array:
    """Block by block. Elsewhere than on a TPU, XLA makes of a ragged product one of every row with every expert."""

    def one(block: tuple[jax.Array, jax.Array]) -> jax.Array:
        return _product(block[0], w[block[1]].astype(a.dtype), (((1,), (inner - 1,)), ((), ())))

    return jax.lax.map(one, (a, owner_P))


def _ragged(a: jax.Array, w: jax.Array, owner_P: jax.Array, *, inner: int) -> jax.Array:
    dims = jax.lax.RaggedDotDimensionNumbers((((1,), (inner,)), ((), ())), [0], [0])
    y = _ragged_product(a.reshape(-1, a.shape[-1]), w.astype(a.dtype), _sizes(a, owner_P, len(w)), dims)
    return y.reshape(*a.shape[:2], -1)


_ragged_product = functools.partial(jax.lax.ragged_dot_general, preferred_element_type=jnp.float32)


def _sizes(a: jax.Array, owner_P: jax.Array, experts: int) -> jax.Array:
    """The rows of each expert, int32 [E]."""
    return a.shape[1] * jnp.sum(owner_P[:, None] == jnp.arange(experts), axis=0, dtype=jnp.int32)


def _grouped_outer(a: jax.Array, dy: jax.Array, owner_P: jax.Array | None, experts: int) -> jax.Array:
    """For each expert the product of its rows with their gradients: [P, C, x], [P, C, y] -> float32 [E, x, y]."""
    if owner_P is None:
        return _product(a, dy, (((1,), (1,)), ((0,), (0,))))
    platforms = {'tpu': _ragged_outer, 'default': _looped_outer}
    calls = {name: functools.partial(function, experts=experts) for name, function in platforms.items()}
    return jax.lax.platform_dependent(a, dy, owner_P, **calls)


def _looped_outer(a: jax.Array, dy: jax.Array, owner_P: jax.Array, *, experts: int) -> jax.Array:
    def add(dw: jax.Array, block: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        a_block, dy_block, owner = block
        return dw.at[owner].add(_product(a_block, dy_block, (((0,), (0,)), ((), ())))), None

    nothing = jnp.zeros((experts, a.shape[-1], dy.shape[-1]), jnp.float32)
    return jax.lax.scan(add, nothing, (a, dy, owner_P))[0]


def _ragged_outer(a: jax.Array, dy: jax.Array, owner_P: jax.Array, *, experts: int) -> jax.Array:
    dims = jax.lax.RaggedDotDimensionNumbers((((0,), (0,)), ((), ())), [0], [])
    a_2d, dy_2d = a.reshape(-1, a.shape[-1]), dy.reshape(-1, dy.shape[-1])
    return _ragged_product(a_2d, dy_2d, _sizes(a, owner_P, experts), dims)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def spread(vector: jax.Array, shape: tuple[int, ...], dtype: str) -> jax.Array:
    """`vector`, of the last dims of `shape`, repeated over the others: a bias or a scale."""
    return jnp.broadcast_to(vector.astype(dtype), shape)


def _spread_forward(vector: jax.Array, shape: tuple[int, ...], dtype: str) -> tuple[jax.Array, jax.Array]:
    return spread(vector, shape, dtype), vector[:0]  # only the type and the shape are needed


def _spread_backward(shape: tuple[int, ...], dtype: str, empty: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    del dtype
    vector_shape = shape[len(shape) - empty.ndim :]
    dy_2d = dy.reshape(-1, math.prod(vector_shape))
    d_vector = jax.lax.platform_dependent(
        dy_2d, cpu=_sum_as_product, default=lambda dy_2d: jnp.sum(dy_2d, axis=0, dtype=jnp.float32)
    )
    return (d_vector.reshape(vector_shape).astype(empty.dtype),)


def _sum_as_product(a_2d: jax.Array) -> jax.Array:
    return _product(jnp.ones(a_2d.shape[:1], a_2d.dtype), a_2d, (((0,), (0,)), ((), ())))


spread.defvjp(_spread_forward, _spread_backward)


def scaled(a: jax.Array, factor: float) -> jax.Array:
    """`a` times a factor of the parametrization, which for most models is 1 and costs nothing."""
    return a if factor == 1 else a * jnp.asarray(factor, a.dtype)
