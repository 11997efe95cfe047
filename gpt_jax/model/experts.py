"""How are a layer's tokens sent to a few of its experts, and what comes back?

A router gives every token a probability of each expert; the token goes to the `experts_per_token` most probable ones
and gets their outputs, by their weights (Shazeer et al. 2017; Fedus et al. 2021). Tokens are sorted by expert into
blocks of rows, each block of one expert, so that an expert's work is a product of matrices:

- dropless (`capacity_factor` 0; Gale et al. 2022): as many blocks of a fixed size as the tokens need;
- with a capacity: one block for each expert, of `capacity_factor` times its fair share of rows. What finds no row is
  dropped: first the later choices, then the later tokens (Lepikhin et al. 2020). In training alone: where nothing is
  learned the config comes without a capacity (model/block.py), so that what a text gives does not depend on what it is
  read with, nor on the padding beside it.

The tokens that one device takes at once are sent by themselves, whatever the mesh; how even the choices are is known
of all. Where devices share the experts, rows go to the expert's device and back (with a capacity: Lepikhin et al.
2020), or every device takes all tokens of the others for its own experts (dropless: exact, and as slow as if all
choices fell on them).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gpt_jax.model.activation import ACTIVATIONS
from gpt_jax.model.config import ModelConfig
from gpt_jax.model.products import einsum, grouped
from gpt_jax.model.weights import Declare
from gpt_jax.parallel.place import Placement

Statistics = dict[str, jax.Array]  # float32 scalars
ROUTING_LOSSES = ('load_balance', 'router_z')  # statistics that are minimized, by the config's coefficients


def experts(declare: Declare, x_BLD: jax.Array, *, config: ModelConfig, place: Any) -> tuple[jax.Array, Statistics]:
    """Routed experts, each a gated feed-forward without biases, and beside them the shared ones (Dai et al. 2024).

    [B, L, D] -> [B, L, D] and `routed`'s statistics.
    """
    x_BLD = place.team('F').gather(x_BLD, 1)
    router = place.team('E').gather(declare('router', 'DE', 'hidden'), 1)
    gate, up = declare('gate', 'EDF', 'hidden'), declare('up', 'EDF', 'hidden')
    matrices = (router, gate, up, declare('down', 'EFD', 'residual'))
    y_BLD, statistics = place.apart(functools.partial(_local, config=config, place=place))(x_BLD, matrices)
    if config.shared_experts:
        g_BLU = einsum('BLD,DU->BLU', x_BLD, declare('shared_gate', 'DU', 'hidden'), config)
        h_BLU = einsum('BLD,DU->BLU', x_BLD, declare('shared_up', 'DU', 'hidden'), config)
        h_BLU = ACTIVATIONS[config.activation](g_BLU) * h_BLU
        y_BLD = y_BLD + einsum('BLU,UD->BLD', h_BLU, declare('shared_down', 'UD', 'residual'), config)
    return place.team('F').scatter(y_BLD, 1), statistics


def _local(
    x_BLD: jax.Array, matrices: tuple[jax.Array, ...], *, config: ModelConfig, place: Any
) -> tuple[jax.Array, Statistics]:
    """The routed experts' output for one device's tokens; dropped_tokens is the share of all choices without a row."""
    w_DE, gate, up, down = matrices
    x_TD = x_BLD.reshape(-1, x_BLD.shape[-1])
    weights_TX, chosen_TX, statistics = routed(x_TD, w_DE, config, place)
    team = place.team('E')
    if team.size > 1 and not config.capacity_factor:
        # Every device does its experts' share of all tokens: the only exact way whose shapes are known beforehand.
        x_TD, weights_TX, chosen_TX = (team.gather(a, 0) for a in (x_TD, weights_TX, chosen_TX))
        chosen_TX = chosen_TX - team.index() * len(gate)
        chosen_TX = jnp.where(chosen_TX < 0, len(gate), chosen_TX)
    plan = PLANS['capacity' if config.capacity_factor else 'dropless'](chosen_TX, config, len(gate))
    if config.capacity_factor:
        statistics['dropped_tokens'] = jnp.mean(plan.row_TX == plan.token_PC.size, dtype=jnp.float32)
    x_PCD = _to_rows(x_TD, plan)
    if config.capacity_factor:  # each expert's rows go to where it lives
        x_PCD = team.exchange(x_PCD, 0, 1)
    g_PCF = grouped(x_PCD, gate, plan.owner_P, config)
    h_PCF = ACTIVATIONS[config.activation](g_PCF) * grouped(x_PCD, up, plan.owner_P, config)
    # The weight goes in before the last product, which is linear: so the experts' outputs need not be kept.
    weights_PC = weights_TX.reshape(-1).at[plan.choice_PC].get(mode='fill', fill_value=0)
    if config.capacity_factor:
        weights_PC = team.exchange(weights_PC, 0, 1)
    y_PCD = grouped(_weighted(h_PCF, weights_PC), down, plan.owner_P, config)
    if config.capacity_factor:
        return _from_rows(team.exchange(y_PCD, 1, 0), plan).reshape(x_BLD.shape), statistics
    y_TD = team.scatter(_from_rows(y_PCD, plan), 0)
    return y_TD.reshape(x_BLD.shape), statistics


def routed(
    x_TD: jax.Array, w_DE: jax.Array, config: ModelConfig, place: Placement
) -> tuple[jax.Array, jax.Array, Statistics]:
    """Which experts each token takes. The router is float32 throughout (Fedus et al. 2021, section 2.4).

    Returns:
      weights_TX: the chosen experts' probabilities, float32; they sum to 1 where `normalize_experts` says so.
      chosen_TX: int32, the most probable expert first.
      statistics, with f_e the share of all choices that fell on expert e, and p the probabilities:
        load_balance: E x sum over e of f_e x mean(p_e); 1 where the choices are even (Fedus et al. 2021, equations
          4 to 6, without alpha; f is divided by the choices of a token, so that 1 is right for any number of them).
        router_z: mean of log(sum over e of exp(logit_e))^2 (Zoph et al. 2022, equation 5).
        router_entropy: of a token's p, in nats, mean over the tokens; log(E) where the router knows nothing.
        busiest_expert: E x the largest f_e: how many fair shares it has.
        idle_experts: the share of the experts that no token chose.
    """
    s_TE = jnp.einsum('TD,DE->TE', x_TD.astype(jnp.float32), w_DE, precision=jax.lax.Precision.HIGHEST)
    total_T = jax.nn.logsumexp(s_TE, axis=-1)
    log_p_TE = s_TE - total_T[:, None]
    p_TE = jnp.exp(log_p_TE)
    weights_TX, chosen_TX = jax.lax.top_k(p_TE, config.experts_per_token)
    if config.normalize_experts:
        weights_TX = weights_TX / jnp.sum(weights_TX, axis=-1, keepdims=True)
    shares_E = place.team('T').mean(_counts(chosen_TX, config.experts) / chosen_TX.size)
    return weights_TX, chosen_TX, {
        'load_balance': config.experts * jnp.sum(shares_E * jnp.mean(p_TE, axis=0)),
        'router_z': jnp.mean(jnp.square(total_T)),
        'router_entropy': -jnp.mean(jnp.sum(p_TE * log_p_TE, axis=-1)),
        'busiest_expert': config.experts * jnp.max(shares_E),
        'idle_experts': jnp.mean(shares_E == 0, dtype=jnp.float32),
    }  # fmt: skip


def _counts(chosen_TX: jax.Array, experts: int) -> jax.Array:
    return jnp.sum(chosen_TX.reshape(-1, 1) == jnp.arange(experts), axis=0)


class Plan(NamedTuple):
    """Which row of which block each choice has; all int32.

    row_TX: counted through all blocks; P x C for a choice that is dropped. token_PC: T where a row is empty.
    choice_PC: counted through [T, X]; T x X where a row is empty. owner_P: the blocks' experts; None: block p is
    expert p's.
    """

    row_TX: jax.Array
    token_PC: jax.Array
    choice_PC: jax.Array
    owner_P: jax.Array | None


def _dropless(chosen_TX: jax.Array, config: ModelConfig, experts: int) -> Plan:
    """Blocks of C rows; an expert has as many as its tokens fill, in whole ones. A choice beyond the experts is not
    ours."""
    choices = chosen_TX.size
    size = block_size(choices, config.experts)
    busy = min(experts, choices)
    blocks = (choices - busy) // size + busy  # whatever the routing: the most that `choices` rows can fill
    ends_E = jnp.cumsum(-(-_counts(chosen_TX, experts) // size))
    owner_P = jnp.searchsorted(ends_E, jnp.arange(blocks), side='right', method='compare_all')
    first_E = jnp.concatenate([jnp.zeros(1, ends_E.dtype), ends_E[:-1]]) * size
    row_TX = jnp.where(chosen_TX < experts, first_E[chosen_TX] + _places(chosen_TX, experts), blocks * size)
    return _plan(row_TX, (blocks, size), jnp.minimum(owner_P, experts - 1))


def block_size(choices: int, experts: int) -> int:
    """Rows of a block. Each block reads a matrix, and each expert leaves half a block empty: the cost of both, when
    reading takes as long as multiplying 64 rows, is least at the root of 64 x an expert's fair share of rows."""
    best = math.sqrt(64 * choices / experts)
    return min(choices, 2 ** max(0, math.floor(math.log2(best))))


