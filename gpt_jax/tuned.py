"""What of a tuned model lies in its run's checkpoints, and where is the rest?

A run that begins with the weights of another saves what it trains alone: adapters are small. What it keeps as it was is
read from where it began; a sum of it in every checkpoint says whether it still is what it was.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax.traverse_util import flatten_dict

from gpt_jax import assemble, schema, trees, tuning
from gpt_jax.data.task import TaskConfig
from gpt_jax.errors import UserError
from gpt_jax.finetune.config import TuneConfig
from gpt_jax.grown import everywhere, grown
from gpt_jax.model import weights
from gpt_jax.model.config import ModelConfig
from gpt_jax.model.lowrank import Adapted
from gpt_jax.train import checkpoint
from gpt_jax.train.state import State, Weights
from gpt_jax.tuning import Tuning

KEPT = 'kept'  # in a checkpoint's meta: the sum of what was kept
Say = Callable[[str], None]
Base = tuple[ModelConfig, Callable[[Any], Any]]  # a model, and shardings -> its weights


def saved(state: State, init_from: str) -> State:
    """What a checkpoint holds of a state, or of its shapes."""
    return state.replace(kept=None) if init_from else state


def sum_of(state: State, init_from: str) -> str:
    """Of what is kept and not saved; '' where there is nothing of that kind."""
    return trees.checksum(state.kept) if init_from and state.kept is not None else ''


def check(meta: Mapping[str, Any], kept: Any, init_from: str) -> None:
    """Raises UserError where what a run kept is no longer what it was."""
    if trees.checksum(kept) != meta[KEPT]:
        raise UserError(
            f'config.init_from: {init_from} does not hold the weights that this run began with; restore them, or begin '
            'anew with another --workdir'
        )


class Run(NamedTuple):
    """A run of which some weights are kept.

    model: for reading. base: what init_from names -> its model and weights.
    """

    folder: Path
    config: Mapping[str, Any]
    model: ModelConfig
    task: TaskConfig
    tuned: Tuning
    base: Callable[[str], Base]


def run(folder: Path, config: Mapping[str, Any], model: ModelConfig, base: Callable[[str], Base]) -> Run | None:
    """The run of a folder; None: it trains all of its weights.

    Args:
      config: of the run, whole.
    """
    tune, task = schema.from_dict(TuneConfig, config['tune'], 'tune'), assemble.task_config(config)
    boxed = assemble.declarations(model, task)
    nothing: Any = None
    tuned = tuning.tuning(tune, nothing, model, boxed, steps=0, seed=config['seed'])
    return None if tuned.abstract.kept is None else Run(folder, config, model, task, tuned, base)


def parts(of: Run, shardings: Any, step: int | None, say: Say) -> tuple[Any, Any, Mapping[str, Any]]:
    """What the run trained, what it kept, and the meta of the checkpoint.

    Args:
      shardings: of the model's own weights; what else there is lies whole on the same devices.
    """
    rest = everywhere(jax.tree.leaves(shardings)[0])
    abstract = weights.unbox(assemble.declarations(of.model, of.task))
    known = flatten_dict(shardings)
    wanted = _placed(abstract, jax.tree.map_with_path(lambda path, _: known.get(_keys(path), rest), abstract))
    whole = lambda tree: _placed(tree, jax.tree.map(lambda _: rest, tree))  # noqa: E731
    init_from = of.config['init_from']
    nothing: Any = None
    there = State(
        step=nothing, params=whole(of.tuned.abstract.trained), optimizer=None, skipped=None, in_row=None,
        kept=None if init_from else whole(of.tuned.abstract.kept),
    )  # fmt: skip
    restored = checkpoint.load(of.folder / 'checkpoints', there, step=step, announce=say)
    if not init_from:
        return restored.state.params, restored.state.kept, restored.meta
    before, taken = of.base(init_from)
    params = grown(taken, before, of.model, of.task, of.config['seed'], wanted)
    kept = jax.jit(lambda params: of.tuned.divide(params).kept)(params)
    check(restored.meta, kept, init_from)
    return restored.state.params, kept, restored.meta


def params(of: Run, shardings: Any, step: int | None, say: Say) -> Any:
    """The weights of the model alone, adapters merged into them."""
    trained, kept, _ = parts(of, shardings, step, say)

    def put(trained: Any, kept: Any) -> Any:
        found = merged(tuning.read(Weights(trained, kept)))
        return {name: found[name] for name in shardings}

    return jax.jit(put, out_shardings=shardings)(trained, kept)


def merged(params: Any) -> Any:
    """Params in which every weight is one array."""
    adapted = lambda node: isinstance(node, Adapted)  # noqa: E731
    return jax.tree.map(lambda node: node.astype(node.w.dtype) if adapted(node) else node, params, is_leaf=adapted)


def _keys(path: Any) -> tuple[str, ...]:
    return tuple(part.key for part in path)


def _placed(abstract: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda a, d: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=d), abstract, shardings)
