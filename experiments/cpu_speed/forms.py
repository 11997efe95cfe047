"""Speed of equivalent forms of sums and products in XLA's CPU compiler.

    python experiments/cpu_speed/forms.py

Each line gives the quantity and the milliseconds of each form (the best of 50, alternating).
"""

import argparse
import time

from gpt_jax.core import jax_setup

jax_setup.start_jax(cpu_devices=1, distributed='')

import jax  # noqa: E402 - after the device setup
import jax.numpy as jnp  # noqa: E402

BATCH, LENGTH, WIDTH, MLP = 3, 256, 384, 1536  # a microbatch of shape B


def flatten_rows(a: jax.Array) -> jax.Array:
    return a.reshape(-1, a.shape[-1])


def make_forms() -> dict[str, tuple[tuple[jax.Array, ...], dict[str, object]]]:
    key = jax.random.key(0)
    x_BLD = jax.random.normal(key, (BATCH, LENGTH, WIDTH))
    h_BLF = jax.random.normal(key, (BATCH, LENGTH, MLP))
    return {
        "a bias's gradient": (
            (h_BLF,),
            {
                'sum': lambda h: jnp.sum(h, axis=(0, 1)),
                'product with ones': lambda h: jnp.ones(BATCH * LENGTH) @ flatten_rows(h),
            },
        ),
        "a weight's gradient": (
            (x_BLD, h_BLF),
            {
                'einsum over B and L': lambda x, h: jnp.einsum('BLD,BLF->DF', x, h),
                'product of two matrices': lambda x, h: jax.lax.dot_general(
                    flatten_rows(x), flatten_rows(h), (((0,), (0,)), ((), ()))
                ),
            },
        ),
    }


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    for quantity, (arguments, forms) in make_forms().items():
        compiled = {name: jax.jit(form).lower(*arguments).compile() for name, form in forms.items()}
        best = dict.fromkeys(compiled, float('inf'))
        for _ in range(50):
            for name, program in compiled.items():
                start = time.perf_counter()
                jax.block_until_ready(program(*arguments))
                best[name] = min(best[name], time.perf_counter() - start)
        print(
            quantity,
            '·',
            ' · '.join(f'{name} {1e3 * seconds:.2f} ms' for name, seconds in best.items()),
        )


if __name__ == '__main__':
    main()
