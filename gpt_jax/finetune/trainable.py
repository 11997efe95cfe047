"""The trainable parameters of a run and their optimizer, from the config section `finetune`."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
import optax
from flax.traverse_util import flatten_dict

from gpt_jax.core import config_fields, parametrization
from gpt_jax.core.config import FinetuneConfig, ModelConfig, OptimizerConfig
from gpt_jax.core.parametrization import OptimizerMultipliers
from gpt_jax.finetune import partition
from gpt_jax.finetune.partition import PartitionedParams
from gpt_jax.model import weights
from gpt_jax.optim.optimizers import make_optimizer
from gpt_jax.optim.transforms import scale_learning_rates

# Random stream of the adapters' initial values. The seed's key is folded with 0 for the model's
# initial values and with the step for dropout, which are smaller numbers.
ADAPTER_STREAM = 2**31
INPUT_MODULES = ('embedding', 'position')  # before the first layer


class Partitioner:
    """Partitions a run's parameters into trainable and frozen ones, and makes the optimizer.

    abstract: shapes and dtypes of both parts.
    logical_axes: logical axes of both parts.
    combined_abstract, combined_axes: the same for the result of `combine`.
    """

    def __init__(self, config: FinetuneConfig, model: ModelConfig, boxed: Any, seed: int):
        """Apply the config to a model.

        Args:
          config: the section `finetune`.
          model: the model section.
          boxed: the declared parameters, abstract, including the head of a task.
          seed: determines the adapters' initial values.

        Raises:
          UserError: a name of the config matches no parameter, or nothing would be trained.
        """
        self._config, self._seed = config, seed
        logical_axes = flatten_dict(weights.logical_axes(boxed), sep='/')
        self._plan = partition.plan_partition(config, logical_axes, model.layers)
        self._multipliers = parametrization.optimizer_multipliers(weights.param_roles(boxed), model)

        self.abstract: PartitionedParams = jax.eval_shape(self.partition, weights.unbox(boxed))
        self.logical_axes = partition.partition_logical_axes(self._plan)
        self.combined_abstract = jax.eval_shape(self.combine, self.abstract)
        self.combined_axes = partition.combine(
            self.logical_axes, merge_layers=lambda first, _: first.value
        )

    def partition(self, params: Any) -> PartitionedParams:
        """Partition the model's parameters, with new adapters."""
        key = jax.random.fold_in(jax.random.key(self._seed), ADAPTER_STREAM)
        return partition.partition(params, self._plan, key)

    def combine(self, params: PartitionedParams) -> Any:
        """Combine both parts into the model's parameters, for evaluation."""
        return partition.combine(params)

    def combine_with_dropout(self, params: PartitionedParams) -> Any:
        """Combine both parts in the form that the loss takes, for training."""
        return partition.combine(params, self._config.dropout)

    def make_optimizer(
        self, config: OptimizerConfig, steps: int, peak: float | jax.Array | None = None
    ) -> tuple[optax.GradientTransformation, optax.Schedule]:
        """Make the optimizer of the trainable part; arguments as in optim/optimizers.py.

        All multipliers of adapters are 1, so they decay like matrices.
        """
        plan, ones = self._plan, dict.fromkeys(self._plan.adapted, 1.0)
        params_info = OptimizerMultipliers(
            *(
                partition.make_trainable_multipliers(plan, flatten_dict(tree, sep='/'), ones)
                for tree in self._multipliers
            )
        )
        optimizer, schedule = make_optimizer(config, params_info, steps, peak)
        if self._config.layer_decay < 1:
            decay = make_layer_multipliers(plan.logical_axes, plan.layers, self._config.layer_decay)
            optimizer = scale_learning_rates(
                optimizer, partition.make_trainable_multipliers(plan, decay, decay)
            )
        return optimizer, schedule

    def check_pipeline(self, stages: int) -> None:
        """Raise UserError if the stages of a pipeline would split a stack that is partly frozen."""
        split_stacks = self._plan.split_stacks
        config_fields.require(
            stages == 1 or not split_stacks,
            'mesh.pipeline',
            f'must be 1 if only some layers of {", ".join(split_stacks[:1])} are trained, got '
            f'{stages}; mesh.fsdp also distributes parameters',
        )


def make_layer_multipliers(paths: Iterable[str], layers: int, decay: float) -> dict[str, Any]:
    """Make multipliers of the learning rate for layer-wise decay: lower layers learn more slowly.

    With L layers, the multiplier is decay^(L - l) for layer l (from 0), decay^(L + 1) for the
    embedding and positions before the layers, and 1 after them (the last norm, a head); as in Clark
    et al. 2020 (ELECTRA, appendix B) and Bao et al. 2022 (BEiT), after Howard and Ruder 2018.

    Returns:
      By path, a number, or float32 [N] for a stack of layers.
    """
    layer_multipliers = np.float32(decay) ** np.arange(layers, 0, -1, dtype=np.float32)

    def multiplier(path: str) -> Any:
        module = path.split('/')[0]
        if decay == 1 or (module != 'blocks' and module not in INPUT_MODULES):
            return 1.0
        return layer_multipliers if module == 'blocks' else decay ** (layers + 1)

    return {path: multiplier(path) for path in paths}
