"""Mixture of experts: a router sends each token to a few of a layer's feed-forwards.

The router gives each token a probability of every expert; the token goes to the `experts_per_token`
most probable ones and receives their outputs, weighted (Shazeer et al. 2017; Fedus et al. 2021).
Tokens are sorted by expert into blocks of rows, each belonging to one expert, so that an expert's
work is a matrix product:

- dropless (`capacity_factor` 0; Gale et al. 2022): as many blocks of a fixed size as the tokens
  need;
- with a capacity: one block for each expert, of `capacity_factor` times its fair share of rows.
  Choices without a row are dropped: first the later choices, then the later tokens (Lepikhin et al.
  2020). This applies only in training: otherwise model/gpt.py sets the capacity to 0, so that a
  sequence's output depends neither on the rest of its batch nor on padding.

Each device routes its own tokens, on any mesh; the balance statistics cover all devices. If devices
share the experts, rows travel to their expert's device and back (with a capacity; Lepikhin et al.
2020), or every device gathers the tokens of all devices for its own experts (dropless: exact, but
as slow as if all choices fell on them).
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gpt_jax.core.config import ModelConfig
from gpt_jax.core.parametrization import forward_multipliers
from gpt_jax.model.feedforward import get_activation
from gpt_jax.model.matmul import apply_multiplier, einsum, grouped_matmul
from gpt_jax.model.weights import ParamFn
from gpt_jax.parallel.sharding import ShardingPolicy

RoutingStatistics = dict[str, jax.Array]  # float32 scalars
# The statistics that are minimized; each has a coefficient of the same name in the config.
ROUTING_LOSSES = ('load_balance', 'router_z')


def routed_experts(
    param: ParamFn, x_BLD: jax.Array, *, config: ModelConfig, policy: ShardingPolicy
) -> tuple[jax.Array, RoutingStatistics]:
    """Apply routed experts, each a gated feed-forward without biases, and shared experts.

    Every token passes through the shared experts (Dai et al. 2024). [B, L, D] -> [B, L, D], and
    `route_tokens`' statistics.
    """
    x_BLD = policy.group('F').all_gather(x_BLD, 1)
    router = policy.group('E').all_gather(param('router', 'DE', 'head'), 1)
    gate, up = param('gate', 'EDF', 'hidden'), param('up', 'EDF', 'hidden')
    weights = (router, gate, up, param('down', 'EFD', 'residual'))
    apply = policy.shard_map_block(functools.partial(_apply_routed, config=config, policy=policy))
    y_BLD, statistics = apply(x_BLD, weights)
    if config.shared_experts:
        g_BLU = einsum('BLD,DU->BLU', x_BLD, param('shared_gate', 'DU', 'hidden'), config)
        h_BLU = einsum('BLD,DU->BLU', x_BLD, param('shared_up', 'DU', 'hidden'), config)
        h_BLU = get_activation(config)(g_BLU) * h_BLU
        down_UD = param('shared_down', 'UD', 'residual')
        y_BLD = y_BLD + einsum('BLU,UD->BLD', h_BLU, down_UD, config)
    return policy.group('F').reduce_scatter(y_BLD, 1), statistics


def _apply_routed(
    x_BLD: jax.Array, weights: tuple[jax.Array, ...], *, config: ModelConfig, policy: ShardingPolicy
) -> tuple[jax.Array, RoutingStatistics]:
    """Compute the routed experts' output for one device's tokens.

    With a capacity, the statistics include dropped_tokens, the share of all choices without a row.
    """
    router_DE, gate, up, down = weights
    x_TD = x_BLD.reshape(-1, x_BLD.shape[-1])
    weights_TX, experts_TX, statistics = route_tokens(x_TD, router_DE, config, policy)
    group = policy.group('E')
    if config.capacity_factor:
        plan = _plan_with_capacity(experts_TX, config)
        dropped_TX = plan.row_TX == plan.token_PC.size
        statistics['dropped_tokens'] = jnp.mean(dropped_TX, dtype=jnp.float32)
    else:
        if group.size > 1:
            # Every device applies its own experts to all tokens: the only exact way whose shapes
            # are known at trace time.
            x_TD, weights_TX, experts_TX = (
                group.all_gather(a, 0) for a in (x_TD, weights_TX, experts_TX)
            )
            experts_TX = experts_TX - group.index() * len(gate)
            experts_TX = jnp.where(experts_TX < 0, len(gate), experts_TX)
        plan = _plan_dropless(experts_TX, config, len(gate))
    x_PCD = _to_rows(x_TD, plan)
    # The output is linear in the weight, so it can multiply the last product's input: the experts'
    # outputs then need not be stored.
    weights_PC = weights_TX.reshape(-1).at[plan.choice_PC].get(mode='fill', fill_value=0)
    if config.capacity_factor:  # each expert's rows travel to its device
        x_PCD, weights_PC = group.all_to_all(x_PCD, 0, 1), group.all_to_all(weights_PC, 0, 1)
    g_PCF = grouped_matmul(x_PCD, gate, plan.owner_P, config)
    h_PCF = get_activation(config)(g_PCF) * grouped_matmul(x_PCD, up, plan.owner_P, config)
    y_PCD = grouped_matmul(_weight_rows(h_PCF, weights_PC), down, plan.owner_P, config)
    if config.capacity_factor:
        y_TD = _from_rows(group.all_to_all(y_PCD, 1, 0), plan)
    else:
        y_TD = group.reduce_scatter(_from_rows(y_PCD, plan), 0)
    return y_TD.reshape(x_BLD.shape), statistics


def route_tokens(
    x_TD: jax.Array, router_DE: jax.Array, config: ModelConfig, policy: ShardingPolicy
) -> tuple[jax.Array, jax.Array, RoutingStatistics]:
    """Choose the experts of each token.

    Returns:
      weights_TX: the chosen experts' probabilities, float32; they sum to 1 if `normalize_experts`.
      experts_TX: int32, the most probable expert first.
      statistics, with f_e the share of all choices that fell on expert e, and p the probabilities:
        load_balance: E x sum over e of f_e x mean(p_e); 1 if the choices are even (Fedus et al.
          2021, equations 4 to 6, without alpha; f is divided by the choices per token, so that 1
          means even for any number of them).
        router_z: mean of log(sum over e of exp(logit_e))^2 (Zoph et al. 2022, equation 5).
        router_entropy: entropy of p in nats, averaged over the tokens; log(E) for a uniform router.
        busiest_expert: E x the largest f_e: the number of fair shares that this expert has.
        idle_experts: the share of the experts that no token chose.
    """
    logits_TE = compute_router_logits(x_TD, router_DE, config)
    lse_T = jax.nn.logsumexp(logits_TE, axis=-1)
    log_p_TE = logits_TE - lse_T[:, None]
    p_TE = jnp.exp(log_p_TE)
    weights_TX, experts_TX = jax.lax.top_k(p_TE, config.experts_per_token)
    if config.normalize_experts:
        weights_TX = weights_TX / jnp.sum(weights_TX, axis=-1, keepdims=True)
    local_shares_E = _count_choices(experts_TX, config.experts) / experts_TX.size
    shares_E = policy.group('T').mean(local_shares_E)
    statistics = {
        'load_balance': config.experts * jnp.sum(shares_E * jnp.mean(p_TE, axis=0)),
        'router_z': jnp.mean(jnp.square(lse_T)),
        'router_entropy': -jnp.mean(jnp.sum(p_TE * log_p_TE, axis=-1)),
        'busiest_expert': config.experts * jnp.max(shares_E),
        'idle_experts': jnp.mean(shares_E == 0, dtype=jnp.float32),
    }
    return weights_TX, experts_TX, statistics


def compute_router_logits(x_TD: jax.Array, router_DE: jax.Array, config: ModelConfig) -> jax.Array:
    """Compute the router's logits [T, E].

    The router is float32 throughout (Fedus et al. 2021, section 2.4). Like the head, it maps a
    growing width to a fixed number of outputs, and a parametrization treats it alike.
    """
    logits_TE = jnp.einsum(
        'TD,DE->TE', x_TD.astype(jnp.float32), router_DE, precision=jax.lax.Precision.HIGHEST
    )
    return apply_multiplier(logits_TE, forward_multipliers(config).logits)


def _count_choices(experts_TX: jax.Array, experts: int) -> jax.Array:
    return jnp.sum(experts_TX.reshape(-1, 1) == jnp.arange(experts), axis=0)


# Assignment of choices to rows of blocks


class DispatchPlan(NamedTuple):
    """The assignment of choices to rows; all int32.

    row_TX: the row of each choice, counted through all blocks; P x C for a dropped choice.
    token_PC: the token of each row; T for an empty row.
    choice_PC: the choice of each row, counted through [T, X]; T x X for an empty row.
    owner_P: the expert of each block; None: block p belongs to expert p.
    """

    row_TX: jax.Array
    token_PC: jax.Array
    choice_PC: jax.Array
    owner_P: jax.Array | None


def _plan_dropless(experts_TX: jax.Array, config: ModelConfig, experts: int) -> DispatchPlan:
    """Plan blocks of C rows; an expert gets as many whole blocks as its tokens need.

    An expert number of `experts` or above belongs to another device.
    """
    choices = experts_TX.size
    size = dispatch_block_size(choices, config.experts)
    # The most blocks that `choices` rows can fill under any routing.
    busy_experts = min(experts, choices)
    blocks = (choices - busy_experts) // size + busy_experts
    ends_E = jnp.cumsum(-(-_count_choices(experts_TX, experts) // size))
    owner_P = jnp.searchsorted(ends_E, jnp.arange(blocks), side='right', method='compare_all')
    starts_E = jnp.concatenate([jnp.zeros(1, ends_E.dtype), ends_E[:-1]]) * size
    row_TX = starts_E[experts_TX] + _rank_choices(experts_TX, experts)
    row_TX = jnp.where(experts_TX < experts, row_TX, blocks * size)
    return _invert_plan(row_TX, (blocks, size), jnp.minimum(owner_P, experts - 1))


def dispatch_block_size(choices: int, experts: int) -> int:
    """Return the number of rows per block.

    Each block reads a matrix, and each expert leaves half a block empty on average. If reading a
    matrix takes as long as multiplying 64 rows, the total cost is least near the root of 64 x an
    expert's fair share of rows.
    """
    best = math.sqrt(64 * choices / experts)
    return min(choices, 2 ** max(0, math.floor(math.log2(best))))


def _plan_with_capacity(experts_TX: jax.Array, config: ModelConfig) -> DispatchPlan:
    """Plan one block for each expert, whichever device holds it."""
    size = expert_capacity(experts_TX.shape[0], config)
    rank_TX = _rank_choices(experts_TX, config.experts)
    row_TX = jnp.where(rank_TX < size, experts_TX * size + rank_TX, config.experts * size)
    return _invert_plan(row_TX, (config.experts, size), None)


def expert_capacity(tokens: int, config: ModelConfig) -> int:
    """Return the maximum number of tokens that an expert takes, of `tokens` routed together."""
    fair_share = tokens * config.experts_per_token / config.experts
    return min(tokens, math.ceil(config.capacity_factor * fair_share))


def _rank_choices(experts_TX: jax.Array, experts: int) -> jax.Array:
    """Count how many choices of the same expert precede each one.

    All first choices come first, by position, then all second choices, and so on.
    """
    flat = experts_TX.T.reshape(-1)
    order = jnp.argsort(flat, stable=True)
    counts_E = _count_choices(experts_TX, experts)
    starts_E = jnp.cumsum(counts_E) - counts_E
    sorted_ranks = jnp.arange(flat.size) - starts_E[flat[order]]
    ranks = jnp.zeros_like(sorted_ranks).at[order].set(sorted_ranks, unique_indices=True)
    return ranks.reshape(experts_TX.shape[::-1]).T


def _invert_plan(
    row_TX: jax.Array, shape: tuple[int, int], owner_P: jax.Array | None
) -> DispatchPlan:
    """Make the plan from the rows of the choices; `shape` is [blocks, rows of each]."""
    choices = row_TX.size
    empty = jnp.full(math.prod(shape), choices, jnp.int32)
    choice = empty.at[row_TX.reshape(-1)].set(jnp.arange(choices), mode='drop')
    choice_PC = choice.reshape(shape)
    return DispatchPlan(row_TX, choice_PC // row_TX.shape[1], choice_PC, owner_P)


# `_to_rows` and `_from_rows` are each other's transpose, so both directions are gathers: nothing is
# added to rows in an order that may vary.


@jax.custom_vjp
def _to_rows(x_TD: jax.Array, plan: DispatchPlan) -> jax.Array:
    """Return the token of every row; zeros in empty rows."""
    return x_TD.at[plan.token_PC].get(mode='fill', fill_value=0)


@jax.custom_vjp
def _from_rows(y_PCD: jax.Array, plan: DispatchPlan) -> jax.Array:
    """Return the sum of each token's rows."""
    y_TXD = y_PCD.reshape(-1, y_PCD.shape[-1]).at[plan.row_TX].get(mode='fill', fill_value=0)
    return jnp.sum(y_TXD, axis=1, dtype=jnp.float32).astype(y_PCD.dtype)


