"""Loss over weight decay at three widths, with muP's decay scaled by the width and without.

python experiments/lr_transfer/decay.py

Writes decay.json, decay.png and .svg in this folder; --draw only redraws the figure.
"""

import argparse
import dataclasses
import itertools
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from matplotlib.figure import Figure

from gpt_jax import base_config
from gpt_jax.core import files
from gpt_jax.core.config import Config, parse_config, to_raw
from gpt_jax.core.parametrization import OptimizerMultipliers, optimizer_multipliers
from gpt_jax.model import weights
from gpt_jax.optim.optimizers import make_optimizer
from gpt_jax.optim.transforms import clip_by_norm
from gpt_jax.parallel.sharding import UNSHARDED
from gpt_jax.scaling.report.figure_style import RC_PARAMS, save_figure
from gpt_jax.train import build
from gpt_jax.train.objective import make_loss
from gpt_jax.trainer.dataset import load_text_data

PATH = Path(__file__).with_name('decay.json')
WIDTHS = (16, 64, 256)  # the first is the base width
DECAYS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
RATE, STEPS, HELD_OUT_BATCHES = 0.02, 200, 64
# Whether decay and epsilon follow the width; muP had False until the table was corrected.
ROWS = {'scaled': True, 'unscaled': False}
# Which weights decay. The embedding's decay does not depend on the width in either table.
DECAYED = {'matrices': ('hidden', 'residual'), 'all': ('hidden', 'residual', 'embedding')}


def main() -> None:
    result = {
        'rate': RATE,
        'steps': STEPS,
        'sum_of_rates': compute_sum_of_rates(),
        'decays': DECAYS,
        'loss': {
            decayed: {
                rows: {str(width): train(width, rows, decayed) for width in WIDTHS} for rows in ROWS
            }
            for decayed in DECAYED
        },
    }
    files.write_json(PATH, result)


def make_config(width: int) -> Config:
    """One layer; sequences of 32 bytes, 4 in a batch."""
    raw = base_config()
    raw.optimizer.warmup_fraction = 0.1
    raw.model.update(layers=1, width=width, heads=width // 16, context=32)
    raw.model.update(parametrization='mup', base_width=WIDTHS[0], init_std=0.125)
    raw.train.update(batch_size=4, microbatch_size=0, steps=STEPS)
    return parse_config(to_raw(raw), vocab_size=256)


def train(width: int, rows: str, decayed: str) -> list[float]:
    """Train once with each decay; return the losses on text that follows, in nats per byte."""
    began = time.monotonic()
    config = make_config(width)
    data = load_text_data(to_raw(base_config()), print)
    batches = data.iterate_batches(config, 0, (0, 1))
    trained, held_out = (
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *(next(batches) for _ in range(count)))
        for count in (STEPS, HELD_OUT_BATCHES)
    )
    boxed = jax.jit(lambda key: build.init_params(config.model, key))(jax.random.key(0))
    params = weights.unbox(boxed)
    roles = weights.param_roles(boxed)
    multipliers = optimizer_multipliers(roles, config.model)
    multipliers = multipliers._replace(
        weight_decay=jax.tree.map(
            lambda role, factor: factor if role in DECAYED[decayed] else np.float32(0),
            roles,
            multipliers.weight_decay,
        )
    )
    if not ROWS[rows]:
        multipliers = remove_width(multipliers)
    layout = build.make_param_layout(config.model, UNSHARDED)
    loss = make_loss(config.model, UNSHARDED, train=False)

    def compute_loss(params, batch):
        objective, sums = loss(layout.unstack(params), batch, jax.random.key(0))
        return objective / sums['weight']

    def run(decay):
        settings = dataclasses.replace(config.optimizer, weight_decay=decay)
        optimizer, _ = make_optimizer(settings, multipliers, STEPS, RATE)

        def step(carried, batch):
            params, state = carried
            gradients = jax.grad(compute_loss)(params, batch)
            gradients = clip_by_norm(gradients, optax.tree.norm(gradients), settings.grad_clip_norm)
            updates, state = optimizer.update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), None

        (trained_params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), trained)
        return jnp.mean(jax.lax.map(lambda batch: compute_loss(trained_params, batch), held_out))

    losses = np.asarray(jax.jit(jax.vmap(run))(jnp.array(DECAYS))).tolist()
    print(
        f'decay of {decayed}, {rows}, width {width:3d}: {" ".join(f"{x:.3f}" for x in losses)} '
        f'({time.monotonic() - began:.0f} s)',
        flush=True,
    )
    return losses


def remove_width(multipliers: OptimizerMultipliers) -> OptimizerMultipliers:
    """Give every weight that decays the same decay, and every weight the same epsilon."""
    return multipliers._replace(
        weight_decay=jax.tree.map(lambda factor: np.float32(factor > 0), multipliers.weight_decay),
        epsilon=jax.tree.map(lambda _: 1.0, multipliers.epsilon),
    )


def draw() -> None:
    """Print the best decay of each width, and draw the losses above that of each curve's best."""
    result = json.loads(PATH.read_text())
    x = result['sum_of_rates'] * np.array(result['decays'])
    colors = matplotlib.colormaps['viridis'](np.linspace(0, 0.85, len(WIDTHS)))
    with matplotlib.rc_context(RC_PARAMS):
        figure = Figure(figsize=(8.0, 5.6), layout='constrained')
        panels = figure.subplots(len(DECAYED), len(ROWS), sharex=True, sharey='row')
        for (decayed, rows), axes in zip(
            itertools.product(DECAYED, ROWS), panels.flat, strict=True
        ):
            best = []
            for width, color in zip(WIDTHS, colors, strict=True):
                losses = np.array(result['loss'][decayed][rows][str(width)])
                lowest = int(np.argmin(losses))
                best.append(f'{width}: {result["decays"][lowest]:g}')
                axes.plot(x, losses - losses[lowest], 'o-', ms=3, color=color, label=width)
                axes.plot(x[lowest], 0, '*', ms=10, color=color)
            print(f'decay of {decayed}, {rows}: best decay by width {", ".join(best)}')
            axes.set_xscale('log')
            axes.set_title(f'decay of {decayed}, {rows} by the width', fontsize=9)
            axes.grid(alpha=0.25, lw=0.5)
        for axes in panels[:, 0]:
            axes.set_ylabel('nats above the best decay')
        for axes in panels[-1]:
            axes.set_xlabel('sum of rate x decay at the base width')
        panels[0, 0].legend(title='width', frameon=False, fontsize=8, title_fontsize=8)
        print(*save_figure(figure, PATH.with_suffix('.png')))


def compute_sum_of_rates() -> float:
    """Sum the learning rate over the steps of a run."""
    config = make_config(WIDTHS[0])
    none = OptimizerMultipliers({}, {}, {})
    _, schedule = make_optimizer(config.optimizer, none, STEPS, RATE)
    return float(sum(schedule(step) for step in range(STEPS)))


if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--draw', action='store_true', help='only redraw the figure')
    if not parser.parse_args().draw:
        main()
    draw()
