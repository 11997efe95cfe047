"""Compute-optimal run for a budget: N*, D*, a shape of whole layers, batch, rate and hours."""

from typing import Any

import numpy as np

from gpt_jax.scaling import compute_optimal, parametric_fit
from gpt_jax.scaling.plan.shapes import GPT2, Architecture, find_shape

# Besiroglu et al. 2024, the replicated fit of Hoffmann et al. 2022's approach 3.
PUBLISHED_LAW = {'E': 1.8172, 'A': 482.01, 'B': 2085.43, 'alpha': 0.3478, 'beta': 0.3658}
# DeepSeek-AI 2024, section 3.1: batch size in tokens and peak learning rate over training FLOPs.
BATCH, RATE = (0.2920, 0.3271), (0.3118, -0.1250)


def plan_run(
    constants: dict[str, float],
    *,
    flops: float | None = None,
    tokens: float | None = None,
    cost: compute_optimal.ComputeCost,
    drawn: list[dict[str, float]],
    count: str,
    context: int,
    vocab: int,
    peak: float,
    utilization: float,
    devices: int,
    price: float | None,
    architecture: Architecture = GPT2,
) -> dict[str, Any]:
    """Plan the optimal run for a budget of FLOPs, or the optimal model for a number of tokens.

    Args:
      constants: E, A, B, alpha, beta of the law, whose N is counted by `count`.
      flops: the budget; None: `tokens` determines it.
      tokens: training tokens; None: `flops` determines them.
      cost: C as a function of N and D.
      drawn: constants of bootstrap refits, for the intervals; may be empty.
      count: the convention of N, a key of `Architecture.count_parameters`.
      context: tokens per sequence.
      vocab: size of the vocabulary.
      peak: peak FLOP/s of one device.
      utilization: the share of the peak that training reaches, in FLOPs with attention.
      devices: number of devices.
      price: price of one device for an hour, in any currency; None: unknown.
      architecture: everything that a shape does not define.

    Returns:
      A JSON-able dict:
      flops, params, tokens, tokens_per_param, loss: the optimum, N by `count` (also returned).
      params_interval, tokens_interval, loss_interval: [low, high], 95%; only with `drawn`.
      split: a, b (N* ~ C^a, D* ~ C^b), n_coefficient, d_coefficient.
      shape: layers, width, heads, context, vocab.
      shape_params: its parameters by convention.
      shape_flops_per_token, shape_flops: training FLOPs by convention, per token and in total.
      shape_tokens: training tokens, in whole batches.
      shape_loss: loss of this shape on these tokens, by the law.
      batch: sequences per step.
      steps: number of steps.
      learning_rate: peak learning rate.
      hours: duration on `devices` at `utilization` (both also returned).
      cost: in the currency of `price`, or None.

    Raises:
      UserError: no shape is near the optimal size.
    """
    split = compute_optimal.compute_split(constants, cost)
    if tokens is not None:
        flops = (tokens / split.d_coefficient) ** (1 / split.b)
    assert flops is not None
    law = parametric_fit.from_constants('chinchilla', constants)
    best = compute_optimal.evaluate_split(split, law, flops)
    shape = find_shape(
        best['params'], count=count, context=context, vocab=vocab, architecture=architecture
    )
    counts = architecture.count_parameters(shape)
    flops_per_token = architecture.flops_per_token(shape)
    # The tokens that the budget allows for exactly this shape, in whole batches.
    batch = suggest_batch_size(flops, context)
    own_tokens = flops / (cost.k * counts[count] ** cost.p)
    steps = max(1, round(own_tokens / (batch * context)))
    trained = steps * batch * context
    total_flops = {name: per_token * trained for name, per_token in flops_per_token.items()}
    hours = total_flops['with_attention'] / (peak * utilization * devices) / 3600
    result: dict[str, Any] = {
        **best,
        'count': count,
        'split': split._asdict(),
        'shape': shape._asdict(),
        'shape_params': counts,
        'shape_flops_per_token': flops_per_token,
        'shape_flops': total_flops,
        'shape_tokens': trained,
        'shape_loss': float(law.predict(counts[count], trained)),
        'batch': batch,
        'steps': steps,
        'learning_rate': suggest_learning_rate(flops),
        'hours': hours,
        'devices': devices,
        'utilization': utilization,
        'cost': hours * devices * price if price else None,
    }
    return result | (_compute_intervals(best, flops, cost, drawn) if drawn else {})


def _compute_intervals(
    best: dict[str, float],
    flops: float,
    cost: compute_optimal.ComputeCost,
    drawn: list[dict[str, float]],
) -> dict[str, list[float]]:
    """Compute 95% intervals of N*, D* and the loss of the optimum, over bootstrap refits."""
    splits = [compute_optimal.compute_split(constants, cost) for constants in drawn]
    params = np.array([float(split.at(flops)[0]) for split in splits])
    laws = [parametric_fit.from_constants('chinchilla', constants) for constants in drawn]
    values = {
        'params': params,
        'tokens': flops / (cost.k * params**cost.p),
        'loss': np.array([float(law.predict(best['params'], best['tokens'])) for law in laws]),
    }
    intervals = {name: np.quantile(draws, [0.025, 0.975]) for name, draws in values.items()}
    return {
        f'{name}_interval': [float(low), float(high)] for name, (low, high) in intervals.items()
    }


def suggest_batch_size(flops: float, context: int) -> int:
    """Return sequences per step (DeepSeek-AI 2024), a multiple of 8, to divide over devices."""
    return max(1, round(BATCH[0] * flops ** BATCH[1] / context / 8)) * 8


def suggest_learning_rate(flops: float) -> float:
    """Return the peak learning rate for a budget of FLOPs (DeepSeek-AI 2024)."""
    return RATE[0] * flops ** RATE[1]


def convert_hours_to_flops(hours: float, *, peak: float, utilization: float, devices: int) -> float:
    """Return the FLOPs that the devices compute in these hours at `utilization` of `peak`."""
    return hours * 3600 * peak * utilization * devices
