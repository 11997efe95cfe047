"""Free space for the checkpoints of a run, checked before its first step."""

from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax.core import files
from gpt_jax.core.config import Config
from gpt_jax.core.errors import DiskFull
from gpt_jax.core.formatting import format_bytes

BYTES_PER_LEAF = 2048  # names, shapes and checksums of an array in a checkpoint
OTHER_BYTES = 1 << 16  # the rest of a checkpoint


class SpaceNeed(NamedTuple):
    """What a run will add to a disk at most.

    Attributes:
      checkpoint_bytes: size of one checkpoint.
      checkpoints: number of further ones that are on disk at once.
    """

    checkpoint_bytes: int
    checkpoints: int


def estimate_checkpoint_bytes(state: Any) -> int:
    """Estimate the size of the checkpoint of a state; its leaves may be abstract."""
    import jax

    leaves = jax.tree.leaves(state)
    sizes = (leaf.size * leaf.dtype.itemsize + BYTES_PER_LEAF for leaf in leaves)
    return sum(sizes) + OTHER_BYTES


def count_checkpoints(config: Config, start: int, saved: int, saved_best: int) -> int:
    """Count the further checkpoints that are on disk at once, the one being written included.

    Args:
      start: number of updates in the initial state.
      saved: number of checkpoints that the run has already.
      saved_best: number of checkpoints in its folder of the best one.
    """
    train, every = config.train, config.train.checkpoint_every
    if start == config.steps:
        return 0
    saves = {config.steps} | {step for step in train.keep_steps if step > start}
    coming = len(saves) + (config.steps // every - start // every if every else 0)
    at_once = train.keep_checkpoints + len(train.keep_steps) + 1
    best = max(0, 2 - saved_best) if train.keep_best else 0
    return min(coming, max(1, at_once - saved)) + best


def check_free_space(folder: Path, needs: list[SpaceNeed]) -> None:
    """Check that the disk of `folder` has room for the checkpoints of all runs that train at once.

    Raises:
      DiskFull: it has not; says how much is needed and how much there is.
    """
    needed = sum(need.checkpoint_bytes * need.checkpoints for need in needs)
    free = files.measure_free_bytes(folder)
    if needed > free:
        count = sum(need.checkpoints for need in needs)
        raise DiskFull(
            f'{folder}: checkpoints need {format_bytes(needed)} ({count} at once, of '
            f'{format_bytes(needed / count)} each), and this disk has {format_bytes(free)} free; '
            'free space, or lower train.keep_checkpoints'
        )
