"""What do several small runs gain from one process (sweep.together)? Tokens/s of all of them, beside one by one.

    python experiments/cpu_speed/together.py [--runs=8] [--steps=40]

One by one, a run has all devices, each with a part of its batch; together, each device has whole runs. Medians of
`steps` steps in turns; the input is in memory. Start-up and compiling, which are paid once instead of once a run, come
on top and are not counted.
"""

import argparse
import statistics
import time

from gpt_jax import runtime

runtime.start(cpu_devices=0, distributed='')

import jax  # noqa: E402 - after the devices are set up
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from configs import cpu  # noqa: E402
from gpt_jax import assemble, overrides  # noqa: E402

SHAPES = ((2, 16, 1), (2, 32, 2), (2, 64, 4), (2, 128, 8), (4, 128, 4))


def settings(layers: int, width: int, heads: int) -> assemble.Settings:
    config = overrides.plain(cpu.get_config())
    config['model'].update(layers=layers, width=width, heads=heads)
    return assemble.settings(config, vocab_size=256)


def measure(one: assemble.Settings, runs: int, steps: int) -> tuple[float, float]:
    """(tokens/s one by one, tokens/s together)."""
    random = np.random.default_rng(0)
    shape = (runs, one.train.batch, one.model.context)
    batches = {name: random.integers(256, size=shape, dtype=np.int32) for name in ('inputs', 'targets')}
    program, many = assemble.build(one), assemble.build_many(one, runs)
    state, states = program.init(), many.init(jnp.arange(runs, dtype=jnp.uint32))
    rates = jnp.full(runs, 1e-3)
    alone = next(program.on_devices([{name: value[0] for name, value in batches.items()}]))
    times: dict[str, list[float]] = {'single': [], 'many': []}
    for _ in range(steps + 3):
        began = time.perf_counter()
        state, metrics = program.step(state, alone)
        jax.block_until_ready(metrics)
        middle = time.perf_counter()
        states, metrics = many.step(states, batches, jnp.arange(runs, dtype=jnp.uint32), rates)
        jax.block_until_ready(metrics)
        times['single'].append(middle - began)
        times['many'].append(time.perf_counter() - middle)
    tokens = one.tokens_per_step
    single, together = (statistics.median(times[name][3:]) for name in ('single', 'many'))
    return tokens / single, runs * tokens / together


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--runs', type=int, default=8, help='trained at once')
    parser.add_argument('--steps', type=int, default=40, help='timed, after 3')
    arguments = parser.parse_args()
    print(f'{arguments.runs} runs at once on {jax.device_count()} devices, tokens/s')
    for layers, width, heads in SHAPES:
        single, together = measure(settings(layers, width, heads), arguments.runs, arguments.steps)
        print(f'{layers}x{width}: one by one {single:,.0f}, together {together:,.0f}: {together / single:.2f} times')


if __name__ == '__main__':
    main()
