"""Host-side drivers of the decoding loops: sampling, speculative decoding and beam search.

A decoding method is called as `method(engine, batch, options, block, halted)`. It yields the
batch's sequences on the host after every `block` steps until none is running. In between, it halts
the rows that the consumer has marked in `halted`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np

from gpt_jax.inference import batching, beam_search, decode, sampling, speculative
from gpt_jax.inference.batching import GenerationBatch
from gpt_jax.inference.decode import (
    FULL,
    HALTED,
    RUNNING,
    InferenceModel,
    SequenceSettings,
    SequenceState,
)
from gpt_jax.inference.options import GenerationOptions


class DraftModel(NamedTuple):
    """The source of draft tokens.

    Attributes:
      model: a smaller model with the same vocabulary; None: lookup in the sequence itself.
      params: the draft model's, a tree per layer; None: lookup.
    """

    model: InferenceModel | None
    params: Any


@dataclass
class SpeculativeStats:
    """Statistics of speculative decoding over all rows.

    Attributes:
      proposed: number of draft tokens proposed.
      accepted: number of draft tokens accepted.
      readings: number of forward passes of the model.
    """

    proposed: int = 0
    accepted: int = 0
    readings: int = 0


@dataclass(frozen=True)
class DecodeEngine:
    """A model on its devices, with its compiled programs.

    Attributes:
      params: a tree per layer.
      put_rows: shards host arrays over the model's devices by their first dim, the rows.
      replicate: copies host arrays that all rows share to each of the model's devices.
    """

    model: InferenceModel
    params: Any
    draft: DraftModel | None
    put_rows: Callable[[Any], Any]
    replicate: Callable[[Any], Any]
    decoding: decode.CompiledDecode
    beam_search: beam_search.CompiledBeamSearch
    speculative: speculative.CompiledSpeculative | None
    speculative_stats: SpeculativeStats = field(default_factory=SpeculativeStats)

    def put_settings(self, settings: SequenceSettings) -> SequenceSettings:
        """Put the settings of a batch on the devices."""
        is_end_V = self.replicate(settings.is_end_V)
        return self.put_rows(settings._replace(is_end_V=None))._replace(is_end_V=is_end_V)


def make_engine(
    model: InferenceModel,
    params: Any,
    draft: DraftModel | None,
    put_rows: Callable[[Any], Any],
    replicate: Callable[[Any], Any],
) -> DecodeEngine:
    """Make the engine of a model; its programs are compiled at first use."""
    return DecodeEngine(
        model,
        params,
        draft,
        put_rows,
        replicate,
        decoding=decode.compile_decode(model),
        beam_search=beam_search.compile_beam_search(model),
        speculative=speculative.compile_speculative(model, draft.model) if draft else None,
    )


Snapshots = Iterator[SequenceState]  # on the host


def run_sampling(
    engine: DecodeEngine,
    batch: GenerationBatch,
    options: GenerationOptions,
    block: int,
    halted: np.ndarray,
) -> Snapshots:
    """Generate token by token, greedily or by sampling.

    When a row's context is full, it slides; when a row's capacity is used up, that of all rows
    grows.
    """
    plan, settings = sampling.make_sampling_plan(options), engine.put_settings(batch.settings)
    values = engine.replicate(sampling.collect_option_values(options, plan))
    inputs = engine.put_rows((batch.prefill_BL, batch.count_B, batch.sequences))
    params, cache_shape = engine.params, batch.cache_shape
    state = engine.decoding.prefill(params, *inputs, cache_shape=cache_shape)
    while True:
        state = engine.decoding.run(params, state, settings, values, np.int32(block), plan=plan)
        on_host, cached_B = jax.device_get((state.sequences, state.cache.length_B))
        # FULL on the device may only mean that the current capacity is used up.
        short_B = (on_host.status_B == FULL) & (on_host.length_B < batch.max_length_B)
        sequences = on_host.replace(status_B=np.where(short_B, RUNNING, on_host.status_B))
        yield sequences
        status_B = _halt_rows(sequences, halted)
        running_B = status_B == RUNNING
        if not np.any(running_B):
            return
        if np.any(short_B & running_B):
            sequences, max_length_B = batching.grow_capacity(
                sequences.replace(status_B=status_B), batch.max_length_B
            )
            state = state.replace(sequences=engine.put_rows(sequences))
            settings = settings._replace(max_length_B=engine.put_rows(max_length_B))
        elif np.any(status_B != on_host.status_B):
            state = _put_status(engine, state, status_B)
        if np.any(running_B & (cached_B >= engine.model.config.context)):
            state = engine.decoding.slide(params, state, cache_shape=cache_shape)


def run_speculative(
    engine: DecodeEngine,
    batch: GenerationBatch,
    options: GenerationOptions,
    block: int,
    halted: np.ndarray,
) -> Snapshots:
    """Generate several tokens per forward pass where the draft predicts them correctly."""
    assert engine.speculative is not None
    assert engine.draft is not None
    plan, settings = sampling.make_sampling_plan(options), engine.put_settings(batch.settings)
    values = engine.replicate(sampling.collect_option_values(options, plan))
    inputs = engine.put_rows((batch.prefill_BL, batch.count_B, batch.sequences))
    both_params = engine.params, engine.draft.params
    state = engine.speculative.prefill(*both_params, *inputs, cache_shape=batch.cache_shape)
    while True:
        state = engine.speculative.run(
            *both_params,
            state,
            settings,
            values,
            np.int32(block),
            plan=plan,
            draft_tokens=options.draft_tokens,
        )
        sequences = jax.device_get(state.sequences)
        yield sequences
        status_B = _halt_rows(sequences, halted)
        if not np.any(status_B == RUNNING):
            break
        if np.any(status_B != sequences.status_B):
            state = _put_status(engine, state, status_B)
    engine.speculative_stats.proposed += int(state.proposed)
    engine.speculative_stats.accepted += int(state.accepted)
    engine.speculative_stats.readings += int(state.readings)


def run_beam_search(
    engine: DecodeEngine,
    batch: GenerationBatch,
    options: GenerationOptions,
    block: int,
    halted: np.ndarray,
) -> Snapshots:
    """Run the search to its end and yield once: `num_return_sequences` rows per prompt."""
    del block, halted  # the best text is only known at the end
    plan, settings = sampling.make_sampling_plan(options), engine.put_settings(batch.settings)
    values = engine.replicate(sampling.collect_option_values(options, plan))
    inputs = engine.put_rows((batch.prefill_BL, batch.count_B, batch.sequences))
    state = engine.beam_search.prefill(
        engine.params, *inputs, cache_shape=batch.cache_shape, beams=options.num_beams
    )
    state = engine.beam_search.run(
        engine.params,
        state,
        settings,
        values,
        np.float32(options.length_penalty),
        plan=plan,
        end_ids=int(batch.settings.is_end_V.sum()),
        early_stopping=options.early_stopping,
    )
    yield beam_search.collect_best(
        jax.device_get(state.finished), options.num_return_sequences, batch.settings.is_end_V
    )


def _halt_rows(sequences: SequenceState, halted: np.ndarray) -> np.ndarray:
    """Return the status of each row, set to HALTED where a running row is marked."""
    running_B = np.asarray(sequences.status_B) == RUNNING
    return np.where(running_B & halted, HALTED, sequences.status_B)


def _put_status(engine: DecodeEngine, state: Any, status_B: np.ndarray) -> Any:
    """Return the state on the devices with a new status."""
    sequences = state.sequences.replace(status_B=engine.put_rows(status_B))
    return state.replace(sequences=sequences)


DecodingMethod = Callable[
    [DecodeEngine, GenerationBatch, GenerationOptions, int, np.ndarray], Snapshots
]
DECODING_METHODS: Mapping[str, DecodingMethod] = {
    'sampling': run_sampling,
    'speculative': run_speculative,
    'beam_search': run_beam_search,
}
