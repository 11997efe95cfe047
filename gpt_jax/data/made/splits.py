"""How are rows that a program writes dealt to the splits?"""

import hashlib
import random
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]
Splits = dict[str, list[Row]]  # rows of 'train', 'validation' and 'test'

HELD_OUT = {0: 'validation', 1: 'test'}  # of ten parts; the other eight are train


def split_of(key: str) -> str:
    """'train' (about 80% of all keys), 'validation' or 'test' (about 10% each), by a hash of the key."""
    return HELD_OUT.get(int.from_bytes(hashlib.sha256(key.encode('utf-8')).digest()[:8]) % 10, 'train')


def empty() -> Splits:
    return {'train': [], 'validation': [], 'test': []}


def written(write: Callable[[random.Random], tuple[str, Row]], count: int, seed: int) -> Splits:
    """`count` rows that `write` draws, none of them about the same as another.

    Args:
      write: draws a key and a row. What has the same key is the same thing told anew, and left out.
      seed: decides what is drawn.
    """
    draw, seen, made = random.Random(seed), set[str](), empty()
    for _ in range(20 * count):  # enough, unless there are hardly more than `count` things to be told
        key, row = write(draw)
        if key not in seen:
            seen.add(key)
            made[split_of(key)].append(row)
        if len(seen) == count:
            break
    return made
