"""What should be trained with this compute? N*, D* and the loss from a law, and a model of whole layers near them.

The shape is the GPT-2 decoder's (learned positions, biases, a tied head). Its counts stand here in closed form, since
this floor knows no model; tests hold them against gpt_jax/model/accounting.py.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.errors import UserError
from gpt_jax.scaling import optimal, surface

# Besiroglu et al. 2024, the replicated fit of Hoffmann et al. 2022's approach 3: used without runs of one's own.
PUBLISHED = {'E': 1.8172, 'A': 482.01, 'B': 2085.43, 'alpha': 0.3478, 'beta': 0.3658}
ASPECT = (40, 160)  # width over layers: losses are flat inside (Kaplan et al. 2020, figure 5)
HEAD_DIMS = (64, 128)
AWAY = 1.5  # the nearest shape is no plan for an optimum this factor away
# DeepSeek-AI 2024, section 3.1: batch in tokens and peak rate over the training FLOPs.
BATCH, RATE = (0.2920, 0.3271), (0.3118, -0.1250)
# Dense bfloat16 FLOP/s of one device, from the makers' data sheets.
DEVICES = {'h200': 989e12, 'h100': 989e12, 'a100': 312e12, 'v4': 275e12, 'v5e': 197e12, 'v5p': 459e12, 'v6e': 918e12}


class Shape(NamedTuple):
    layers: int
    width: int
    heads: int
    context: int
    vocab: int


def parameters(shape: Shape) -> dict[str, int]:
    """Parameters by convention, as model/accounting.py counts them."""
    d = shape.width
    blocks = shape.layers * (12 * d * d + 13 * d) + 2 * d
    return {
        'total': blocks + (shape.vocab + shape.context) * d,
        'non_embedding': blocks,
        'without_positions': blocks + shape.vocab * d,
    }


def flops_per_token(shape: Shape) -> dict[str, int]:
    """Training FLOPs per token by convention, as model/accounting.py counts them."""
    counts = parameters(shape)
    six, scores = 6 * counts['without_positions'], 6 * shape.layers * shape.width * shape.context
    return {
        '6N_non_embedding': 6 * counts['non_embedding'],
        '6N': six,
        'with_attention': six + 2 * scores,
        'causal': six + scores,
    }


def shape_for(params: float, *, count: str, context: int, vocab: int) -> Shape:
    """The shape whose parameters (under `count`) are nearest to `params`, with a usual ratio of width to layers.

    Widths are multiples of 64, of 128 from 1,024 on; heads are 64 wide, 128 from a width of 2,048 on.

    Raises:
      UserError: even the nearest is more than a factor of AWAY larger or smaller.
    """
    best: tuple[float, Shape] | None = None
    for width in [*range(64, 1024, 64), *range(1024, 32769, 128)]:
        head = HEAD_DIMS[0] if width < 2048 else HEAD_DIMS[1]
        for layers in range(max(2, math.ceil(width / ASPECT[1])), max(2, width // ASPECT[0]) + 1):
            shape = Shape(layers, width, width // head, context, vocab)
            error = abs(math.log(parameters(shape)[count] / params))
            # Among shapes as near as each other, the one nearest to GPT-3's usual ratio of about 90.
            penalty = error + 0.02 * abs(math.log(width / layers / 90))
            if best is None or penalty < best[0]:
                best = penalty, shape
    assert best is not None
    made = parameters(best[1])[count]
    if not 1 / AWAY <= made / params <= AWAY:
        which, what = ('smallest', 'smaller --vocab or more') if made > params else ('largest', 'smaller budget, less')
        raise UserError(
            f'plan: the {which} shape with a vocabulary of {vocab:,} has {made:,} parameters ({count}), the optimum '
            f'is {params:.4g}; give a {what} compute'
        )
    return best[1]


def plan(
    constants: dict[str, float], *, flops: float | None = None, tokens: float | None = None, cost: optimal.Cost,
    drawn: list[dict[str, float]], count: str, context: int, vocab: int, peak: float, utilization: float,
    devices: int, price: float | None,
) -> dict[str, Any]:  # fmt: skip
    """The optimal run for a budget of FLOPs, or the optimal model for a number of tokens.

    Args:
      constants: E, A, B, alpha, beta of the law, whose N is counted by `count`.
      drawn: constants of bootstrap refits, for the intervals; may be empty.
      peak: FLOP/s of one device. utilization: the share of it that training reaches, in FLOPs with attention.
      price: of one device for an hour, in any currency; None: not known.

    Returns:
      A JSON-able dict:
      flops, params, tokens, tokens_per_param, loss: the optimum, N counted as `count` (also given back) says.
      params_interval, tokens_interval, loss_interval: [low, high], 95%; only where `drawn` has refits.
      split: a, b (N* ~ C^a, D* ~ C^b), n_coefficient, d_coefficient.
      shape: layers, width, heads, context, vocab. shape_params: its parameters by convention.
      shape_flops_per_token, shape_flops: training FLOPs by convention, of a token and of the run.
      shape_tokens: those of the run, in whole batches. shape_loss: of this shape on them, by the law.
      batch: sequences of a step. steps. learning_rate: its peak.
      hours: on `devices` at `utilization` (both given back). cost: in the currency of `price`, or None.

    Raises:
      UserError: no shape is near the optimum.
    """
    split = optimal.split(constants, cost)
    if tokens is not None:
        flops = (tokens / split.d_coefficient) ** (1 / split.b)
    assert flops is not None
    law = surface.Surface('chinchilla', constants, 0.0, 0.0, 0, 0, 0)
    best = optimal.point(split, law, flops)
    n, d = best['params'], best['tokens']
    shape = shape_for(n, count=count, context=context, vocab=vocab)
    counts, per_token = parameters(shape), flops_per_token(shape)
    # The tokens that this very shape gets out of the budget, in whole batches.
    batch = batch_for(flops, context)
    steps = max(1, round(flops / (cost.k * counts[count] ** cost.p) / (batch * context)))
    trained = steps * batch * context
    work = {name: each * trained for name, each in per_token.items()}
    hours = work['with_attention'] / (peak * utilization * devices) / 3600
    result: dict[str, Any] = {
        **best,
        'count': count,
        'split': split._asdict(),
        'shape': shape._asdict(),
        'shape_params': counts,
        'shape_flops_per_token': per_token,
        'shape_flops': work,
        'shape_tokens': trained,
        'shape_loss': float(law.predict(counts[count], trained)),
        'batch': batch,
        'steps': steps,
        'learning_rate': rate_for(flops),
        'hours': hours,
        'devices': devices,
        'utilization': utilization,
        'cost': hours * devices * price if price else None,
    }
    if drawn:
        splits = [optimal.split(one, cost) for one in drawn]
        sizes = np.array([float(one.at(flops)[0]) for one in splits])
        laws = [surface.Surface('chinchilla', one, 0.0, 0.0, 0, 0, 0) for one in drawn]
        losses = np.array([float(law.predict(n, d)) for law in laws])
        for name, values in (('params', sizes), ('tokens', flops / (cost.k * sizes**cost.p)), ('loss', losses)):
            low, high = np.quantile(values, [0.025, 0.975])
            result[f'{name}_interval'] = [float(low), float(high)]
    return result


def config_file(result: dict[str, Any], name: str) -> str:
    """The text of a config file that trains the plan."""
    shape = result['shape']
    size = result['shape_params'][result['count']]
    micro = max(1, round(16_384 / shape['context']))
    return f'''"""Planned: {result['flops']:.4g} FLOPs, {size:,} parameters ({result['count']}),
{result['shape_tokens']:,} tokens; loss {result['shape_loss']:.4f} by the law it was planned with.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = {name!r}
    config.model.update(layers={shape['layers']}, width={shape['width']}, heads={shape['heads']})
    config.model.update(context={shape['context']}, vocab_size={shape['vocab']})
    config.optimizer.learning_rate = {result['learning_rate']:.3g}  # DeepSeek-AI 2024: 0.3118 C^-0.125
    config.train.update(batch={result['batch']}, microbatch={min(micro, result['batch'])}, steps={result['steps']})
    return config
'''


def batch_for(flops: float, context: int) -> int:
    """Sequences of a step, in eights: they divide over a host's devices."""
    return max(1, round(BATCH[0] * flops ** BATCH[1] / context / 8)) * 8


def rate_for(flops: float) -> float:
    return RATE[0] * flops ** RATE[1]


def hours_to_flops(hours: float, *, peak: float, utilization: float, devices: int) -> float:
    return hours * 3600 * peak * utilization * devices
