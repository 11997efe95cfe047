"""Small program with every collective, and its HLO text as the TPU's compiler writes it.

`python -m tests.preflight.sample` rewrites tpu_sample.txt.gz; it needs `pip install -e '.[tpu]'`
but no TPU.
"""

import gzip
import os
import re
from pathlib import Path

LAYERS, ROWS, WIDTH = 6, 4096, 512
TPU_TEXT = Path(__file__).with_name('tpu_sample.txt.gz')


def compile_sample(devices):
    """Compile the gradient of a loop with gathered weights for a 2 x 2 mesh of the devices."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    mesh = jax.make_mesh((2, 2), ('a', 'b'), axis_types=(AxisType.Auto,) * 2, devices=devices)
    spec_x, spec_w = PartitionSpec('a'), PartitionSpec(None, 'b')

    def local_loss(x, w):
        def layer(x, w):
            return jnp.tanh(x @ jax.lax.all_gather(w, 'b', axis=0, tiled=True)), None

        y, _ = jax.lax.scan(layer, x, w)
        y = jax.lax.ppermute(y, 'a', [(0, 1), (1, 0)])
        y = jax.lax.all_to_all(y, 'a', 0, 1, tiled=True)
        return jax.lax.psum(jnp.sum(y.astype(jnp.float32)), ('a', 'b'))

    def loss(x, w):
        mapped = jax.shard_map(
            local_loss,
            mesh=mesh,
            in_specs=(spec_x, spec_w),
            out_specs=PartitionSpec(),
            check_vma=False,
        )
        return mapped(x, w)

    x = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.bfloat16, sharding=NamedSharding(mesh, spec_x))
    sharding_w = NamedSharding(mesh, spec_w)
    w = jax.ShapeDtypeStruct((LAYERS, WIDTH, WIDTH), jnp.bfloat16, sharding=sharding_w)
    return jax.jit(jax.grad(loss, argnums=1)).lower(x, w).compile()


def read_text(platform):
    """Return the HLO text for 'cpu' (compiled now) or 'tpu' (from the file)."""
    import jax

    if platform == 'tpu':
        return gzip.decompress(TPU_TEXT.read_bytes()).decode()
    return compile_sample(jax.devices()[:4]).as_text()


def count_sample_flops():
    """FLOPs of one device: one product per layer forward, two backward, on half of the rows."""
    return 3 * LAYERS * 2 * (ROWS // 2) * WIDTH * WIDTH


if __name__ == '__main__':
    os.environ |= {
        'JAX_PLATFORMS': 'cpu',
        'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
        'TPU_WORKER_HOSTNAMES': 'localhost',
        'TPU_ACCELERATOR_TYPE': 'v5p-8',
    }
    from jax.experimental import topologies

    topology = topologies.get_topology_desc(platform='tpu', topology_name='v5p:2x2x1')
    text = compile_sample(topology.devices).as_text()
    text = re.sub(r'"/[^"]*/', '"', text)  # drop the folders of this machine
    with gzip.GzipFile(TPU_TEXT, 'wb', mtime=0) as file:
        file.write(text.encode())
    print(f'{TPU_TEXT}: {TPU_TEXT.stat().st_size} bytes')
