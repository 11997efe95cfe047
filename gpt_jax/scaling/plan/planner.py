"""Compute-optimal run for a budget: N*, D*, a shape of whole layers, batch, rate and hours."""

from typing import Any

from gpt_jax.scaling import (
    bootstrap,
    compute_optimal,
    forecast,
    parametric_fit,
    posterior_split,
    rollouts,
)
from gpt_jax.scaling.plan.shapes import GPT2, Architecture, find_shape
from gpt_jax.scaling.runs import Runs

# Besiroglu et al. 2024, the replicated fit of Hoffmann et al. 2022's approach 3.
PUBLISHED_LAW = {'E': 1.8172, 'A': 482.01, 'B': 2085.43, 'alpha': 0.3478, 'beta': 0.3658}
TOKENS_ITERATIONS, MIN_SLOPE = 8, 0.2
# DeepSeek-AI 2024, section 3.1: batch size in tokens and peak learning rate over training FLOPs.
BATCH, RATE = (0.2920, 0.3271), (0.3118, -0.1250)


class LawOptimum:
    """The optimum of a budget by a law with known constants, which has no intervals.

    Attributes:
      constants: E, A, B, alpha, beta of the law, whose N is counted as the plan counts it.
      cost: C as a function of N and D.
    """

    def __init__(
        self,
        constants: dict[str, float],
        cost: compute_optimal.ComputeCost = compute_optimal.COST_6ND,
    ):
        self.constants, self.cost = constants, cost
        self._law = parametric_fit.from_constants('chinchilla', constants)
        self._split = compute_optimal.compute_split(constants, cost)

    def find_flops(self, tokens: float) -> float:
        """Return the budget whose optimal run has these tokens."""
        return (tokens / self._split.d_coefficient) ** (1 / self._split.b)

    def evaluate(self, flops: float) -> dict[str, Any]:
        """Return flops, params, tokens, tokens_per_param, loss and split of the optimal run."""
        best = compute_optimal.evaluate_split(self._split, self._law, flops)
        return best | {'split': self._split._asdict()}

    def predict(self, params: float, tokens: float) -> dict[str, Any]:
        """Return the loss of a run."""
        return {'loss': float(self._law.predict(params, tokens))}


class PosteriorOptimum:
    """The optimum of a budget by the posterior of finished runs, with 95% intervals.

    Attributes:
      runs: the runs, without outliers.
      draws: number of draws of the posterior.
      constants: of the law's member with the most weight.
      cost: C as a function of N and D, of the runs.
    """

    def __init__(self, runs: Runs, draws: int = posterior_split.DRAWS):
        forecaster = forecast.fit_forecaster(runs, 'auto', draws=0, seed=0)
        assert forecaster.posterior is not None
        self.runs, self.constants = forecaster.runs, forecaster.constants
        self.cost, self.draws = compute_optimal.fit_cost(self.runs), draws
        self._forecaster, self._posterior = forecaster, forecaster.posterior
        self._rollouts = rollouts.run_own_backtest(self.runs)

    def find_flops(self, tokens: float) -> float:
        """Return the budget whose optimal run has these tokens."""
        flops = float(self.runs.flops.max())
        for _ in range(TOKENS_ITERATIONS):
            best = self.evaluate(flops)
            flops *= (tokens / best['tokens']) ** (1 / max(best['split']['b'], MIN_SLOPE))
        return flops

    def evaluate(self, flops: float) -> dict[str, Any]:
        """Return the optimal run, as LawOptimum does, with params_interval and tokens_interval."""
        largest = float(self.runs.flops.max())
        split = posterior_split.describe_split(
            self._posterior,
            self.cost,
            largest,
            (flops,),
            level=bootstrap.CONFIDENCE_LEVEL,
            draws=self.draws,
            band_points=0,
        )
        best = split['at'][0]
        params = [best['params_low'], best['params_high']]
        tokens = [flops / (self.cost.k * n**self.cost.p) for n in reversed(params)]
        names = ('a', 'b', 'n_coefficient', 'd_coefficient')
        return {
            **{name: best[name] for name in ('flops', 'params', 'tokens', 'tokens_per_param')},
            **self.predict(best['params'], best['tokens']),
            'params_interval': params,
            'tokens_interval': tokens,
            'identified': best['identified'],
            'split': {name: split[name] for name in names},
        }

    def predict(self, params: float, tokens: float) -> dict[str, Any]:
        """Return the loss of a run, loss_interval, and how good such forecasts would have been."""
        widening, scores = rollouts.find_widening(self._rollouts, self.runs, params, tokens)
        predicted = forecast.predict_run(
            self._forecaster, params, tokens, law='auto', name='', widening=widening
        )
        interval = [predicted['low'], predicted['high']]
        return {'loss': predicted['loss'], 'loss_interval': interval, 'rollouts': scores}


def plan_run(
    optimum: LawOptimum | PosteriorOptimum,
    *,
    flops: float | None = None,
    tokens: float | None = None,
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
      optimum: gives the optimal run of a budget; its N is counted by `count`.
      flops: the budget; None: `tokens` determines it.
      tokens: training tokens; None: `flops` determines them.
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
      params_interval, tokens_interval, loss_interval: [low, high], 95%; identified: whether the
        interval of N* is of use; rollouts: the scores of such forecasts. Only of finished runs.
      split: a, b (N* ~ C^a, D* ~ C^b), n_coefficient, d_coefficient.
      shape: layers, width, heads, context, vocab.
      shape_params: its parameters by convention.
      shape_flops_per_token, shape_flops: training FLOPs by convention, per token and in total.
      shape_tokens: training tokens, in whole batches.
      shape_loss: loss of this shape on these tokens.
      batch: sequences per step.
      steps: number of steps.
      learning_rate: peak learning rate.
      hours: duration on `devices` at `utilization` (both also returned).
      cost: in the currency of `price`, or None.

    Raises:
      UserError: no shape is near the optimal size.
    """
    if tokens is not None:
        flops = optimum.find_flops(tokens)
    assert flops is not None
    best = optimum.evaluate(flops)
    shape = find_shape(
        best['params'], count=count, context=context, vocab=vocab, architecture=architecture
    )
    counts = architecture.count_parameters(shape)
    flops_per_token = architecture.flops_per_token(shape)
    # The tokens that the budget allows for exactly this shape, in whole batches.
    batch = suggest_batch_size(flops, context)
    own_tokens = flops / (optimum.cost.k * counts[count] ** optimum.cost.p)
    steps = max(1, round(own_tokens / (batch * context)))
    trained = steps * batch * context
    total_flops = {name: per_token * trained for name, per_token in flops_per_token.items()}
    hours = total_flops['with_attention'] / (peak * utilization * devices) / 3600
    return {
        **best,
        'count': count,
        'shape': shape._asdict(),
        'shape_params': counts,
        'shape_flops_per_token': flops_per_token,
        'shape_flops': total_flops,
        'shape_tokens': trained,
        'shape_loss': optimum.predict(counts[count], trained)['loss'],
        'batch': batch,
        'steps': steps,
        'learning_rate': suggest_learning_rate(flops),
        'hours': hours,
        'devices': devices,
        'utilization': utilization,
        'cost': hours * devices * price if price else None,
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