def _capacity(chosen_TX: jax.Array, config: ModelConfig, _: int) -> Plan:
    """One block for each expert, wherever it lives."""
    tokens = chosen_TX.shape[0]
    size = capacity(tokens, config)
    place_TX = _places(chosen_TX, config.experts)
    row_TX = jnp.where(place_TX < size, chosen_TX * size + place_TX, config.experts * size)
    return _plan(row_TX, (config.experts, size), None)


def capacity(tokens: int, config: ModelConfig) -> int:
    """The most tokens that an expert takes, of `tokens` that are routed together."""
    return min(tokens, math.ceil(config.capacity_factor * tokens * config.experts_per_token / config.experts))


PLANS: dict[str, Callable[[jax.Array, ModelConfig, int], Plan]] = {'dropless': _dropless, 'capacity': _capacity}


def _places(chosen_TX: jax.Array, experts: int) -> jax.Array:
    """How many choices of the same expert come before each: all first choices, by position, then all second ones."""
    chosen = chosen_TX.T.reshape(-1)
    order = jnp.argsort(chosen, stable=True)
    counts_E = _counts(chosen_TX, experts)
    first_E = jnp.cumsum(counts_E) - counts_E
    sorted_places = jnp.arange(chosen.size) - first_E[chosen[order]]
    places = jnp.zeros_like(sorted_places).at[order].set(sorted_places, unique_indices=True)
    return places.reshape(chosen_TX.shape[::-1]).T


