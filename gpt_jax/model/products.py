"""How does a weight meet the activations? A matrix is multiplied with them, a vector is spread over them.

Both have gradients of our own, for JAX's rules give a CPU the slowest forms: a weight's gradient with its first operand
transposed in memory, and a vector's as a sum that XLA cuts into windows. Here the one is a product of two matrices as
they lie, and the other a product with ones; experiments/cpu_speed/forms.py times them. A TPU's compiler is given the
dims as they are: it lays a product's result out as whoever comes next wants it, where a reshape would be a copy.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from gpt_jax.model.config import ModelConfig
from gpt_jax.model.quantized import Quantized, operand
from gpt_jax.model.turned import Turned, across

PRODUCT = 'product'  # names the results, in `activation_dtype`, for the policy of rematerialization that keeps them

_product = functools.partial(jax.lax.dot_general, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def einsum(terms: str, a: jax.Array, b: jax.Array, config: ModelConfig) -> jax.Array:
    """A matrix product with operands in `matmul_dtype`, sums in float32, the result in `activation_dtype`.

    Args:
      terms: as for jnp.einsum; the letters summed over are the last of `a` and the first of `b`.
      b: a weight, also a quantized or a turned one, which has no gradient.
    """
    return _multiplied(terms, a, b, config)


def _multiplied(terms: str, a: jax.Array, b: jax.Array, config: ModelConfig) -> jax.Array:
    inner = _summed(terms)
    if isinstance(b, Turned):
        y = across(a.reshape(-1, math.prod(b.shape[:inner])), b.w_2d, config.matmul_dtype)
    else:
        b, scale = operand(b, config.matmul_dtype)
        y = _dims(terms, a, b, config)
        y = y if scale is None else y * scale.reshape(y.shape[a.ndim - inner :])
    y = y.astype(config.activation_dtype).reshape(*a.shape[: a.ndim - inner], *b.shape[inner:])
    return checkpoint_name(y, PRODUCT)


def _einsum_forward(
    terms: str, a: jax.Array, b: jax.Array, config: ModelConfig
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # Not `einsum` itself: a rematerialization policy does not look into a function with a gradient of its own.
    return _multiplied(terms, a, b, config), (a, b)


def _einsum_backward(
    terms: str, config: ModelConfig, kept: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    a, b = kept
    da = _dims(terms, dy, b, config, 'a')
    db = _dims(terms, a, dy, config, 'b')
    return da.astype(a.dtype), db.astype(b.dtype)


einsum.defvjp(_einsum_forward, _einsum_backward)


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def grouped(a: jax.Array, w: jax.Array, owner_P: jax.Array | None, config: ModelConfig) -> jax.Array:
    """Blocks of rows, each multiplied with the matrix of its expert: [P, C, x], [E, x, y] -> [P, C, y].

    Args:
      owner_P: int32, ascending: the expert of each block. None: block p is expert p's.
    """
    return _grouped_multiplied(a, w, owner_P, config)


def _grouped_multiplied(a: jax.Array, w: jax.Array, owner_P: jax.Array | None, config: ModelConfig) -> jax.Array:
    if not isinstance(w, Quantized) or owner_P is None:  # a quantized expert becomes an array when its turn is
        w = w.astype(config.matmul_dtype)
    y = _grouped(a.astype(config.matmul_dtype), w, owner_P, 1)
    return checkpoint_name(y.astype(config.activation_dtype), PRODUCT)


def _grouped_forward(
    a: jax.Array, w: jax.Array, owner_P: jax.Array | None, config: ModelConfig
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array | None]]:
    return _grouped_multiplied(a, w, owner_P, config), (a, w, owner_P)


def _grouped_backward(
    config: ModelConfig, kept: tuple[jax.Array, jax.Array, jax.Array | None], dy: jax.Array
) -> tuple[jax.Array, jax.Array, None]:
    a, w, owner_P = kept
    a_m, w_m, dy_m = (t.astype(config.matmul_dtype) for t in (a, w, dy))
    da = _grouped(dy_m, w_m, owner_P, 2)
    dw = _grouped_outer(a_m, dy_m, owner_P, len(w))
    return da.astype(a.dtype), dw.astype(w.dtype), None


grouped.defvjp(_grouped_forward, _grouped_backward)


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
