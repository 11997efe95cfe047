"""Compiles one config's splash kernels alone, for kernels.py to read: python -m gpt_jax.preflight.kernel_job JSON."""

import json
import sys

from gpt_jax.preflight import topology
from gpt_jax.preflight.chips import CHIPS


def main(given: str) -> None:
    words = json.loads(given)
    size = topology.SLICES[words['generation']][1 if CHIPS[words['generation']].dims == 2 else 0]
    machine = topology.machine(f'{words["generation"]}:{size}')
    topology.prepare(machine)
    import jax
    import jax.numpy as jnp

    from gpt_jax.model.config import ModelConfig
    from gpt_jax.model.mask import Sight
    from gpt_jax.model.splash import splash

    values = words['config'] | {'attention_pattern': tuple(words['config']['attention_pattern'])}
    config = ModelConfig(**values)
    here = jax.sharding.SingleDeviceSharding(topology.devices(machine)[0])
    window = config.window if set(config.attention_pattern) == {'window'} else None

    def array(*shape: int, dtype: str = config.matmul_dtype) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=here)

    def attend(q_BLHK: jax.Array, k_BMGK: jax.Array, v_BMGK: jax.Array, segments_BL: jax.Array | None) -> jax.Array:
        o_BLHK = splash(q_BLHK, k_BMGK, v_BMGK, Sight(segments_BL, window, sink_H=None, slopes_H=None), config)
        return jnp.sum(o_BLHK.astype(jnp.float32))

    length = config.context
    q_BLHK = array(2, length, config.heads, config.head_dim)
    k_BMGK = array(2, length, config.kv_heads, config.head_dim)
    segments_BL = array(2, length, dtype='int32') if words['segments'] else None
    jax.jit(jax.grad(attend, argnums=(0, 1, 2))).lower(q_BLHK, k_BMGK, k_BMGK, segments_BL).compile()


if __name__ == '__main__':
    main(sys.argv[1])
