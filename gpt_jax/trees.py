"""What can be said of a pytree as a whole? Names of its leaves, its norm, its checksum."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def names(tree: Any) -> list[str]:
    """The leaves' paths, 'blocks/attention/query', in the tree's own order."""
    return [jax.tree_util.keystr(path, simple=True, separator='/') for path, _ in jax.tree.leaves_with_path(tree)]


def size(tree: Any) -> int:
    """How many numbers the tree's leaves hold (arrays or their abstract shapes)."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def global_norm(tree: Any) -> jax.Array:
    """The square root of the sum of all squares, in float32. Scalar."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree)))


def sha256(tree: Any) -> str:
    """SHA-256 over every leaf's name, dtype, shape and bytes: equal if and only if the trees are bitwise equal.

    Leaves are fetched one at a time. With several processes, every one of them must call this, since a leaf that is
    spread over processes is gathered first.
    """
    digest = hashlib.sha256()
    for name, leaf in zip(names(tree), jax.tree.leaves(tree), strict=True):
        value = host_array(leaf)
        digest.update(f'{name} {value.dtype} {value.shape}\n'.encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def checksum(tree: Any) -> str:
    """Of all bits, without fetching a leaf: the same on any mesh, and another for nearly every other tree."""

    def of(leaf: jax.Array) -> jax.Array:
        words = jnp.uint32 if leaf.dtype.itemsize == 4 else jnp.uint16
        bits = jax.lax.bitcast_convert_type(leaf, words).astype(jnp.uint32).reshape(-1)
        place = jnp.arange(bits.size, dtype=jnp.uint32)
        # Two sums modulo 2^32, of each word times an odd number that depends on its place.
        return jnp.stack([jnp.sum(bits * (place * jnp.uint32(odd) | 1)) for odd in (2654435769, 2246822519)])

    sums = jax.device_get(jax.jit(lambda leaves: jnp.stack([of(leaf) for leaf in leaves]))(jax.tree.leaves(tree)))
    return hashlib.sha256(str([names(tree), np.asarray(sums).tolist()]).encode()).hexdigest()


def host_array(leaf: Any) -> np.ndarray:
    """The whole of one leaf on the host, gathered from other processes where part of it lives there."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        if leaf.is_fully_replicated:
            return np.asarray(leaf.addressable_data(0))
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)
