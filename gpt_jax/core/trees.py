"""Pytree utilities: names of leaves, element counts, norms and checksums."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def name_leaves(tree: Any) -> list[str]:
    """Return the paths of the leaves, such as 'blocks/attention/query', in tree order."""
    return [
        jax.tree_util.keystr(path, simple=True, separator='/')
        for path, _ in jax.tree.leaves_with_path(tree)
    ]


def count_elements(tree: Any) -> int:
    """Count the elements of all leaves (arrays or abstract shapes)."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def global_norm(tree: Any) -> jax.Array:
    """Return the Euclidean norm over all leaves, a float32 scalar."""
    return jnp.sqrt(
        sum(jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree))
    )


def hash_tree(tree: Any) -> str:
    """Return the SHA-256 of every leaf's name, dtype, shape and bytes.

    Bitwise equal trees have equal hashes, and others do not. Leaves are fetched one at a time. With
    several processes, all of them must call this: leaves sharded over processes are gathered first.
    """
    digest = hashlib.sha256()
    for name, leaf in zip(name_leaves(tree), jax.tree.leaves(tree), strict=True):
        value = host_array(leaf)
        digest.update(f'{name} {value.dtype} {value.shape}\n'.encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def checksum_tree(tree: Any) -> str:
    """Return a checksum of all bits, computed on the devices; it does not depend on the mesh.

    Different trees have different checksums except for rare collisions.
    """

    def checksum(leaf: jax.Array) -> jax.Array:
        words = jnp.uint32 if leaf.dtype.itemsize == 4 else jnp.uint16
        bits = jax.lax.bitcast_convert_type(leaf, words).astype(jnp.uint32).reshape(-1)
        index = jnp.arange(bits.size, dtype=jnp.uint32)
        # Two sums modulo 2^32 of each word times an odd number that depends on its index.
        return jnp.stack(
            [jnp.sum(bits * (index * jnp.uint32(odd) | 1)) for odd in (2654435769, 2246822519)]
        )

    sums = jax.device_get(
        jax.jit(lambda leaves: jnp.stack([checksum(leaf) for leaf in leaves]))(
            jax.tree.leaves(tree)
        )
    )
    return hashlib.sha256(str([name_leaves(tree), np.asarray(sums).tolist()]).encode()).hexdigest()


def host_array(leaf: Any) -> np.ndarray:
    """Return one whole leaf on the host, gathered from other processes if it is sharded."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        if leaf.is_fully_replicated:
            return np.asarray(leaf.addressable_data(0))
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)
