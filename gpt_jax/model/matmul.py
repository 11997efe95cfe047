"""Products of activations with weights, with gradients that suit CPUs and frozen weights.

JAX's derivative rules are slow on a CPU: for a weight's gradient they transpose the first operand
in memory, and for a vector's gradient they use a sum that XLA turns into windowed sums. Here the
first is a product of two matrices in their own layouts, and the second a product with ones;
experiments/cpu_speed/forms.py times them. On a TPU the dims are left as they are: its compiler
chooses the layout of a result to suit its consumer, and a reshape would be a copy.

The gradient of an operand is computed only where it is needed: a frozen weight costs no product in
the backward pass, and the other operand of that product is not stored.
"""

import functools
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero, custom_vjp_primal_tree_values

from gpt_jax.core.config import ModelConfig
from gpt_jax.model.low_rank import AdaptedWeight, split_einsum
from gpt_jax.model.quantization import (
    QuantizedWeight,
    TransposedWeight,
    matmul_operand,
    matmul_transposed,
)

# checkpoint_name of the results, in `activation_dtype`, for the rematerialization policy that
# keeps them.
MATMUL_RESULT = 'product'

einsum_float32 = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
_dot_float32 = functools.partial(jax.lax.dot_general, preferred_element_type=jnp.float32)

# Symbolic zeros: they show a custom VJP defined with `symbolic_zeros=True` which of its arguments
# are differentiated, and which incoming gradients are known to be zero.


def needs_gradient(arguments: Any) -> tuple[bool, ...]:
    """Return whether each argument (a tree) of a custom VJP's forward rule is differentiated."""
    return tuple(
        any(leaf.perturbed for leaf in jax.tree.leaves(argument)) for argument in arguments
    )


def materialize_zeros(gradients: Any) -> Any:
    """Replace the symbolic zeros in a tree of incoming gradients with arrays."""
    is_zero = lambda leaf: isinstance(leaf, SymbolicZero)
    to_array = lambda leaf: jnp.zeros(leaf.shape, leaf.dtype) if is_zero(leaf) else leaf
    return jax.tree.map(to_array, gradients, is_leaf=is_zero)


def _type_token(array: Any) -> jax.Array:
    """Return an empty array [0, *shape] that carries the dtype and shape but takes no memory."""
    return jnp.zeros((0, *array.shape), array.dtype)


class _Residuals(NamedTuple):
    """What the backward pass of a product a x b needs.

    a, b: each operand if the gradient of the other one is computed from it, else None.
    a_type, b_type: `_type_token` of each operand if it needs a gradient, else None.
    """

    a: Any
    b: Any
    a_type: jax.Array | None
    b_type: jax.Array | None


def _make_residuals(a: Any, b: Any) -> tuple[Any, Any, _Residuals]:
    """Return (a, b, residuals) for operands as a forward rule receives them."""
    a_needed, b_needed = needs_gradient((a, b))
    a, b = custom_vjp_primal_tree_values((a, b))
    residuals = _Residuals(
        a=a if b_needed else None,
        b=b if a_needed else None,
        a_type=_type_token(a) if a_needed else None,
        b_type=_type_token(b) if b_needed else None,
    )
    return a, b, residuals


# einsum


def einsum(terms: str, a: jax.Array, b: Any, config: ModelConfig) -> jax.Array:
    """Compute a matrix product with operands in `matmul_dtype` and sums in float32.

    Args:
      terms: as for jnp.einsum; the contracted letters are the last of `a` and the first of `b`.
      a: activations.
      b: a weight; may be quantized or transposed (then it has no gradient), or have an adapter.

    Returns:
      The product, in `activation_dtype`.
    """
    if not isinstance(b, AdaptedWeight):
        return checkpoint_name(_einsum(terms, a, b, config), MATMUL_RESULT)
    down, up = split_einsum(terms)
    h = checkpoint_name(_einsum(down, b.dropout(a), b.a, config), MATMUL_RESULT)
    y = _einsum(terms, a, b.w, config) + _einsum(up, h * b.scale.astype(h.dtype), b.b, config)
    return checkpoint_name(y, MATMUL_RESULT)


