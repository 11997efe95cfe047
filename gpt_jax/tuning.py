"""What of a run's model is trained, what is kept, and how fast does each part learn? The `tune.` words as functions."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax.traverse_util import flatten_dict

from gpt_jax import parametrization, schema
from gpt_jax.finetune import rates, split
from gpt_jax.finetune.config import TuneConfig
from gpt_jax.model import weights
from gpt_jax.model.config import ModelConfig
from gpt_jax.optim.config import OptimizerConfig
from gpt_jax.train.state import Weights

ADAPTERS = 2**31  # what the seed's key is folded with to draw them; the steps, and init as 0, are the smaller numbers


class Tuning(NamedTuple):
    """Of one run.

    abstract, letters: of what is trained and of what is kept. reading: both of what `read` makes of them.
    in_part: the stacks of which some layers are trained.
    divide: params -> both. whole: both, in the form that a loss wants -> the params that it wants.
    optimizer: the peak of the learning rate, or None for the config's -> the transformation and the rate.
    """

    abstract: Weights
    letters: Weights
    reading: tuple[Any, Any]
    in_part: list[str]
    divide: Callable[[Any], Weights]
    whole: Callable[[Weights], Any]
    optimizer: Callable[[Any], Any]


def tuning(
    tune: TuneConfig, optimizer: OptimizerConfig, model: ModelConfig, boxed: Any, *, steps: int, seed: int
) -> Tuning:
    """As the config wants it of these declared weights; raises UserError for a name that means none of them."""
    parts = split.plan(tune, flatten_dict(weights.letters(boxed), sep='/'), model.layers)
    factors = parametrization.factors(weights.roles(boxed), model)

    def divide(params: Any) -> Weights:
        return Weights(*split.divide(params, parts, jax.random.fold_in(jax.random.key(seed), ADAPTERS)))

    abstract, letters = jax.eval_shape(divide, weights.unbox(boxed)), Weights(*split.letters_of(parts))
    return Tuning(
        abstract=abstract,
        letters=letters,
        reading=(
            jax.eval_shape(read, abstract),
            split.whole(letters.trained, letters.kept, weave=lambda one, _: one.value),
        ),
        in_part=parts.in_part,
        divide=divide,
        whole=functools.partial(read, rate=tune.dropout),
        optimizer=lambda peak: rates.optimizer(optimizer, tune, parts, factors, steps, peak),
    )


def check(tuned: Tuning, stages: int) -> None:
    """Raises UserError where a pipeline of so many stages would cut a stack of which some layers are trained."""
    schema.require(
        stages == 1 or not tuned.in_part,
        'mesh.pipeline',
        f'{stages} devices share the layers, and of {", ".join(tuned.in_part[:1])} some are trained and some are not; '
        'mesh.fsdp shares weights otherwise',
    )


def read(both: Weights, rate: float = 0.0) -> Any:
    """The params as the model takes them.

    Args:
      rate: of the adapters' dropout.
    """
    return split.whole(both.trained, both.kept, rate)