@jax.custom_vjp
def _weight_rows(h_PCF: jax.Array, weights_PC: jax.Array) -> jax.Array:
    """Multiply rows by weights in the rows' dtype; the weights' gradient is summed in float32."""
    return (h_PCF * weights_PC[..., None]).astype(h_PCF.dtype)


def _weight_rows_backward(
    residuals: tuple[jax.Array, jax.Array], dy_PCF: jax.Array
) -> tuple[jax.Array, jax.Array]:
    h_PCF, weights_PC = residuals
    d_weights_PC = jnp.sum(dy_PCF.astype(jnp.float32) * h_PCF, axis=-1)
    return _weight_rows(dy_PCF, weights_PC), d_weights_PC


_weight_rows.defvjp(
    lambda h_PCF, weights_PC: (_weight_rows(h_PCF, weights_PC), (h_PCF, weights_PC)),
    _weight_rows_backward,
)
_to_rows.defvjp(
    lambda x_TD, plan: (_to_rows(x_TD, plan), plan),
    lambda plan, dx_PCD: (_from_rows(dx_PCD, plan), None),
)
_from_rows.defvjp(
    lambda y_PCD, plan: (_from_rows(y_PCD, plan), plan),
    lambda plan, dy_TD: (_to_rows(dy_TD, plan), None),
)
