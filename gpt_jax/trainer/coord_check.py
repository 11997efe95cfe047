"""Coordinate check: how far training moves activations, over width and depth.

Under a parametrization that transfers learning rates between sizes, a few steps move every
activation by an amount that does not depend on width or depth (Yang et al. 2022, "Tensor Programs
V"): the slope of log movement over log size is 0. If the slope is positive, the learning rate that
suits a small model is too high for a large one.
"""

import contextlib
import copy
import json
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from gpt_jax.core import files
from gpt_jax.core.config import ModelConfig, RawConfig, parse_config
from gpt_jax.core.errors import CheckFailed
from gpt_jax.core.progress import LogFn
from gpt_jax.model import loss as losses
from gpt_jax.model.experts import compute_router_logits
from gpt_jax.model.gpt import GPT, unstack_layers
from gpt_jax.parallel import sharding
from gpt_jax.scaling.report.figure_style import (
    HELD_OUT_COLOR,
    LAW_COLOR,
    MUTED_COLOR,
    RC_PARAMS,
    save_figure,
)
from gpt_jax.train.build import build_trainer_parts
from gpt_jax.trainer.dataset import TextData, load_text_data

STEPS = 5
# Multiples of the config's base width and base depth.
FACTORS = {'width': (1, 2, 4, 8), 'layers': (1, 2, 4)}
# Largest absolute slope that passes; the standard parametrization has 0.5 to 1
# (tests/trainer/test_coord_check.py).
TOLERANCE = 0.25
# In a few steps, most of a router's movement stems from its initial values, whose share in its
# logits falls with the width by design, as in those of the head.
NOT_JUDGED = ('router',)


def run_coord_check(raw_config: RawConfig, workdir: Path, log: LogFn) -> None:
    """Write coord_check.json and coord_check.png, .svg into `workdir`; print the table.

    The widths are 1, 2, 4 and 8 times model.base_width (or model.width), and the number of heads
    grows with them. The depths are 1, 2 and 4 times model.base_layers (or model.layers). muP makes
    no promise about depth, so its slope over depth is not judged.

    Raises:
      CheckFailed: the movement of some activation depends on the size.
    """
    data = load_text_data(raw_config, log)
    name = raw_config['model']['parametrization']
    results = []
    for dimension, factors in FACTORS.items():
        base = raw_config['model'][f'base_{dimension}'] or raw_config['model'][dimension]
        sizes = [base * factor for factor in factors]
        movements = []
        for size in sizes:
            log(f'{STEPS} steps at {dimension} {size:,}')
            movements.append(_train_and_measure(_resize_config(raw_config, dimension, size), data))
        judged = (name, dimension) != ('mup', 'layers')
        results.append(check_slopes(sizes, movements, dimension, judged=judged))
    print('\n'.join(line for result in results for line in format_check(result, name)))
    path = workdir / 'coord_check.json'
    files.write_json(path, {'parametrization': name, 'steps': STEPS, 'checks': results})
    figures = plot_checks(results, name, workdir / 'coord_check.png')
    for written in (path, *figures):
        print(f'  {written}')
    failed = [
        result['over']
        for result in results
        if result['verdict'] != 'not judged' and not result['passed']
    ]
    print(json.dumps({'parametrization': name, 'passed': not failed}))
    if failed:
        raise CheckFailed(f'{name}: the movement of activations depends on {" and ".join(failed)}')