def _plan(row_TX: jax.Array, shape: tuple[int, int], owner_P: jax.Array | None) -> Plan:
    """The plan of that many rows, as [blocks, rows of each]."""
    rows, choices = math.prod(shape), row_TX.size
    choice = jnp.full(rows, choices, jnp.int32).at[row_TX.reshape(-1)].set(jnp.arange(choices), mode='drop')
    choice_PC = choice.reshape(shape)
    return Plan(row_TX, choice_PC // row_TX.shape[1], choice_PC, owner_P)


# Each is the other's transpose, so that both directions are gathers: no additions into rows whose order is not fixed.
@jax.custom_vjp
def _to_rows(x_TD: jax.Array, plan: Plan) -> jax.Array:
    """Every row's token; zeros in empty rows."""
    return x_TD.at[plan.token_PC].get(mode='fill', fill_value=0)


@jax.custom_vjp
def _from_rows(y_PCD: jax.Array, plan: Plan) -> jax.Array:
    """For each token the sum of its rows."""
    y_TXD = y_PCD.reshape(-1, y_PCD.shape[-1]).at[plan.row_TX].get(mode='fill', fill_value=0)
    return jnp.sum(y_TXD, axis=1, dtype=jnp.float32).astype(y_PCD.dtype)


@jax.custom_vjp
def _weighted(h_PCF: jax.Array, weights_PC: jax.Array) -> jax.Array:
    """Keeps `h_PCF` in its own type, and sums the weights' gradient in float32."""
    return (h_PCF * weights_PC[..., None]).astype(h_PCF.dtype)


def _weighted_backward(kept: tuple[jax.Array, jax.Array], dy_PCF: jax.Array) -> tuple[jax.Array, jax.Array]:
    h_PCF, weights_PC = kept
    return _weighted(dy_PCF, weights_PC), jnp.sum(dy_PCF.astype(jnp.float32) * h_PCF, axis=-1)


_weighted.defvjp(lambda h_PCF, weights_PC: (_weighted(h_PCF, weights_PC), (h_PCF, weights_PC)), _weighted_backward)
_to_rows.defvjp(
    lambda x_TD, plan: (_to_rows(x_TD, plan), plan),
    lambda plan, dx_PCD: (_from_rows(dx_PCD, plan), None),
)
_from_rows.defvjp(
    lambda y_PCD, plan: (_from_rows(y_PCD, plan), plan),
    lambda plan, dy_TD: (_to_rows(dy_TD, plan), None),
)
