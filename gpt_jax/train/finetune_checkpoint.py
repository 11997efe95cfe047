"""Checkpoints of fine-tuned models, which hold only the trainable parameters.

A run that starts from another model's weights saves only the parameters that it trains, since
adapters are small. It reloads the frozen parameters from the source (config.init_from); every
checkpoint stores their checksum, so that a changed source is detected.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jax.sharding import NamedSharding, PartitionSpec

from gpt_jax.core import config_fields, trees
from gpt_jax.core.config import FinetuneConfig, ModelConfig, TaskConfig, parse_section
from gpt_jax.core.errors import UserError
from gpt_jax.core.progress import LogFn
from gpt_jax.finetune.lora import merge_adapted
from gpt_jax.finetune.partition import PartitionedParams, Partitioner
from gpt_jax.model import weights
from gpt_jax.train.build import declare_params, init_params
from gpt_jax.train.checkpoint import load_checkpoint
from gpt_jax.train.mesh_layout import add_shardings
from gpt_jax.train.step import State

FROZEN_CHECKSUM = 'frozen_checksum'  # a key of a checkpoint's meta
# Shardings of the parameters -> the parameters on their devices.
LoadFn = Callable[[Any], Any]
PretrainedBase = tuple[ModelConfig, LoadFn]


def resize_params(
    load_params: LoadFn,
    source: ModelConfig,
    model: ModelConfig,
    task: TaskConfig | None,
    seed: int,
    target: Any,
) -> Any:
    """Load parameters into a model with a larger vocabulary, another context or a task's head.

    Args:
      load_params: loads the parameters of the model `source`.
      source: config of the model to load from.
      model: config of the model to load into.
      task: the task whose head is added; None: no head.
      seed: new rows and the head get the initial values of a run with this seed.
      target: shapes and shardings of the result.
    """
    abstract = weights.unbox(declare_params(source))
    names = trees.name_leaves(abstract)
    targets = dict(zip(trees.name_leaves(target), jax.tree.leaves(target), strict=True))

    def load_sharding(name: str, leaf: Any) -> Any:
        # A resized leaf is small enough to be replicated.
        sharding = targets[name].sharding
        return sharding if targets[name].shape == leaf.shape else replicate_sharding(sharding)

    def resize(loaded: Any) -> Any:
        key = jax.random.fold_in(jax.random.key(seed), 0)
        initial = weights.unbox(init_params(model, key, task))
        old = dict(zip(names, jax.tree.leaves(loaded), strict=True))
        leaves = [
            _resize_leaf(old.get(name), new, source.vocab_size)
            for name, new in zip(trees.name_leaves(initial), jax.tree.leaves(initial), strict=True)
        ]
        return jax.tree.unflatten(jax.tree.structure(initial), leaves)

    shardings = [
        load_sharding(name, leaf)
        for name, leaf in zip(names, jax.tree.leaves(abstract), strict=True)
    ]
    loaded = load_params(jax.tree.unflatten(jax.tree.structure(abstract), shardings))
    target_shardings = jax.tree.map(lambda leaf: leaf.sharding, target)
    return jax.jit(resize, out_shardings=target_shardings)(loaded)


def _resize_leaf(old: Any, new: jax.Array, vocab_size: int) -> jax.Array:
    """Return `old` in the shape of `new`, with rows of `new` where `old` has none."""
    if old is None:
        return new
    if old.shape == new.shape:
        return old
    if len(new) < len(old):  # positions of a longer context
        return old[: len(new)]
    return jnp.concatenate([old[:vocab_size], new[vocab_size:]])


def replicate_sharding(sharding: Any) -> Any:
    """Return the sharding that replicates an array on the same devices."""
    if not isinstance(sharding, NamedSharding):
        return sharding
    return NamedSharding(sharding.mesh, PartitionSpec())


def drop_unsaved(state: State, init_from: str) -> State:
    """Return the part of a state, or of its shapes, that a checkpoint stores."""
    return state.replace(frozen=None) if init_from else state


def checksum_frozen(state: State, init_from: str) -> str:
    """Return the checksum of the frozen parameters if they are not saved, else ''."""
    return trees.checksum_tree(state.frozen) if init_from and state.frozen is not None else ''


def verify_frozen(meta: Mapping[str, Any], frozen: Any, init_from: str) -> None:
    """Raise UserError if the frozen parameters are not those that the run began with."""
    if trees.checksum_tree(frozen) != meta[FROZEN_CHECKSUM]:
        raise UserError(
            f'config.init_from: {init_from} must hold the weights that this run began with, but '
            'they have changed; restore them, or start again with another --workdir'
        )


class FinetunedRun(NamedTuple):
    """A run with frozen parameters.

    folder: the run's folder.
    raw_config: the run's complete config.
    model: the model's config for inference.
    load_base: the value of init_from -> the base model's config and a function that loads it.
    """

    folder: Path
    raw_config: Mapping[str, Any]
    model: ModelConfig
    task: TaskConfig
    partitioner: Partitioner
    load_base: Callable[[str], PretrainedBase]


def open_finetuned_run(
    folder: Path,
    raw_config: Mapping[str, Any],
    model: ModelConfig,
    load_base: Callable[[str], PretrainedBase],
) -> FinetunedRun | None:
    """Open a run with frozen parameters; None if the run trains everything.

    The arguments are fields of `FinetunedRun`.
    """
    finetune = config_fields.from_dict(FinetuneConfig, raw_config['finetune'], 'finetune')
    task: TaskConfig = parse_section(raw_config, 'task')
    boxed = declare_params(model, task)
    partitioner = Partitioner(finetune, model, boxed, seed=raw_config['seed'])
    if partitioner.abstract.frozen is None:
        return None
    return FinetunedRun(folder, raw_config, model, task, partitioner, load_base)


def load_partition(
    run: FinetunedRun, shardings: Any, step: int | None, log: LogFn
) -> tuple[Any, Any, Mapping[str, Any]]:
    """Load the parameters of a run: (trainable, frozen, the checkpoint's meta).

    Args:
      run: see `open_finetuned_run`.
      shardings: those of the model's own parameters; all other parameters are replicated on the
        same devices.
      step: the checkpoint's step; None: the newest.
      log: receives lines for the user.

    Raises:
      UserError: there is no intact checkpoint, or the frozen parameters have changed.
    """
    replicated = replicate_sharding(jax.tree.leaves(shardings)[0])
    replicate = lambda tree: add_shardings(tree, jax.tree.map(lambda _: replicated, tree))
    init_from = run.raw_config['init_from']
    absent: Any = None
    saved = State(
        step=absent,
        params=replicate(run.partitioner.abstract.trainable),
        opt_state=None,
        skipped_steps=None,
        skipped_in_row=None,
        frozen=None if init_from else replicate(run.partitioner.abstract.frozen),
    )
    restored = load_checkpoint(run.folder / 'checkpoints', saved, step=step, log=log)
    if not init_from:
        return restored.state.params, restored.state.frozen, restored.meta

    abstract = weights.unbox(declare_params(run.model, run.task))
    sharding_by_path = flatten_dict(shardings)
    param_shardings = jax.tree.map_with_path(
        lambda path, _: sharding_by_path.get(tuple(key.key for key in path), replicated), abstract
    )
    source, load_params = run.load_base(init_from)
    target = add_shardings(abstract, param_shardings)
    params = resize_params(load_params, source, run.model, run.task, run.raw_config['seed'], target)
    frozen = jax.jit(lambda params: run.partitioner.partition(params).frozen)(params)
    verify_frozen(restored.meta, frozen, init_from)
    return restored.state.params, frozen, restored.meta


def load_merged_params(run: FinetunedRun, shardings: Any, step: int | None, log: LogFn) -> Any:
    """Load the model's parameters with adapters merged; arguments as in `load_partition`."""
    trainable, frozen, _ = load_partition(run, shardings, step, log)

    def merge(trainable: Any, frozen: Any) -> Any:
        merged = merge_adapted(run.partitioner.combine(PartitionedParams(trainable, frozen)))
        return {name: merged[name] for name in shardings}

    return jax.jit(merge, out_shardings=shardings)(trainable, frozen)