def _einsum_primal(terms: str, a: jax.Array, b: Any, config: ModelConfig) -> jax.Array:
    contracted = _count_contracted(terms)
    if isinstance(b, TransposedWeight):
        a_2d = a.reshape(-1, math.prod(b.shape[:contracted]))
        y = matmul_transposed(a_2d, b.w_2d, config.matmul_dtype)
    else:
        b, scale = matmul_operand(b, config.matmul_dtype)
        y = _contract(terms, a, b, config)
        y = y if scale is None else y * scale.reshape(y.shape[a.ndim - contracted :])
    shape = (*a.shape[: a.ndim - contracted], *b.shape[contracted:])
    return y.astype(config.activation_dtype).reshape(shape)


_einsum = jax.custom_vjp(_einsum_primal, nondiff_argnums=(0, 3))


def _einsum_forward(
    terms: str, a: Any, b: Any, config: ModelConfig
) -> tuple[jax.Array, _Residuals]:
    a, b, residuals = _make_residuals(a, b)
    return _einsum_primal(terms, a, b, config), residuals


def _einsum_backward(
    terms: str, config: ModelConfig, residuals: _Residuals, dy: Any
) -> tuple[Any, Any]:
    dy = materialize_zeros(dy)
    da = db = None
    if residuals.a_type is not None:
        da = _contract(terms, dy, residuals.b, config, 'a').astype(residuals.a_type.dtype)
    if residuals.b_type is not None:
        db = _contract(terms, residuals.a, dy, config, 'b').astype(residuals.b_type.dtype)
    return da, db


_einsum.defvjp(_einsum_forward, _einsum_backward, symbolic_zeros=True)


def _count_contracted(terms: str) -> int:
    """Count the contracted letters.

    Raises:
      ValueError: they are not the last of the first operand and the first of the second.
    """
    inputs, output = terms.split('->')
    left, right = inputs.split(',')
    count = sum(letter in right for letter in left)
    left_kept, left_contracted = left[: len(left) - count], left[len(left) - count :]
    if left_contracted != right[:count] or output != left_kept + right[count:]:
        raise ValueError(
            f"einsum('{terms}'): must have the form 'xs,sy->xy', s being the contracted letters"
        )
    return count


Result = Literal['y', 'a', 'b']


def _contract(
    terms: str, a: jax.Array, b: jax.Array, config: ModelConfig, result: Result = 'y'
) -> jax.Array:
    """Compute y = einsum(terms, a, b) or one of its gradients, in float32.

    Args:
      terms: the terms of y.
      a, b: the operands of y; dy takes the place of `a` for result 'a', of `b` for result 'b'.
      result: 'y', or the operand whose gradient is computed.
    """
    inputs, y = terms.split('->')
    left, right = inputs.split(',')
    terms_of = {'y': terms, 'a': f'{y},{right}->{left}', 'b': f'{left},{y}->{right}'}
    return jax.lax.platform_dependent(
        a.astype(config.matmul_dtype),
        b.astype(config.matmul_dtype),
        tpu=functools.partial(jnp.einsum, terms_of[result], preferred_element_type=jnp.float32),
        default=functools.partial(
            _contract_matrices, contracted=_count_contracted(terms), result=result
        ),
    )


def _contract_matrices(a: jax.Array, b: jax.Array, *, contracted: int, result: Result) -> jax.Array:
    """Compute `_contract` as one product of two matrices, neither of them transposed in memory."""
    if result == 'y':
        a_dims, b_dims = a.ndim - contracted, contracted
        axes = ((1,), (0,))
        shape = (*a.shape[:a_dims], *b.shape[contracted:])
    elif result == 'a':  # from dy and b
        a_dims, b_dims = a.ndim - (b.ndim - contracted), contracted
        axes = ((1,), (1,))
        shape = (*a.shape[:a_dims], *b.shape[:contracted])
    else:  # from a and dy
        a_dims = b_dims = a.ndim - contracted
        axes = ((0,), (0,))
        shape = (*a.shape[a_dims:], *b.shape[b_dims:])
    a_2d, b_2d = _as_matrix(a, a_dims), _as_matrix(b, b_dims)
    return _dot_float32(a_2d, b_2d, (axes, ((), ()))).reshape(shape)


