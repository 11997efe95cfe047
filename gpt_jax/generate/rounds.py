"""How does the host drive the loops on the device? One function per way of writing, each yielding what is there so far.

A method is `method(device, arrays, options, block, halted)`: it yields the batch's texts on the host after every
`block` steps until none runs, and stops those rows that its reader marks in `halted` meanwhile.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np

from gpt_jax.generate import batching, beam, decode, processors, speculative
from gpt_jax.generate.batching import Arrays
from gpt_jax.generate.decode import FULL, HALTED, RUNNING, Fixed, Model, Texts
from gpt_jax.generate.options import Options


class Drafter(NamedTuple):
    """What proposes: a smaller model of the same vocabulary, and its params; None, None: the text itself (lookup)."""

    model: Model | None
    params: Any


@dataclass
class Tally:
    """How drafts fared, over all rows: ids proposed and accepted, readings of the model."""

    proposed: int = 0
    accepted: int = 0
    readings: int = 0


@dataclass(frozen=True)
class Device:
    """A model on its devices, and its compiled programs.

    Attributes:
      params: a tree per layer.
      put: a host array whose first dim is rows -> the same on the model's devices.
      spread: the same for what every row shares.
    """

    model: Model
    params: Any
    drafter: Drafter | None
    put: Callable[[Any], Any]
    spread: Callable[[Any], Any]
    plain: decode.Compiled
    beams: beam.Compiled
    drafted: speculative.Compiled | None
    tally: Tally = field(default_factory=Tally)

    def fixed(self, arrays: Arrays) -> Fixed:
        return self.put(arrays.fixed._replace(ends_V=None))._replace(ends_V=self.spread(arrays.fixed.ends_V))


def device(
    model: Model, params: Any, drafter: Drafter | None, put: Callable[[Any], Any], spread: Callable[[Any], Any]
) -> Device:
    """Nothing is compiled before it is used."""
    drafted = speculative.compiled(model, drafter.model) if drafter else None
    return Device(model, params, drafter, put, spread, decode.compiled(model), beam.compiled(model), drafted)


Rounds = Iterator[Texts]


def plain(device: Device, arrays: Arrays, options: Options, block: int, halted: np.ndarray) -> Rounds:
    """Token by token; where a row's context is full it slides, and where its room is full there is more for all."""
    plan, fixed, context = processors.plan(options), device.fixed(arrays), device.model.config.context
    values = device.spread(processors.values(options, plan))
    read_BL, count_B, texts = device.put((arrays.read_BL, arrays.count_B, arrays.texts))
    state = device.plain.begin(device.params, read_BL, count_B, texts, sizes=arrays.sizes)
    while True:
        state = device.plain.run(device.params, state, fixed, values, np.int32(block), plan=plan)
        there, held_B = jax.device_get((state.texts, state.cache.length_B))
        short_B = (there.reason_B == FULL) & (there.length_B < arrays.limit_B)
        texts = there.replace(reason_B=np.where(short_B, RUNNING, there.reason_B))
        yield texts
        reason_B = _halted(texts, halted)
        if not np.any(reason_B == RUNNING):
            return
        if np.any(short_B & (reason_B == RUNNING)):
            wider, limit_B = batching.grown(texts.replace(reason_B=reason_B), arrays.limit_B)
            state, fixed = state.replace(texts=device.put(wider)), fixed._replace(limit_B=device.put(limit_B))
        elif np.any(reason_B != there.reason_B):
            state = state.replace(texts=state.texts.replace(reason_B=device.put(reason_B)))
        if np.any((reason_B == RUNNING) & (held_B >= context)):
            state = device.plain.slide(device.params, state, sizes=arrays.sizes)


def drafted(device: Device, arrays: Arrays, options: Options, block: int, halted: np.ndarray) -> Rounds:
    """Several tokens at a reading, where a draft guesses them."""
    assert device.drafted is not None
    assert device.drafter is not None
    plan, fixed = processors.plan(options), device.fixed(arrays)
    values = device.spread(processors.values(options, plan))
    read_BL, count_B, texts = device.put((arrays.read_BL, arrays.count_B, arrays.texts))
    both = device.params, device.drafter.params
    state = device.drafted.begin(*both, read_BL, count_B, texts, sizes=arrays.sizes)
    while True:
        state = device.drafted.run(
            *both, state, fixed, values, np.int32(block), plan=plan, proposed=options.draft_tokens
        )
        texts = jax.device_get(state.texts)
        yield texts
        reason_B = _halted(texts, halted)
        if not np.any(reason_B == RUNNING):
            break
        if np.any(reason_B != texts.reason_B):
            state = state.replace(texts=state.texts.replace(reason_B=device.put(reason_B)))
    device.tally.proposed += int(state.proposed)
    device.tally.accepted += int(state.accepted)
    device.tally.readings += int(state.readings)


def beams(device: Device, arrays: Arrays, options: Options, block: int, halted: np.ndarray) -> Rounds:
    """All at once: which text is the best is known at the end. Yields `num_return_sequences` rows per prompt."""
    del block, halted
    plan, fixed = processors.plan(options), device.fixed(arrays)
    values = device.spread(processors.values(options, plan))
    read_BL, count_B, texts = device.put((arrays.read_BL, arrays.count_B, arrays.texts))
    state = device.beams.begin(device.params, read_BL, count_B, texts, sizes=arrays.sizes, beams=options.num_beams)
    state = device.beams.run(
        device.params, state, fixed, values, np.float32(options.length_penalty), plan=plan,
        ends=int(arrays.fixed.ends_V.sum()), early_stopping=options.early_stopping,
    )  # fmt: skip
    yield beam.results(jax.device_get(state.finished), options.num_return_sequences, arrays.fixed.ends_V)


def _halted(texts: Texts, halted: np.ndarray) -> np.ndarray:
    return np.where((np.asarray(texts.reason_B) == RUNNING) & halted, HALTED, texts.reason_B)


Method = Callable[[Device, Arrays, Options, int, np.ndarray], Rounds]
METHODS: Mapping[str, Method] = {'plain': plain, 'drafted': drafted, 'beams': beams}
