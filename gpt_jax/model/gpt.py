"""A decoder-only transformer: token embedding, positions, layers, final norm, head.

Every choice is a field of the config's model section, whose value is a registered name or a dotted
path 'package.module:function'. The choices, their sources and the modules that implement them:

- Layer: pre-norm (GPT-2, Radford et al. 2019), post-norm (Vaswani et al. 2017; GPT-1), norm of a
  branch's output (Swin v2, Liu et al. 2022; OLMo 2), norms before and after a branch (CogView,
  Ding et al. 2021; Gemma 2), or parallel attention and feed-forward with one norm (GPT-J; PaLM,
  Chowdhery et al. 2022) or two (GPT-NeoX, Black et al. 2022). This module.
- Norm: layer norm (Ba et al. 2016), RMS norm (Zhang & Sennrich 2019). norms.py
- Positions: learned (GPT-1 to GPT-3), rotary (Su et al. 2021) with linear, NTK, Llama 3 or YaRN
  scaling, ALiBi (Press et al. 2022), none (Haviv et al. 2022). position.py
- Attention: multi-head, grouped-query or multi-query (Ainslie et al. 2023); full, local windows,
  or both in turn (GPT-3, Brown et al. 2020); QK norm (Henry et al. 2020), soft cap, sink; exact
  kernels that store no scores (Dao et al. 2022). attention.py
- Feed-forward: two matrices, gated (Shazeer 2020). feedforward.py. Routed experts (Shazeer et al.
  2017; Fedus et al. 2021), dropless or with a capacity, and shared experts (Dai et al. 2024).
  experts.py
- Head: tied to the embedding or separate; soft cap and z-loss (Chowdhery et al. 2022). loss.py
- Parametrization: standard (GPT-2's residual scaling), muP (Yang et al. 2022), CompleteP (Dey et
  al. 2025). core/parametrization.py

The model returns features instead of logits: loss.py multiplies them with the head in chunks, so
that the [B, L, V] logits need not exist at once.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gpt_jax.core.config import ModelConfig
from gpt_jax.core.model_counts import count_norms
from gpt_jax.core.parametrization import forward_multipliers
from gpt_jax.core.registry import resolve
from gpt_jax.model.attention import ATTENTIONS
from gpt_jax.model.experts import RoutingStatistics, routed_experts
from gpt_jax.model.feedforward import gated, mlp
from gpt_jax.model.kv_cache import KVCache, LayerKVCache, SlotInfo
from gpt_jax.model.mask import NO_WINDOW, AttentionMask
from gpt_jax.model.matmul import MATMUL_RESULT, apply_multiplier
from gpt_jax.model.norms import NORMS
from gpt_jax.model.position import get_position_scheme
from gpt_jax.model.weights import FunctionModule, ParamFn
from gpt_jax.parallel.pipeline import run_pipeline
from gpt_jax.parallel.sharding import ShardingPolicy


class GPTOutput(NamedTuple):
    """The features of every token, and further results for the loss and the next call.

    x_BLD: the features that the head reads, in `activation_dtype`.
    w_VD: the head's weights, float32; None if the head is untied and not among the params.
    cache: the given cache with these tokens added; None if none was given.
    statistics: statistics of expert routing, float32 [N] each; empty if nothing is routed.
    """

    x_BLD: jax.Array
    w_VD: jax.Array | None
    cache: KVCache | None
    statistics: RoutingStatistics


class GPT(nn.Module):
    """A decoder-only transformer.

    config: the model's config.
    policy: how activations and weights are sharded over the mesh (parallel/sharding.py).
    train: whether dropout and the experts' capacity are on; needs an rng named 'dropout' if the
      rate is above 0.
    """

    config: ModelConfig
    policy: ShardingPolicy
    train: bool

    @nn.compact
    def __call__(
        self,
        tokens_BL: jax.Array,
        segments_BL: jax.Array | None = None,
        positions_BL: jax.Array | None = None,
        *,
        cache: KVCache | None = None,
        count_B: jax.Array | None = None,
        prefill: bool = False,
    ) -> GPTOutput:
        """Compute the features of every token.

        Args:
          tokens_BL: int32 ids in [0, vocab_size).
          segments_BL: int32; attention stays within a segment. None: one segment per row.
          positions_BL: int32 in [0, context). None: 0, 1, 2, ..., or those that follow the cache.
          cache: keys and values of the preceding tokens. Needs one tree of weights per layer
            (`unstack_layers`), and excludes segments and positions.
          count_B: with a cache, how many tokens of each row are real; the rest are padding at the
            end. None: all.
          prefill: whether the cache is known to be empty; otherwise one call adds at most the
            cache's `chunk` tokens.
        """
        config, policy = self.config, self.policy
        slots: tuple[SlotInfo | None, ...] = (None,) * config.layers
        if cache is not None:
            batch, length = tokens_BL.shape
            count_B = jnp.full(batch, length, jnp.int32) if count_B is None else count_B
            slots = tuple(SlotInfo(c, cache.length_B, count_B, prefill) for c in cache.layers)
            positions_BL = None if prefill else cache.length_B[:, None] + jnp.arange(length)

        table_VD = FunctionModule(_embedding_table, config, policy, name='embedding')()
        x_BLD = policy.activation(_embed(table_VD, tokens_BL, config, policy), 'BLD')
        if config.scale_embedding:
            x_BLD = apply_multiplier(x_BLD, math.sqrt(config.width))
        if (add_positions := get_position_scheme(config).add) is not None:
            x_BLD = FunctionModule(add_positions, config, policy, name='position')(
                x_BLD, positions_BL
            )
        x_BLD = nn.Dropout(config.dropout, deterministic=not self.train)(x_BLD)

        layer_caches: tuple[LayerKVCache, ...] = ()
        inputs = (x_BLD, segments_BL, positions_BL)
        stacked = self.is_initializing() or self.has_variable('params', 'blocks')
        if not stacked:
            x_BLD, layer_caches, statistics = self._run_unrolled(*inputs, slots)
        elif policy.group('N').size > 1:
            x_BLD, statistics = self._run_pipelined(*inputs)
        else:
            x_BLD, statistics = _scan_layers(config, policy, self.train)(*inputs)

        if config.final_norm:
            norm = resolve(config.norm, NORMS, 'model.norm')
            x_BLD = FunctionModule(norm, config, policy, name='norm')(x_BLD)
        x_BLD = apply_multiplier(x_BLD, forward_multipliers(config).logits)
        w_VD = table_VD if config.tied_head else None
        if not config.tied_head and (self.is_initializing() or self.has_variable('params', 'head')):
            w_VD = FunctionModule(_head_weight, config, policy, name='head')()
        if cache is not None and count_B is not None:
            cache = KVCache(layer_caches, cache.length_B + count_B)
        return GPTOutput(x_BLD, w_VD, cache, statistics)

    def _run_unrolled(
        self,
        x_BLD: jax.Array,
        segments_BL: jax.Array | None,
        positions_BL: jax.Array | None,
        slots: tuple[SlotInfo | None, ...],
    ) -> tuple[jax.Array, tuple[LayerKVCache, ...], RoutingStatistics]:
        """Run the layers one after the other, each with its own tree of weights."""
        block_class = _make_block_class(self.config, self.policy)
        caches, statistics = [], []
        for n, (layer, slot) in enumerate(zip(list_layers(self.config), slots, strict=True)):
            block = block_class(self.config, self.policy, self.train, layer, name=f'block_{n}')
            x_BLD, (cache, layer_statistics) = block(x_BLD, segments_BL, positions_BL, {}, slot)
            caches.append(cache)
            statistics.append(layer_statistics)
        return x_BLD, tuple(caches), jax.tree.map(lambda *values: jnp.stack(values), *statistics)

    def _run_pipelined(
        self, x_BLD: jax.Array, segments_BL: jax.Array | None, positions_BL: jax.Array | None
    ) -> tuple[jax.Array, RoutingStatistics]:
        """Run the layers as a pipeline of devices that hold different layers."""
        stage = PipelineStage(self.config, self.policy, self.train)
        key = self.make_rng('dropout') if self.train and self.has_rng('dropout') else None

        def run_stage(
            params: Any, x_BLD: jax.Array, side_inputs: Any, microbatch: jax.Array
        ) -> tuple[jax.Array, Any]:
            rngs = None if key is None else {'dropout': jax.random.fold_in(key, microbatch)}
            return stage.apply({'params': {'blocks': params}}, x_BLD, *side_inputs, rngs=rngs)

        params: Any = self.get_variable('params', 'blocks')
        return run_pipeline(
            run_stage,
            params,
            x_BLD,
            (segments_BL, positions_BL),
            group=self.policy.group('N'),
            microbatch_rows=self.policy.microbatch_rows,
        )


def _embedding_table(param: ParamFn, *, config: ModelConfig, policy: ShardingPolicy) -> jax.Array:
    del config, policy
    return param('table_VD', 'VD', 'embedding')


def _head_weight(param: ParamFn, *, config: ModelConfig, policy: ShardingPolicy) -> jax.Array:
    del config, policy
    return param('weight_VD', 'VD', 'head')


def _embed(
    table_VD: jax.Array, tokens_BL: jax.Array, config: ModelConfig, policy: ShardingPolicy
) -> jax.Array:
    """Look up the tokens' rows of the table.

    If devices share the rows of the table, each looks up its own rows; the results are summed, and
    each device gets its part of the length.
    """
    group = policy.group('V')
    if group.size == 1:
        return table_VD[tokens_BL].astype(config.activation_dtype)
    row_BL = tokens_BL - group.index() * len(table_VD)
    local_BL = (row_BL >= 0) & (row_BL < len(table_VD))
    x_BLD = table_VD[jnp.where(local_BL, row_BL, 0)].astype(config.activation_dtype)
    return group.reduce_scatter(jnp.where(local_BL[..., None], x_BLD, 0), 1)


# The layers as one loop, as stages of a pipeline, or unrolled


class LayerSettings(NamedTuple):
    """What differs between the layers of a model: fields of `AttentionMask`."""

    window: int | jax.Array | None = None
    score_factor: float | jax.Array | None = None


# For each setting, the number that does the same as None.
NEUTRAL_SETTINGS = {'window': NO_WINDOW, 'score_factor': 1.0}


def list_layers(config: ModelConfig) -> list[LayerSettings]:
    """Return the settings of each layer."""
    layers = []
    for n, kind in enumerate(config.layer_kinds):
        factor = math.sqrt(config.head_dim / config.attention_scale_dim)
        if config.attention_layer_scaling:
            factor /= n + 1
        window = config.window if kind == 'window' else None
        layers.append(LayerSettings(window, None if factor == 1 else factor))
    return layers


def _scan_layers(
    config: ModelConfig, policy: ShardingPolicy, train: bool
) -> Callable[..., tuple[jax.Array, RoutingStatistics]]:
    """Return a function that runs this device's layers as one loop over stacked weights.

    A setting that differs between the layers is an input of each iteration.
    """
    shared: dict[str, Any] = {}
    varying: dict[str, jax.Array] = {}
    for name, neutral in NEUTRAL_SETTINGS.items():
        values = [getattr(layer, name) for layer in list_layers(config)]
        if len(set(values)) == 1:
            shared[name] = values[0]
        else:
            numbers_N = jnp.array([neutral if value is None else value for value in values])
            varying[name] = policy.group('N').shard(numbers_N, 0)
    scanned = nn.scan(
        _make_block_class(config, policy),
        variable_axes={'params': 0},
        split_rngs={'params': True, 'dropout': True},
        in_axes=(nn.broadcast, nn.broadcast, 0 if varying else nn.broadcast, nn.broadcast),
        length=config.layers // policy.group('N').size,
    )(config, policy, train, LayerSettings(**shared), name='blocks')

    def run(
        x_BLD: jax.Array, segments_BL: jax.Array | None, positions_BL: jax.Array | None
    ) -> tuple[jax.Array, RoutingStatistics]:
        x_BLD, (_, statistics) = scanned(x_BLD, segments_BL, positions_BL, varying, None)
        return x_BLD, statistics

    return run


class PipelineStage(nn.Module):
    """The layers that one stage of the pipeline holds."""

    config: ModelConfig
    policy: ShardingPolicy
    train: bool

    @nn.compact
    def __call__(
        self, x_BLD: jax.Array, segments_BL: jax.Array | None, positions_BL: jax.Array | None
    ) -> tuple[jax.Array, RoutingStatistics]:
        run = _scan_layers(self.config, self.policy, self.train)
        return run(x_BLD, segments_BL, positions_BL)


def _make_block_class(config: ModelConfig, policy: ShardingPolicy) -> Any:
    """Return Block, with rematerialization if the config or the sharding policy asks for it."""
    remat_policy = policy.remat_policy
    if config.remat == 'none' and remat_policy is None:
        return Block
    if config.remat == 'dots':
        remat_policy = jax.checkpoint_policies.save_only_these_names(MATMUL_RESULT)
    if config.remat == 'block':
        remat_policy = None  # saves only the inputs
    return nn.remat(Block, policy=remat_policy, prevent_cse=not config.scan_layers)


# One layer

NormFn = Callable[[jax.Array], jax.Array]
Norms = tuple[NormFn, ...]  # as many as core/model_counts.py counts: norm_1, norm_2, ...
BranchFn = Callable[[jax.Array], tuple[jax.Array, Any]]  # -> (output, auxiliary output)
# The residual stream [B, L, D], then the auxiliary outputs of attention and of feed-forward.
BlockOutput = tuple[jax.Array, Any, Any]


def pre_norm_block(x_BLD: jax.Array, norms: Norms, attend: BranchFn, feed: BranchFn) -> BlockOutput:
    """Compute x + attention(norm(x)), then x + feedforward(norm(x)) (GPT-2 and later)."""
    y_BLD, cache = attend(norms[0](x_BLD))
    x_BLD = x_BLD + y_BLD
    y_BLD, statistics = feed(norms[1](x_BLD))
    return x_BLD + y_BLD, cache, statistics


def post_norm_block(
    x_BLD: jax.Array, norms: Norms, attend: BranchFn, feed: BranchFn
) -> BlockOutput:
    """Compute norm(x + attention(x)), then norm(x + feedforward(x)) (Vaswani et al. 2017)."""
    y_BLD, cache = attend(x_BLD)
    x_BLD = norms[0](x_BLD + y_BLD)
    y_BLD, statistics = feed(x_BLD)
    return norms[1](x_BLD + y_BLD), cache, statistics


def output_norm_block(
    x_BLD: jax.Array, norms: Norms, attend: BranchFn, feed: BranchFn
) -> BlockOutput:
    """Compute x + norm(attention(x)), then x + norm(feedforward(x)) (OLMo 2)."""
    y_BLD, cache = attend(x_BLD)
    x_BLD = x_BLD + norms[0](y_BLD)
    y_BLD, statistics = feed(x_BLD)
    return x_BLD + norms[1](y_BLD), cache, statistics


def sandwich_norm_block(
    x_BLD: jax.Array, norms: Norms, attend: BranchFn, feed: BranchFn
) -> BlockOutput:
    """Compute x + norm(attention(norm(x))), then x + norm(feedforward(norm(x))) (Gemma 2).

    The first two norms precede the branches, the last two follow them.
    """
    y_BLD, cache = attend(norms[0](x_BLD))
    x_BLD = x_BLD + norms[2](y_BLD)
    y_BLD, statistics = feed(norms[1](x_BLD))
    return x_BLD + norms[3](y_BLD), cache, statistics


def parallel_block(x_BLD: jax.Array, norms: Norms, attend: BranchFn, feed: BranchFn) -> BlockOutput:
    """Compute x + attention(norm(x)) + feedforward(norm(x)), with one norm (GPT-J; PaLM)."""
    normed_BLD = norms[0](x_BLD)
    (y_BLD, cache), (z_BLD, statistics) = attend(normed_BLD), feed(normed_BLD)
    return x_BLD + y_BLD + z_BLD, cache, statistics


def parallel_two_norms_block(
    x_BLD: jax.Array, norms: Norms, attend: BranchFn, feed: BranchFn
) -> BlockOutput:
    """Compute x + attention(norm(x)) + feedforward(norm(x)), with two norms (GPT-NeoX)."""
    (y_BLD, cache), (z_BLD, statistics) = attend(norms[0](x_BLD)), feed(norms[1](x_BLD))
    return x_BLD + y_BLD + z_BLD, cache, statistics


BLOCKS = {
    'pre_norm': pre_norm_block,
    'post_norm': post_norm_block,
    'output_norm': output_norm_block,
    'sandwich_norm': sandwich_norm_block,
    'parallel': parallel_block,
    'parallel_two_norms': parallel_two_norms_block,
}
FEEDFORWARDS = {'mlp': mlp, 'gated': gated, 'experts': routed_experts}


class Block(nn.Module):
    """One layer, with the signature of a `lax.scan` body: (carry, inputs) -> (carry, outputs).

    layer: the settings of this layer, except those that are an input because they differ between
      layers that share one loop.
    """

    config: ModelConfig
    policy: ShardingPolicy
    train: bool
    layer: LayerSettings

    @nn.compact
    def __call__(
        self,
        x_BLD: jax.Array,
        segments_BL: jax.Array | None,
        positions_BL: jax.Array | None,
        varying: Mapping[str, jax.Array],
        slot: SlotInfo | None,
    ) -> tuple[jax.Array, tuple[LayerKVCache | None, RoutingStatistics]]:
        config, policy = self.config, self.policy
        combine = resolve(config.block, BLOCKS, 'model.block')
        norm = resolve(config.norm, NORMS, 'model.norm')
        norms = tuple(
            FunctionModule(norm, config, policy, name=f'norm_{n + 1}')
            for n in range(count_norms(config))
        )
        attention = FunctionModule(
            resolve(config.attention, ATTENTIONS, 'model.attention'),
            config,
            policy,
            name='attention',
        )
        # Only training drops tokens; without a capacity, routing is dropless.
        feedforward = FunctionModule(
            resolve(config.feedforward, FEEDFORWARDS, 'model.feedforward'),
            config if self.train else dataclasses.replace(config, capacity_factor=0.0),
            policy,
            name='feedforward',
        )
        dropout = nn.Dropout(config.dropout, deterministic=not self.train)
        multiplier = forward_multipliers(config).branch
        layer = self.layer._replace(**varying)
        mask = AttentionMask(segments_BL, layer.window, None, None, layer.score_factor)

        def attend(y_BLD: jax.Array) -> tuple[jax.Array, LayerKVCache | None]:
            o_BLD, cache = attention(y_BLD, positions_BL, mask, slot)
            return apply_multiplier(dropout(o_BLD), multiplier), cache

        def feed(y_BLD: jax.Array) -> tuple[jax.Array, RoutingStatistics]:
            o_BLD, statistics = feedforward(y_BLD)
            return apply_multiplier(dropout(o_BLD), multiplier), statistics

        x_BLD, cache, statistics = combine(x_BLD, norms, attend, feed)
        return policy.activation(x_BLD, 'BLD'), (cache, statistics)


# Stacked params ('blocks': [N, ...]) and per-layer params ('block_0', 'block_1', ...)


def unstack_layers(params: Any, layers: int) -> Any:
    """Return the params with one tree per layer instead of one stack, for unrolled layers.

    A step does this once, outside the loop over microbatches: on a CPU every slice of a stack is
    a copy.
    """
    rest = {name: subtree for name, subtree in params.items() if name != 'blocks'}
    return rest | {
        f'block_{n}': jax.tree.map(lambda a, n=n: a[n], params['blocks']) for n in range(layers)
    }
