"""Assignment of generated rows to splits."""

import hashlib
import random
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]
Splits = dict[str, list[Row]]  # rows of 'train', 'validation' and 'test'

SPLIT_OF_TENTH = {0: 'validation', 1: 'test'}  # two of ten parts; the other eight are train


def hash_to_split(key: str) -> str:
    """Return 'train' (about 80% of keys), 'validation' or 'test' (10% each), by the key's hash."""
    number = int.from_bytes(hashlib.sha256(key.encode('utf-8')).digest()[:8])
    return SPLIT_OF_TENTH.get(number % 10, 'train')


def empty_splits() -> Splits:
    """Return splits without rows."""
    return {'train': [], 'validation': [], 'test': []}


def draw_rows(
    draw_row: Callable[[random.Random], tuple[str, Row]], count: int, seed: int
) -> Splits:
    """Draw rows with distinct keys.

    Args:
      draw_row: draws a key and a row; rows with a repeated key are dropped.
      count: number of rows.
      seed: seed of the random numbers.

    Returns:
      `count` rows, or fewer if 20 draws per row do not give enough distinct keys.
    """
    rng, keys, splits = random.Random(seed), set[str](), empty_splits()
    for _ in range(20 * count):
        key, row = draw_row(rng)
        if key not in keys:
            keys.add(key)
            splits[hash_to_split(key)].append(row)
        if len(keys) == count:
            break
    return splits
