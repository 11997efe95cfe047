"""How fast does each layer learn? Layer-wise decay: lower layers, which know what is common to all text, move less.

Of L layers, layer l (from 0) learns at decay^(L - l) times the rate, what comes before the layers at decay^(L + 1)
times, and what comes after them (the last norm, the head, whatever a task adds) at the whole of it; as Clark et al.
2020 (ELECTRA, appendix B) and Bao et al. 2022 (BEiT) count, after Howard and Ruder 2018.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import optax
from flax.traverse_util import flatten_dict

from gpt_jax.finetune.config import TuneConfig
from gpt_jax.finetune.split import Split, numbers_of
from gpt_jax.optim import updates
from gpt_jax.optim.config import OptimizerConfig
from gpt_jax.parametrization import Factors

BEFORE = ('embedding', 'position')  # of a path's first parts, those of what the first layer reads


def by_layer(paths: Iterable[str], layers: int, decay: float) -> dict[str, Any]:
    """Factors on the learning rate by path: a number, or float32 [N] for a stack of layers."""
    each = np.float32(decay) ** np.arange(layers, 0, -1, dtype=np.float32)

    def factor(path: str) -> Any:
        first = path.split('/')[0]
        if decay == 1 or (first != 'blocks' and first not in BEFORE):
            return 1.0
        return each if first == 'blocks' else decay ** (layers + 1)

    return {path: factor(path) for path in paths}


def optimizer(
    config: OptimizerConfig, tune: TuneConfig, split: Split, factors: Factors, steps: int, peak: Any
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer of what is trained, and its learning rate.

    Args:
      factors: of all the model's weights, trees like the params. Of an adapter's all are 1: it decays as a matrix.
      peak: as in optim/updates.py.
    """
    ones = dict.fromkeys(split.adapted, 1.0)
    trained = Factors(*(numbers_of(split, flatten_dict(tree, sep='/'), ones) for tree in factors))
    transformation, rate = updates.make(config, trained, steps, peak)
    if tune.layer_decay < 1:
        each = by_layer(split.letters, split.layers, tune.layer_decay)
        transformation = updates.at_rates(transformation, numbers_of(split, each, each))
    return transformation, rate
