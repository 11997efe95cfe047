"""Low-rank adapters: LoRA (Hu et al. 2021), w + scale * a b with a frozen weight w.

The dims of a weight are split into first and last ones: `a` has the first dims and the rank, `b`
the rank and the last dims, so that a b has the weight's dims in the weight's order. For a product
that sums over the first dims, as all inside a layer do, this is the paper's B A x with the factors
in reverse order. Rows of a table [V, D] are looked up in `a` and expanded by `b`; the head, which
sums over D, multiplies by `b` first and then by `a`.

An `AdaptedWeight` takes the place of a weight; matmul.py and loss.py multiply with its parts and
never compute the sum. Which parts are trained is up to the caller: no gradient is computed for a
part that needs none (matmul.py).
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

RANK_LETTER = 'I'  # the dim between a and b
# The letters of a and b by those of the weight, for every matrix that multiplies activations.
# Vectors, positions and routers have no adapters. A leading E means one matrix per expert, each
# with its own adapter.
ADAPTER_LETTERS: Mapping[str, tuple[str, str]] = {
    'VD': ('VI', 'ID'),
    'DHK': ('DI', 'IHK'),
    'DGK': ('DI', 'IGK'),
    'HKD': ('HKI', 'ID'),
    'DF': ('DI', 'IF'),
    'FD': ('FI', 'ID'),
    'EDF': ('EDI', 'EIF'),
    'EFD': ('EFI', 'EID'),
    'DU': ('DI', 'IU'),
    'UD': ('UI', 'ID'),
}


class Adapter(struct.PyTreeNode):
    """The trainable factors of a weight; both are stacked if the layers are."""

    a: Any
    b: Any


class BaseWeight(struct.PyTreeNode):
    """The weight that an adapter changes. scale: float32, one number or one per stacked layer."""

    w: Any
    scale: Any


class AdaptedWeight(struct.PyTreeNode):
    """A weight and its adapter.

    w: an array or a QuantizedWeight.
    scale: float32 []; [N] while layers are stacked.
    key: random key of this step's dropout; None without dropout.
    rate: dropout rate on the input that is multiplied by `a`.
    """

    w: Any
    a: jax.Array
    b: jax.Array
    scale: jax.Array
    key: jax.Array | None
    rate: float = struct.field(pytree_node=False)

    def __len__(self) -> int:
        return len(self.w)

    def __getitem__(self, ids: jax.Array) -> jax.Array:
        """Look up rows of a table, without dropout: the input is an id, not a feature."""
        return self.w[ids] + jnp.dot(self.a[ids] * self.scale, self.b)

    def astype(self, dtype: Any) -> jax.Array:
        """Return the weight as an array, with the adapter added."""
        delta = compute_lora_delta(self.a, self.b, self.scale, self.w.ndim)
        return (self.w.astype(jnp.float32) + delta).astype(dtype)

    def dropout(self, x: jax.Array) -> jax.Array:
        """Apply dropout to the adapter's input."""
        if not self.rate:
            return x
        assert self.key is not None
        keep = jax.random.bernoulli(self.key, 1 - self.rate, x.shape)
        return jnp.where(keep, x / (1 - self.rate), 0)


def compute_lora_delta(a: Any, b: Any, scale: Any, ndim: int) -> jax.Array:
    """Compute scale * a b, float32.

    Args:
      a, b: the factors; leading dims that both have (layers, experts) are batch dims.
      scale: a number, or one per layer.
      ndim: number of dims of the result.
    """
    batch_dims = a.ndim + b.ndim - 2 - ndim
    batch, rank = a.shape[:batch_dims], a.shape[-1]
    left = jnp.reshape(a, (*batch, -1, rank)).astype(jnp.float32)
    right = jnp.reshape(b, (*batch, rank, -1)).astype(jnp.float32)
    product = jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
    if jnp.ndim(scale):
        scale = jnp.reshape(jnp.asarray(scale, jnp.float32), (-1,) + (1,) * (ndim - 1))
    return scale * product.reshape(*a.shape[:-1], *b.shape[batch_dims + 1 :])


def adapter_letters(letters: str) -> tuple[str, str]:
    """Return the letters of a and b from a weight's, stacked ('NDHK' -> 'NDI', 'NIHK') or not."""
    stack = 'N' if letters.startswith('N') else ''
    a, b = ADAPTER_LETTERS[letters.removeprefix('N')]
    return stack + a, stack + b


def can_adapt(letters: str) -> bool:
    """Return whether a weight of these dims can have an adapter."""
    return letters.removeprefix('N') in ADAPTER_LETTERS


def shard_adapted(
    weight: AdaptedWeight,
    letters: str,
    dims: Mapping[str, int],
    shard: Callable[[Any, str, tuple[int, ...]], Any],
    key: jax.Array | None,
) -> AdaptedWeight:
    """Return the parts that one device computes with.

    Args:
      weight: the stored shards.
      letters: the weight's letters.
      dims: sizes by letter.
      shard: (a stored shard, its letters, the global shape) -> the part that the device uses.
      key: random key of the dropout.
    """
    sizes = {**dims, RANK_LETTER: weight.a.shape[-1]}
    global_shape = lambda letters: tuple(sizes[letter] for letter in letters)
    a_letters, b_letters = adapter_letters(letters)
    w = weight.w
    if hasattr(w, 'dtype'):  # an array; a quantized weight is not sharded
        w = shard(w, letters, global_shape(letters))
    return weight.replace(
        w=w,
        a=shard(weight.a, a_letters, global_shape(a_letters)),
        b=shard(weight.b, b_letters, global_shape(b_letters)),
        key=key,
    )


def split_einsum(terms: str) -> tuple[str, str]:
    """Split an einsum into two, with the rank between them.

    'BLD,DHK->BLHK' becomes 'BLD,DI->BLI' and 'BLI,IHK->BLHK'.
    """
    inputs, output = terms.split('->')
    left, right = inputs.split(',')
    a, b = ADAPTER_LETTERS[right]
    middle = left[: len(left) - len(a) + 1] + RANK_LETTER
    return f'{left},{a}->{middle}', f'{middle},{b}->{output}'
