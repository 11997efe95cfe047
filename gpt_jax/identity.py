"""Which run is this? The part of a config that decides its numbers, its hash, and how two configs differ."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

# What may change between two starts of one run: none of it decides a number beyond rounding.
FREE = ('name', 'sweep', 'benchmark', 'mesh', 'data.cache', 'train.microbatch', 'train.checkpoint_every',
        'train.keep_checkpoints', 'train.tensorboard', 'train.stall_minutes', 'suite.overlap')  # fmt: skip


def flatten(config: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
    """('model.width', 128) for every leaf, in the order of the names."""
    for key in sorted(config):
        value = config[key]
        if isinstance(value, Mapping):
            yield from flatten(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', list(value) if isinstance(value, tuple) else value


def fixed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves that decide the run's numbers."""
    return {
        key: value
        for key, value in flatten(config)
        if not any(key == free or key.startswith(f'{free}.') for free in FREE)
    }


def config_hash(config: Mapping[str, Any]) -> str:
    """16 hex digits that are equal if and only if the fixed parts are."""
    return hashlib.sha256(json.dumps(fixed(config), sort_keys=True).encode()).hexdigest()[:16]


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """'model.width: 128 -> 256' for every leaf of two `fixed` configs that differs."""
    keys = sorted(set(before) | set(after))
    absent = 'absent'
    return [
        f'{key}: {before.get(key, absent)} -> {after.get(key, absent)}'
        for key in keys
        if before.get(key, absent) != after.get(key, absent)
    ]