def _as_matrix(a: jax.Array, row_dims: int) -> jax.Array:
    """Merge the first `row_dims` dims into rows, and the others into columns."""
    return a.reshape(math.prod(a.shape[:row_dims]), -1)


# Grouped products: one matrix per expert


def grouped_matmul(
    a: jax.Array, w: Any, owner_P: jax.Array | None, config: ModelConfig
) -> jax.Array:
    """Multiply each block of rows with the matrix of its expert.

    Args:
      a: [P, C, x]: P blocks of C rows.
      w: [E, x, y]; as `b` of `einsum`, but not transposed.
      owner_P: int32, ascending: the expert of each block. None: block p belongs to expert p.

    Returns:
      [P, C, y], in `activation_dtype`.
    """
    if not isinstance(w, AdaptedWeight):
        return checkpoint_name(_grouped(a, w, owner_P, config), MATMUL_RESULT)
    h = checkpoint_name(_grouped(w.dropout(a), w.a, owner_P, config), MATMUL_RESULT)
    change = _grouped(h * w.scale.astype(h.dtype), w.b, owner_P, config)
    return checkpoint_name(_grouped(a, w.w, owner_P, config) + change, MATMUL_RESULT)


def _grouped_primal(
    a: jax.Array, w: Any, owner_P: jax.Array | None, config: ModelConfig
) -> jax.Array:
    # With owners, a quantized expert is dequantized when its block is multiplied.
    if not isinstance(w, QuantizedWeight) or owner_P is None:
        w = w.astype(config.matmul_dtype)
    y = _grouped_rows(a.astype(config.matmul_dtype), w, owner_P, 1)
    return y.astype(config.activation_dtype)


_grouped = jax.custom_vjp(_grouped_primal, nondiff_argnums=(3,))


def _grouped_forward(a: Any, w: Any, owner_P: Any, config: ModelConfig) -> tuple[jax.Array, Any]:
    a, w, residuals = _make_residuals(a, w)
    owner_P = custom_vjp_primal_tree_values(owner_P)
    return _grouped_primal(a, w, owner_P, config), (residuals, owner_P)


def _grouped_backward(config: ModelConfig, saved: Any, dy: Any) -> tuple[Any, Any, None]:
    residuals, owner_P = saved
    dtype = config.matmul_dtype
    dy = materialize_zeros(dy).astype(dtype)
    da = dw = None
    if residuals.a_type is not None:
        da = _grouped_rows(dy, residuals.b.astype(dtype), owner_P, 2)
        da = da.astype(residuals.a_type.dtype)
    if residuals.b_type is not None:
        experts = residuals.b_type.shape[1]
        dw = _grouped_outer(residuals.a.astype(dtype), dy, owner_P, experts)
        dw = dw.astype(residuals.b_type.dtype)
    return da, dw, None


_grouped.defvjp(_grouped_forward, _grouped_backward, symbolic_zeros=True)


def _grouped_rows(a: jax.Array, w: jax.Array, owner_P: jax.Array | None, inner: int) -> jax.Array:
    """Multiply blocks of rows with their experts' matrices, summing over dim `inner` of w."""
    if owner_P is None:
        return _dot_float32(a, w, (((2,), (inner,)), ((0,), (0,))))
    return jax.lax.platform_dependent(
        a,
        w,
        owner_P,
        tpu=functools.partial(_rows_ragged, inner=inner),
        default=functools.partial(_rows_looped, inner=inner),
    )


def _rows_looped(a: jax.Array, w: jax.Array, owner_P: jax.Array, *, inner: int) -> jax.Array:
    """Multiply block by block.

    Except on a TPU, XLA turns a ragged product into a product of every row with every expert.
    """

    def multiply(block: tuple[jax.Array, jax.Array]) -> jax.Array:
        rows, owner = block
        return _dot_float32(rows, w[owner].astype(a.dtype), (((1,), (inner - 1,)), ((), ())))

    return jax.lax.map(multiply, (a, owner_P))


