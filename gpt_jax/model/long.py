"""How does attention go over devices that each hold a part of the text?

`f(q_BLHK, k_BMGK, v_BMGK, sight, config, *, team, kernel) -> o_BLHK`, inside shard_map, `team` being the devices that
share the length.

- ring: keys and values go round (model/ring.py). Any number of heads.
- all_to_all: heads are exchanged for length, so that each device has all of the text for some of the heads, which any
  kernel can do (Jacobs et al. 2023).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.model.config import ModelConfig
from gpt_jax.model.mask import Sight
from gpt_jax.model.ring import ring
from gpt_jax.parallel.team import Team


def order(length: int, devices: int, long: str) -> np.ndarray:
    """The text's positions in the order in which the devices hold them; int32 [length]."""
    positions = np.arange(length, dtype=np.int32)
    if long != 'ring':
        return positions
    parts = positions.reshape(2 * devices, -1)
    return np.concatenate([parts[n] for i in range(devices) for n in (i, 2 * devices - 1 - i)])


def all_to_all(
    q_BLHK: jax.Array, k_BMGK: jax.Array, v_BMGK: jax.Array, sight: Sight, config: ModelConfig, *, team: Team,
    kernel: Callable[..., jax.Array],
) -> jax.Array:  # fmt: skip
    """Heads for length, the kernel, and length for heads. Needs heads that `team` divides."""
    q_BLHK = team.exchange(q_BLHK, 2, 1)
    groups = k_BMGK.shape[2]
    if groups % team.size == 0:
        k_BMGK, v_BMGK = team.exchange(k_BMGK, 2, 1), team.exchange(v_BMGK, 2, 1)
    else:  # too few: everyone gets all, and takes the one that its heads look at
        first = team.index() * groups // team.size
        k_BMGK, v_BMGK = (jax.lax.dynamic_slice_in_dim(team.gather(a, 1), first, 1, axis=2) for a in (k_BMGK, v_BMGK))
    segments_BL = None if sight.segments_BL is None else team.gather(sight.segments_BL, 1)
    sink_H, slopes_H = (
        None if a_H is None else team.take(jnp.asarray(a_H), 0) for a_H in (sight.sink_H, sight.slopes_H)
    )
    o_BLHK = kernel(q_BLHK, k_BMGK, v_BMGK, Sight(segments_BL, sight.window, sink_H, slopes_H), config)
    return team.exchange(o_BLHK, 1, 2)


LONG: dict[str, Callable[..., jax.Array]] = {'ring': ring, 'all_to_all': all_to_all}
