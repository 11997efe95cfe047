"""What is minimized? The loss of the text, and for a task what its questions lose."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gpt_jax.data.task import TaskConfig
from gpt_jax.finetune import head
from gpt_jax.finetune.questions import decided, gathered, preferred, questions
from gpt_jax.model import loss as losses
from gpt_jax.model.config import ModelConfig
from gpt_jax.model.experts import ROUTING_LOSSES
from gpt_jax.model.gpt import GPT, Features
from gpt_jax.parallel.place import Placement
from gpt_jax.train.step import Batch, Loss

Sums = dict[str, jax.Array]
LOGITS = 2**25  # that scoring holds at a time, where the config does not ask for fewer


def summed_loss(config: ModelConfig, placement: Placement, *, train: bool, task: TaskConfig | None = None) -> Loss:
    """(params, batch, dropout key) -> (the summed objective, sums by name), as the step wants it.

    'loss' is of the text alone, in nats, or of the task's questions, and 'weight' counts targets or questions; the
    objective also has the losses that keep logits and routing in order, where the config has coefficients for them.
    """
    model = GPT(config, placement, train=train)

    def loss(params: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, Sums]:
        features = _features(model, params, batch, key)
        x_BLD = placement.team('V').gather(features.x_BLD, 1)
        kind = KINDS[task.kind] if task is not None else _text
        objective, sums = kind(params, features, x_BLD, batch, config, placement, task)
        # As means over the devices' own tokens they count alike, however many targets a device has.
        even = placement.team('BL').mean(sums['weight'])
        routing = {name: even * jnp.mean(value_N) for name, value_N in features.statistics.items()}
        # The devices that share an expert's width have routed the same tokens: each has its part of these losses.
        objective += sum(
            getattr(config, name) * value / placement.team('V').size
            for name, value in routing.items()
            if name in ROUTING_LOSSES
        )
        return objective, sums | routing

    return loss


def _features(model: GPT, params: Any, batch: Batch, key: jax.Array) -> Features:
    known = batch['inputs'], batch.get('segments'), batch.get('positions')
    features: Any = model.apply({'params': params}, *known, rngs={'dropout': key})
    return features


def _table(features: Features) -> jax.Array:
    assert features.w_VD is not None  # these params have a head
    return features.w_VD


def _text(
    _: Any, features: Features, x_BLD: jax.Array, batch: Batch, config: ModelConfig, place: Placement, __: Any
) -> tuple[jax.Array, Sums]:
    weights_BL = batch.get('weights', jnp.ones(batch['targets'].shape, jnp.float32))
    found = losses.summed_losses(x_BLD, features.w_VD, batch['targets'], weights_BL, config, place.team('V'))
    normalizer = {'z_loss': found.normalizer} if config.z_loss else {}
    return found.objective, {'loss': found.text, 'weight': jnp.sum(weights_BL)} | normalizer


def _headed(
    params: Any, features: Features, x_BLD: jax.Array, batch: Batch, config: ModelConfig, place: Placement,
    task: TaskConfig,
) -> tuple[jax.Array, Sums]:  # fmt: skip
    z_BLY = head.scores(params, x_BLD, task, config, place)
    sums = decided(gathered(z_BLY, batch, head.candidates(task)), questions(batch))
    return _with_text(sums, features, x_BLD, batch, config, place, task)


def _preferring(
    _: Any, features: Features, x_BLD: jax.Array, batch: Batch, config: ModelConfig, place: Placement,
    task: TaskConfig,
) -> tuple[jax.Array, Sums]:  # fmt: skip
    log_p_BL = losses.log_probabilities(x_BLD, _table(features), batch['targets'], config, place.team('V'))
    gained_BLY = (log_p_BL - batch['reference'])[..., None]
    sums = preferred(gathered(gained_BLY, batch, head.candidates(task)), questions(batch), task.beta)
    return _with_text(sums, features, x_BLD, batch, config, place, task)


def _with_text(
    sums: Sums, features: Features, x_BLD: jax.Array, batch: Batch, config: ModelConfig, place: Placement,
    task: TaskConfig,
) -> tuple[jax.Array, Sums]:  # fmt: skip
    """Beside it the loss of the text itself, whose weights have their coefficient (data/packed.py)."""
    # The devices that share heads have the same questions: each has its part.
    objective = sums['loss'] / place.team('V').size
    if task.auxiliary:
        text, found = _text(None, features, x_BLD, batch, config, place, None)
        objective, sums = objective + text, sums | {'text_loss': found['loss']}
    return objective, sums


KINDS: dict[str, Callable[..., tuple[jax.Array, Sums]]] = {
    'none': _text, 'answer': _text, 'prefer': _preferring, **dict.fromkeys(head.HEADED, _headed),
}  # fmt: skip


def reading(config: ModelConfig, placement: Placement, task: TaskConfig) -> Callable[[Any, Batch], jax.Array]:
    """(params, batch) -> what is read at every place: the head's scores, float32 [B, L, Y], or log p of the target in
    nats, float32 [B, L, 1]."""
    model = GPT(config, placement, train=False)

    def read(params: Any, batch: Batch) -> jax.Array:
        features, team = _features(model, params, batch, jax.random.key(0)), placement.team('V')
        x_BLD = team.gather(features.x_BLD, 1)
        if task.kind in head.HEADED:
            return head.scores(params, x_BLD, task, config, placement)
        return losses.log_probabilities(x_BLD, _table(features), batch['targets'], config, team)[..., None]

    return read


def scoring(config: ModelConfig, placement: Placement) -> Callable[[Any, Batch], tuple[jax.Array, jax.Array]]:
    """(params, batch) -> (log p in nats, whether no id is likelier), float32 and bool [B, O], of the ids 'asked' after
    the inputs at 'places', int32 [B, O] both: logits are made of these places alone."""
    model = GPT(config, placement, train=False)

    def read(params: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        features, team = _features(model, params, batch, jax.random.key(0)), placement.team('V')
        x_BLD = placement.team('L').gather(team.gather(features.x_BLD, 1), 1)  # a place may be on another device
        x_BOD, table = jnp.take_along_axis(x_BLD, batch['places'][..., None], axis=1), _table(features)
        rows, places = batch['asked'].shape
        chunk = min(config.loss_chunk or places, max(1, LOGITS // (rows * len(table))))
        return losses.predictions(x_BOD, table, batch['asked'], dataclasses.replace(config, loss_chunk=chunk), team)

    return read