def _rows_ragged(a: jax.Array, w: jax.Array, owner_P: jax.Array, *, inner: int) -> jax.Array:
    dims = jax.lax.RaggedDotDimensionNumbers((((1,), (inner,)), ((), ())), [0], [0])
    rows = a.reshape(-1, a.shape[-1])
    y = _ragged_dot_float32(rows, w.astype(a.dtype), _count_rows(a, owner_P, len(w)), dims)
    return y.reshape(*a.shape[:2], -1)


_ragged_dot_float32 = functools.partial(
    jax.lax.ragged_dot_general, preferred_element_type=jnp.float32
)


def _count_rows(a: jax.Array, owner_P: jax.Array, experts: int) -> jax.Array:
    """Count the rows of each expert, int32 [E]."""
    return a.shape[1] * jnp.sum(owner_P[:, None] == jnp.arange(experts), axis=0, dtype=jnp.int32)


def _grouped_outer(
    a: jax.Array, dy: jax.Array, owner_P: jax.Array | None, experts: int
) -> jax.Array:
    """Multiply each expert's rows with their gradients.

    [P, C, x], [P, C, y] -> float32 [E, x, y].
    """
    if owner_P is None:
        return _dot_float32(a, dy, (((1,), (1,)), ((0,), (0,))))
    return jax.lax.platform_dependent(
        a,
        dy,
        owner_P,
        tpu=functools.partial(_outer_ragged, experts=experts),
        default=functools.partial(_outer_looped, experts=experts),
    )


def _outer_looped(a: jax.Array, dy: jax.Array, owner_P: jax.Array, *, experts: int) -> jax.Array:
    def add(dw: jax.Array, block: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        rows, dy_rows, owner = block
        return dw.at[owner].add(_dot_float32(rows, dy_rows, (((0,), (0,)), ((), ())))), None

    zeros = jnp.zeros((experts, a.shape[-1], dy.shape[-1]), jnp.float32)
    return jax.lax.scan(add, zeros, (a, dy, owner_P))[0]


def _outer_ragged(a: jax.Array, dy: jax.Array, owner_P: jax.Array, *, experts: int) -> jax.Array:
    dims = jax.lax.RaggedDotDimensionNumbers((((0,), (0,)), ((), ())), [0], [])
    a_2d, dy_2d = a.reshape(-1, a.shape[-1]), dy.reshape(-1, dy.shape[-1])
    return _ragged_dot_float32(a_2d, dy_2d, _count_rows(a, owner_P, experts), dims)


# Vectors and scalars


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def broadcast_param(vector: jax.Array, shape: tuple[int, ...], dtype: str) -> jax.Array:
    """Broadcast a bias or scale, which has the last dims of `shape`, over the others."""
    return jnp.broadcast_to(vector.astype(dtype), shape)


def _broadcast_forward(
    vector: jax.Array, shape: tuple[int, ...], dtype: str
) -> tuple[jax.Array, jax.Array]:
    return broadcast_param(vector, shape, dtype), vector[:0]  # for its dtype and number of dims


def _broadcast_backward(
    shape: tuple[int, ...], dtype: str, empty: jax.Array, dy: jax.Array
) -> tuple[jax.Array]:
    del dtype
    vector_shape = shape[len(shape) - empty.ndim :]
    dy_2d = dy.reshape(-1, math.prod(vector_shape))
    d_vector = jax.lax.platform_dependent(
        dy_2d,
        cpu=_sum_rows_by_matmul,
        default=lambda dy_2d: jnp.sum(dy_2d, axis=0, dtype=jnp.float32),
    )
    return (d_vector.reshape(vector_shape).astype(empty.dtype),)


def _sum_rows_by_matmul(a_2d: jax.Array) -> jax.Array:
    return _dot_float32(jnp.ones(a_2d.shape[:1], a_2d.dtype), a_2d, (((0,), (0,)), ((), ())))


broadcast_param.defvjp(_broadcast_forward, _broadcast_backward)


def apply_multiplier(a: jax.Array, factor: float) -> jax.Array:
    """Multiply by a factor of the parametrization; 1, as in most models, costs nothing."""
    return a if factor == 1 else a * jnp.asarray(factor, a.dtype)