def _resize_config(raw_config: RawConfig, dimension: str, size: int) -> RawConfig:
    """Return the config at another width or depth, with a constant learning rate.

    head_dim is unchanged, so that the number of heads grows with the width.
    """
    resized = copy.deepcopy(raw_config)
    model = resized['model']
    head_dim = model['head_dim'] or model['width'] // model['heads']
    for field in ('width', 'layers'):
        model[f'base_{field}'] = model[f'base_{field}'] or model[field]
    model[dimension] = size
    if dimension == 'width':
        model |= {
            'heads': max(1, size // head_dim),
            'kv_heads': 0,
            'mlp_width': 0,
            'head_dim': head_dim if size % head_dim else 0,
        }
    resized['optimizer'] |= {'schedule': 'constant', 'warmup_fraction': 0.0}
    resized['train'] |= {'steps': STEPS}
    return resized


def _train_and_measure(raw_config: RawConfig, data: TextData) -> dict[str, float]:
    """Train a few steps; return how far each activation moves on a batch that is held out."""
    config = parse_config(raw_config, data.vocab_size)
    parts = build_trainer_parts(config)
    state = parts.init_state()
    batches = parts.shard_batches(data.iterate_batches(config, 0, parts.batch_shard()))
    capture = jax.jit(lambda params, ids: capture_activations(config.model, params, ids))
    held_out_BL = next(data.iterate_batches(config, STEPS, (0, 1)))['inputs']
    before = capture(parts.combine_params(state), held_out_BL)
    for _ in range(STEPS):
        state, _metrics = parts.train_step(state, next(batches))
    after = capture(parts.combine_params(state), held_out_BL)
    return {
        name: float(jnp.sqrt(jnp.mean(jnp.square(after[name] - before[name])))) for name in before
    }


def capture_activations(
    config: ModelConfig, params: Any, tokens_BL: jax.Array
) -> dict[str, jax.Array]:
    """Return activations of the model, with the same entries for every width and depth.

    Args:
      params: as stored, layers stacked.

    Returns:
      'attention' and 'feedforward': the outputs of these branches in every layer [N, B, L, D];
      'residual': the output of the last block, 'norm': after the last norm, both [B, L, D];
      'logits' [B, L, V]; with experts, 'router': the router's logits in every layer [N, B x L, E].
    """
    model = GPT(config, sharding.UNSHARDED, train=False)
    parts = ('attention', 'feedforward', 'norm')

    def is_captured(module: nn.Module, method: str) -> bool:
        is_block = str(module.name).startswith('block_')
        return method == '__call__' and (module.name in parts or is_block)

    router_logits = []

    def capture_router(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if (module.name, context.method_name) == ('feedforward', '__call__'):
            x_TD = args[0].reshape(-1, config.width)
            router_DE = module.get_variable('params', 'router')
            router_logits.append(compute_router_logits(x_TD, router_DE, config))
        return call(*args, **kwargs)

    has_router = config.feedforward == 'experts'
    with nn.intercept_methods(capture_router) if has_router else contextlib.nullcontext():
        features, variables = model.apply(
            {'params': unstack_layers(params, config.layers)},
            tokens_BL,
            capture_intermediates=is_captured,
            mutable=['intermediates'],
        )
    captured = variables['intermediates']
    blocks = [captured[f'block_{n}'] for n in range(config.layers)]
    branches = {
        name: jnp.stack([block[name]['__call__'][0][0] for block in blocks])
        for name in ('attention', 'feedforward')
    }
    if has_router:
        branches['router'] = jnp.stack(router_logits)
    return branches | {
        'residual': blocks[-1]['__call__'][0][0],
        'norm': captured['norm']['__call__'][0],
        'logits': losses.compute_logits(features.x_BLD, features.w_VD, config),
    }


def check_slopes(
    sizes: list[int], movements: list[dict[str, float]], dimension: str, *, judged: bool
) -> dict[str, Any]:
    """Fit the log-log slopes of movement over size, and compare them to the tolerance.

    Args:
      sizes: widths or depths, ascending.
      movements: for each size, the root mean square movement of each activation; activations
        that are missing for some size are ignored.
      dimension: 'width' or 'layers'.
      judged: whether the parametrization promises anything about this dimension.

    Returns:
      over (the dimension), sizes, moved (a list per activation), slopes (per activation), worst
      (the activation, of those that are judged), tolerance, passed, and verdict: 'pass', 'FAIL' or
      'not judged'.
    """
    names = [name for name in movements[0] if all(name in movement for movement in movements)]
    moved = {name: [movement[name] for movement in movements] for name in names}
    x = np.log(np.array(sizes, float))
    slopes = {
        name: float(np.polyfit(x, np.log(np.array(values)), 1)[0]) for name, values in moved.items()
    }
    judged_names = [name for name in names if name not in NOT_JUDGED]
    worst = max(judged_names, key=lambda name: abs(slopes[name]))
    passed = abs(slopes[worst]) <= TOLERANCE
    return {
        'over': dimension,
        'sizes': sizes,
        'moved': moved,
        'slopes': slopes,
        'worst': worst,
        'tolerance': TOLERANCE,
        'passed': passed,
        'verdict': 'not judged' if not judged else 'pass' if passed else 'FAIL',
    }


def format_check(result: dict[str, Any], parametrization: str) -> list[str]:
    """Format a result of `check_slopes` as a table with its verdict."""
    title, slopes = 'moved by training', result['slopes']
    width = max(map(len, slopes))
    sizes = ''.join(f'{size:>10,}' for size in result['sizes'])
    rows = [f'{title:{width}s}  {sizes}     slope']
    for name, values in result['moved'].items():
        cells = ''.join(f'{value:10.4f}' for value in values)
        rows.append(f'{name:{width}s}  {cells}{slopes[name]:+10.2f}')
    verdict = (
        f'{result["verdict"]}: with {parametrization}, the movement of {result["worst"]} scales as '
        f'{result["over"]}^{slopes[result["worst"]]:+.2f}; '
        f'an exponent within +-{result["tolerance"]:g} passes'
    )
    return [*rows, verdict]


def plot_checks(results: list[dict[str, Any]], parametrization: str, path: Path) -> list[Path]:
    """Draw one panel per check, with a line per activation; write PNG and SVG."""
    with matplotlib.rc_context(RC_PARAMS):
        figure = Figure(figsize=(4.6 * len(results), 3.8), layout='constrained')
        panels = np.atleast_1d(figure.subplots(1, len(results)))
        for axes, result in zip(panels, results, strict=True):
            _plot_check(axes, result)
        title = f'Coordinate check: {parametrization}'
        figure.suptitle(title, fontsize=10, fontweight='bold')
        return save_figure(figure, path)


def _plot_check(axes: Any, result: dict[str, Any]) -> None:
    sizes = result['sizes']
    axes.set_xscale('log', base=2)
    axes.set_yscale('log', base=2)
    for name, values in result['moved'].items():
        failed = name not in NOT_JUDGED and abs(result['slopes'][name]) > result['tolerance']
        color = HELD_OUT_COLOR if failed else LAW_COLOR
        axes.plot(sizes, values, 'o-', ms=3, lw=1.2, color=color, alpha=0.8)
        axes.annotate(
            name,
            (sizes[-1], values[-1]),
            xytext=(4, 0),
            textcoords='offset points',
            fontsize=6,
            va='center',
            color=MUTED_COLOR,
        )
    axes.margins(x=0.3)
    axes.set_xticks(sizes, [f'{size:,}' for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel(result['over'])
    axes.set_ylabel('movement (root mean square)')
    slope = result['slopes'][result['worst']]
    axes.set_title(f'{result["verdict"]}: slopes up to {slope:+.2f}', fontsize=9)
    axes.grid(alpha=0.25, lw=0.5)
