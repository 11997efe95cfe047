"""How does a pair of thin matrices change a weight that stays as it is? LoRA (Hu et al. 2021): w + scale * a b.

The dims of a weight are cut in two between the first and the last of them; `a` has the first ones and the rank, `b` the
rank and the last ones, so that a b has the weight's dims in the weight's order. Where a product sums over the first
ones, as all inside a layer do, that is the paper's B A x, read from the right. Rows of a table [V, D] are looked up
with `a` and made wide with `b`; the head, which sums over D, goes through them the other way round.

An `Adapted` stands where the model expects a weight; products.py and loss.py multiply with its parts and never make
the sum. What of it learns is for whoever differentiates to say: no gradient is computed for a part that none is asked
for (products.py).
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

RANK = 'I'  # the letter of the dim between a and b
# By a weight's letters those of a and b: every matrix that activations are multiplied with. What is not here (vectors,
# positions, routers) has no adapters. A leading E is a matrix for each expert, each with an adapter of its own.
FACTORS: Mapping[str, tuple[str, str]] = {
    'VD': ('VI', 'ID'), 'DHK': ('DI', 'IHK'), 'DGK': ('DI', 'IGK'), 'HKD': ('HKI', 'ID'), 'DF': ('DI', 'IF'),
    'FD': ('FI', 'ID'), 'EDF': ('EDI', 'EIF'), 'EFD': ('EFI', 'EID'), 'DU': ('DI', 'IU'), 'UD': ('UI', 'ID'),
}  # fmt: skip


class Adapter(struct.PyTreeNode):
    """What is learned in place of a weight; of stacked layers both are stacked."""

    a: Any
    b: Any


class Base(struct.PyTreeNode):
    """The weight that an adapter changes. scale: float32, one number, or one for each stacked layer."""

    w: Any
    scale: Any


class Adapted(struct.PyTreeNode):
    """A weight and its adapter.

    w: an array, or what stands for one (quantized.py). scale: float32 []; [N] while layers are stacked.
    key: for dropout, which this text's step draws; None without. rate: of dropout, on what a is multiplied with.
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
        """Rows of a table. Of them nothing is dropped: what goes in is a number, not a feature."""
        return self.w[ids] + jnp.dot(self.a[ids] * self.scale, self.b)

    def astype(self, dtype: Any) -> jax.Array:
        """The weight as an array, the adapter added to it."""
        return (self.w.astype(jnp.float32) + change(self.a, self.b, self.scale, self.w.ndim)).astype(dtype)

    def dropped(self, x: jax.Array) -> jax.Array:
        """x as the adapter sees it."""
        if not self.rate:
            return x
        assert self.key is not None
        stays = jax.random.bernoulli(self.key, 1 - self.rate, x.shape)
        return jnp.where(stays, x / (1 - self.rate), 0)


def change(a: Any, b: Any, scale: Any, ndim: int) -> jax.Array:
    """scale * a b as an array of `ndim` dims, float32. Leading dims that a and b share (layers, experts) stay apart."""
    shared = a.ndim + b.ndim - 2 - ndim
    lead, rank = a.shape[:shared], a.shape[-1]
    left = jnp.reshape(a, (*lead, -1, rank)).astype(jnp.float32)
    right = jnp.reshape(b, (*lead, rank, -1)).astype(jnp.float32)
    product = jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
    scale = jnp.reshape(jnp.asarray(scale, jnp.float32), (-1,) + (1,) * (ndim - 1)) if jnp.ndim(scale) else scale
    return scale * product.reshape(*a.shape[:-1], *b.shape[shared + 1 :])


def factors(letters: str) -> tuple[str, str]:
    """The letters of a and b, for a weight's, which may have layers stacked ('NDHK'): ('NDI', 'NIHK')."""
    stacked, own = ('N', letters[1:]) if letters.startswith('N') else ('', letters)
    a, b = FACTORS[own]
    return stacked + a, stacked + b


def adaptable(letters: str) -> bool:
    """Whether there are adapters for a weight of these dims."""
    return letters.removeprefix('N') in FACTORS


def placed(
    kept: Adapted, letters: str, dims: Mapping[str, int], place: Callable[[Any, str, tuple[int, ...]], Any], key: Any
) -> Adapted:
    """The parts as one device computes with them.

    Args:
      dims: sizes by letter.
      place: (a stored share, its letters, the shape of the whole) -> what to compute with.
      key: for dropout.
    """
    sizes = {**dims, RANK: kept.a.shape[-1]}
    a, b = (
        place(share, word, tuple(sizes[letter] for letter in word))
        for share, word in zip((kept.a, kept.b), factors(letters), strict=True)
    )
    w = place(kept.w, letters, tuple(sizes[letter] for letter in letters)) if hasattr(kept.w, 'dtype') else kept.w
    return kept.replace(w=w, a=a, b=b, key=key)


def between(terms: str) -> tuple[str, str]:
    """'BLD,DHK->BLHK' as two products with the rank between them: 'BLD,DI->BLI' and 'BLI,IHK->BLHK'."""
    inputs, output = terms.split('->')
    left, right = inputs.split(',')
    a, b = FACTORS[right]
    middle = left[: len(left) - len(a) + 1] + RANK
    return f'{left},{a}->{middle}', f'{middle},{b}->{output}'


def without(params: Any) -> Any:
    """The tree without its adapters: the model as it was before."""
    is_adapted = lambda node: isinstance(node, Adapted)  # noqa: E731
    return jax.tree.map(lambda node: node.w if is_adapted(node) else node, params, is_leaf=is_adapted)
