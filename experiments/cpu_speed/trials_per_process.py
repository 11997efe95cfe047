"""Speed of several small runs in one process (sweep.trials_per_process), relative to single runs.

    python experiments/cpu_speed/trials_per_process.py [--runs=8] [--steps=40]

A single run uses all devices, each for a part of its batch; of several runs at once, each device
has whole ones.
The speeds are medians over `steps` alternating steps; the input is in memory. Start-up and
compilation, paid once instead of once per run, are not counted.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from gpt_jax.core import jax_setup

jax_setup.start_jax(cpu_devices=0, distributed='')

import jax  # noqa: E402 - after the device setup
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from configs import cpu  # noqa: E402
from gpt_jax.core.config import Config, parse_config, to_raw  # noqa: E402
from gpt_jax.train import build  # noqa: E402
from gpt_jax.trainer.vmapped_trials import build_vmapped_runs  # noqa: E402

SHAPES = ((2, 16, 1), (2, 32, 2), (2, 64, 4), (2, 128, 8), (4, 128, 4))


def make_config(layers: int, width: int, heads: int) -> Config:
    config = to_raw(cpu.get_config())
    config['model'].update(layers=layers, width=width, heads=heads)
    return parse_config(config, vocab_size=256)


def measure_speeds(config: Config, runs: int, steps: int) -> tuple[float, float]:
    """Return tokens/s of single runs and of all runs at once."""
    random = np.random.default_rng(0)
    shape = (runs, config.train.batch_size, config.model.context)
    batches = {
        name: random.integers(256, size=shape, dtype=np.int32) for name in ('inputs', 'targets')
    }
    parts, vmapped = build.build_trainer_parts(config), build_vmapped_runs(config, runs)
    state, states = parts.init_state(), vmapped.init(jnp.arange(runs, dtype=jnp.uint32))
    rates = jnp.full(runs, 1e-3)
    single_batch = next(parts.shard_batches([{name: value[0] for name, value in batches.items()}]))
    times: dict[str, list[float]] = {'single': [], 'vmapped': []}
    for _ in range(steps + 3):
        start = time.perf_counter()
        state, metrics = parts.train_step(state, single_batch)
        jax.block_until_ready(metrics)
        middle = time.perf_counter()
        states, metrics = vmapped.step(states, batches, jnp.arange(runs, dtype=jnp.uint32), rates)
        jax.block_until_ready(metrics)
        times['single'].append(middle - start)
        times['vmapped'].append(time.perf_counter() - middle)
    tokens = config.tokens_per_step
    single, at_once = (statistics.median(times[name][3:]) for name in ('single', 'vmapped'))
    return tokens / single, runs * tokens / at_once


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--runs', type=int, default=8, help='number of runs')
    parser.add_argument('--steps', type=int, default=40, help='timed steps, after 3 warm-up steps')
    arguments = parser.parse_args()
    print(f'{arguments.runs} runs at once on {jax.device_count()} devices, tokens/s')
    for layers, width, heads in SHAPES:
        single, at_once = measure_speeds(
            make_config(layers, width, heads), arguments.runs, arguments.steps
        )
        ratio = f'{at_once / single:.2f} times'
        print(f'{layers}x{width}: single {single:,.0f}, at once {at_once:,.0f}: {ratio}')


if __name__ == '__main__':
    main()
