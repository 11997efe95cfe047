"""Which form of the same sum or product does XLA's CPU compiler run fastest? The reasons behind model/products.py.

    python experiments/cpu_speed/forms.py

Each line: what is computed, and the milliseconds of each form (the best of 50, in turns).
"""

import time

from gpt_jax import runtime

runtime.start(cpu_devices=1, distributed='')

import jax  # noqa: E402 - after the devices are set up
import jax.numpy as jnp  # noqa: E402

BATCH, LENGTH, WIDTH, MLP = 3, 256, 384, 1536  # a microbatch of shape B


def rows(a: jax.Array) -> jax.Array:
    return a.reshape(-1, a.shape[-1])


def forms() -> dict[str, tuple[tuple[jax.Array, ...], dict[str, object]]]:
    key = jax.random.key(0)
    x_BLD = jax.random.normal(key, (BATCH, LENGTH, WIDTH))
    h_BLF = jax.random.normal(key, (BATCH, LENGTH, MLP))
    return {
        "a bias's gradient": (
            (h_BLF,),
            {
                'sum': lambda h: jnp.sum(h, axis=(0, 1)),
                'product with ones': lambda h: jnp.ones(BATCH * LENGTH) @ rows(h),
            },
        ),
        "a weight's gradient": (
            (x_BLD, h_BLF),
            {
                'einsum over B and L': lambda x, h: jnp.einsum('BLD,BLF->DF', x, h),
                'product of two matrices': lambda x, h: jax.lax.dot_general(rows(x), rows(h), (((0,), (0,)), ((), ()))),
            },
        ),
    }


def main() -> None:
    for what, (arguments, ways) in forms().items():
        compiled = {name: jax.jit(way).lower(*arguments).compile() for name, way in ways.items()}
        best = dict.fromkeys(compiled, float('inf'))
        for _ in range(50):
            for name, program in compiled.items():
                began = time.perf_counter()
                jax.block_until_ready(program(*arguments))
                best[name] = min(best[name], time.perf_counter() - began)
        print(what, '·', ' · '.join(f'{name} {1e3 * seconds:.2f} ms' for name, seconds in best.items()))


if __name__ == '__main__':
    main()
