"""One small program with every collective, and its text as the TPU's compiler writes it.

python -m tests.compiled.sample writes tpu_sample.txt.gz again (wants `pip install -e '.[tpu]'`, no TPU).
"""

import gzip
import os
import re
from pathlib import Path

LAYERS, ROWS, WIDTH = 6, 4096, 512
TEXT = Path(__file__).with_name('tpu_sample.txt.gz')


def compiled(devices):
    """A gradient through a loop whose weights are gathered, compiled for a mesh of 2 x 2 of the devices."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    mesh = jax.make_mesh((2, 2), ('a', 'b'), axis_types=(AxisType.Auto,) * 2, devices=devices)
    cut_x, cut_w = PartitionSpec('a'), PartitionSpec(None, 'b')

    def local(x, w):
        def layer(x, w):
            return jnp.tanh(x @ jax.lax.all_gather(w, 'b', axis=0, tiled=True)), None

        y, _ = jax.lax.scan(layer, x, w)
        y = jax.lax.ppermute(y, 'a', [(0, 1), (1, 0)])
        y = jax.lax.all_to_all(y, 'a', 0, 1, tiled=True)
        return jax.lax.psum(jnp.sum(y.astype(jnp.float32)), ('a', 'b'))

    def loss(x, w):
        return jax.shard_map(
            local, mesh=mesh, in_specs=(cut_x, cut_w), out_specs=PartitionSpec(), check_vma=False
        )(x, w)  # fmt: skip

    x = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.bfloat16, sharding=NamedSharding(mesh, cut_x))
    w = jax.ShapeDtypeStruct((LAYERS, WIDTH, WIDTH), jnp.bfloat16, sharding=NamedSharding(mesh, cut_w))
    return jax.jit(jax.grad(loss, argnums=1)).lower(x, w).compile()


def flops():
    """Of one device: forward one product a layer, backward two, on half of the rows."""
    return 3 * LAYERS * 2 * (ROWS // 2) * WIDTH * WIDTH


if __name__ == '__main__':
    os.environ |= {
        'JAX_PLATFORMS': 'cpu', 'ALLOW_MULTIPLE_LIBTPU_LOAD': '1', 'TPU_WORKER_HOSTNAMES': 'localhost',
        'TPU_ACCELERATOR_TYPE': 'v5p-8',
    }  # fmt: skip
    from jax.experimental import topologies

    made = compiled(topologies.get_topology_desc(platform='tpu', topology_name='v5p:2x2x1').devices).as_text()
    made = re.sub(r'"/[^"]*/', '"', made)  # the folders of this machine
    with gzip.GzipFile(TEXT, 'wb', mtime=0) as file:
        file.write(made.encode())
    print(f'{TEXT}: {TEXT.stat().st_size} bytes')
