"""Training speed of nanodo's model on this CPU.

The model comes from a checkout of github.com/google-deepmind/nanodo, which is not part of this
repository; only the model is imported (its loss and data need sentencepiece, its loop needs
TensorFlow). One step is forward, backward, clip to norm 1.0, AdamW, jitted with the state donated
and sharded as nanodo shards it. Omitted, in nanodo's favour: the metrics that it computes in each
step and its wrapper for gradient accumulation. Needs the packages of gpt_jax:

    python experiments/cpu_speed/peers/nanodo.py --nanodo=DIR --layers=4 --width=128 --heads=4 \
        --context=256 --batch=16 --vocab=256 --steps=20 --variant=bfloat16 --devices=1

`--devices` CPU devices are simulated; nanodo shards batch and weights over all devices.
"""

import argparse
import importlib
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.training.train_state import TrainState
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# DoConfig.dtype, the dtype of activations; parameters are float32.
VARIANTS = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
WARM_UP_STEPS = 3


def train_step(state: TrainState, tokens_BL: jax.Array) -> tuple[TrainState, jax.Array]:
    """Update on `tokens_BL` (one token longer than the context); also return the loss in nats."""

    def mean_loss(params: Any) -> jax.Array:
        logits_BLV = state.apply_fn({'params': params}, tokens_BL[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits_BLV, tokens_BL[:, 1:]).mean()

    loss, grads = jax.value_and_grad(mean_loss)(state.params)
    return state.apply_gradients(grads=grads), loss


def make_step(flags: argparse.Namespace) -> tuple[Callable[[], float], float]:
    """Return a function that takes one step on a fixed random batch, and its compile seconds.

    The function returns the loss.
    """
    nanodo: Any = importlib.import_module('nanodo.model')
    sizes = {
        'D': flags.width,
        'H': flags.heads,
        'L': flags.context,
        'N': flags.layers,
        'F': 4 * flags.width,
    }
    model = nanodo.TransformerDo(
        nanodo.DoConfig(**sizes, V=flags.vocab, dtype=VARIANTS[flags.variant])
    )
    adamw = optax.adamw(
        1e-3, b1=0.9, b2=0.95, weight_decay=0.1, mask=partial(jax.tree.map, lambda x: x.ndim > 1)
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), adamw)
    mesh = Mesh(np.array(jax.devices()), ('data',))

    def create(key: jax.Array) -> TrainState:
        params = model.init(key, jnp.zeros((1, flags.context), jnp.int32))['params']
        return TrainState.create(apply_fn=model.apply, params=params, tx=optimizer)

    shardings = nn.get_sharding(jax.eval_shape(create, jax.random.PRNGKey(0)), mesh)
    state = jax.jit(create, out_shardings=shardings)(jax.random.PRNGKey(0))
    tokens = np.random.default_rng(0).integers(
        0, flags.vocab, (flags.batch, flags.context + 1), dtype=np.int32
    )
    tokens_BL = jax.device_put(tokens, NamedSharding(mesh, PartitionSpec('data')))
    start = time.perf_counter()
    jitted = jax.jit(
        train_step,
        donate_argnums=0,
        out_shardings=(shardings, NamedSharding(mesh, PartitionSpec())),
    )
    update = jitted.lower(state, tokens_BL).compile()
    compile_seconds = time.perf_counter() - start

    def step() -> float:
        nonlocal state
        state, loss = jax.block_until_ready(update(state, tokens_BL))
        return float(loss)

    return step, compile_seconds


def measure(flags: argparse.Namespace) -> dict[str, Any]:
    """Return the record of one run."""
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_num_cpu_devices', flags.devices)
    sys.path.insert(0, flags.nanodo)
    step, compile_seconds = make_step(flags)
    seconds, losses = [], []
    for _ in range(1 + WARM_UP_STEPS + flags.steps):
        start = time.perf_counter()
        losses.append(step())
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[1 + WARM_UP_STEPS :])
    return {
        'name': 'nanodo',
        'variant': flags.variant,
        'devices': flags.devices,
        'tokens_per_second': flags.batch * flags.context / median,
        'step_seconds_median': median,
        'compile_seconds': compile_seconds,
        'loss_first': losses[0],
        'loss_last': losses[-1],
        'versions': {
            'python': platform.python_version(),
            'jax': jax.__version__,
            'flax': flax.__version__,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--nanodo', required=True, help='checkout of nanodo')
    for name in ('layers', 'width', 'heads', 'context', 'batch', 'vocab', 'steps'):
        parser.add_argument(f'--{name}', type=int, required=True)
    parser.add_argument('--variant', choices=VARIANTS, required=True)
    parser.add_argument(
        '--devices', type=int, default=1, help='CPU devices to simulate; must divide the batch'
    )
    flags = parser.parse_args()
    if not (Path(flags.nanodo) / 'nanodo' / 'model.py').is_file():
        parser.error(
            f'--nanodo={flags.nanodo}: has no nanodo/model.py; must be a checkout of nanodo'
        )
    print(json.dumps(measure(flags)))


if __name__ == '__main__':
    main()
