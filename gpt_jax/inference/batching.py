"""Batching of generation requests: prompts of any length become arrays with few static shapes.

Every compiled size (rows, prompt tokens, capacity of sequences and cache) is rounded up to a power
of two, so that prompts of all lengths share a handful of compiled programs. Padding rows are HALTED
from the start, and padding tokens are masked out of attention.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.core.errors import UserError
from gpt_jax.inference.decode import HALTED, RUNNING, CacheShape, SequenceSettings, SequenceState
from gpt_jax.inference.options import DEFAULT_NEW_TOKENS, GenerationOptions
from gpt_jax.inference.sampling import derive_seed

MIN_BUCKET = 16  # tokens
UNBOUNDED = 1 << 62
# Long sequences start with this capacity in tokens, which grows by the factor whenever it is full.
INITIAL_CAPACITY, CAPACITY_GROWTH = 4096, 4
# Limit of |log10(length^length_penalty)|; it leaves float32 room for the log-probability.
MAX_SCORE_EXPONENT = 30


class TokenizedPrompt(NamedTuple):
    """A tokenized prompt.

    Attributes:
      text: as given by the user.
      ids: int32 [L].
    """

    text: str
    ids: np.ndarray


@dataclass(frozen=True)
class GenerationRequest:
    """One text to generate; with beam search, all texts of one prompt.

    Attributes:
      prompt: what the text continues.
      max_length: maximum number of tokens, prompt included.
      min_length: number of tokens below which the text must not end, prompt included.
      seed: seed of the text's own random stream.
    """

    prompt: TokenizedPrompt
    max_length: int
    min_length: int
    seed: int


def make_requests(
    prompts: Sequence[TokenizedPrompt], options: GenerationOptions, context: int
) -> list[GenerationRequest]:
    """Make the requests of all prompts, grouped by prompt.

    Args:
      prompts: each becomes one request per returned sequence or, with beam search, a single one.
      options: the generation options.
      context: the model's context length.

    Raises:
      UserError: an empty prompt, or one that leaves no room for the requested tokens.
    """
    requests = []
    for number, prompt in enumerate(prompts):
        length = len(prompt.ids)
        prefix = f'prompt {number + 1}: ' if len(prompts) > 1 else ''
        max_length = _max_length(length, options, context, prefix)
        min_length = _min_length(length, max_length, options, prefix)
        _check_length_penalty(max_length - length, options, prefix)
        for sequence in range(1 if options.num_beams > 1 else options.num_return_sequences):
            seed = derive_seed(options.seed, number, sequence)
            requests.append(GenerationRequest(prompt, max_length, min_length, seed))
    return requests


def _max_length(length: int, options: GenerationOptions, context: int, prefix: str) -> int:
    """Return the maximum length of a text whose prompt has `length` tokens."""
    if not length:
        raise UserError(f'{prefix}the prompt must have at least one token, got none')
    slides = options.context_overflow == 'sliding_window'
    if options.max_length and length >= options.max_length:
        raise UserError(
            f'{prefix}max_length: must be above {length}, the length of the prompt, '
            f'got {options.max_length}; raise it, or use max_new_tokens, which excludes the prompt'
        )
    if not slides and length >= context:
        raise UserError(
            f"{prefix}the prompt's {length} tokens fill the model's context of {context}; "
            'shorten it, or continue from its end with context_overflow=sliding_window'
        )
    if not options.max_length and not options.max_new_tokens:
        default = length + DEFAULT_NEW_TOKENS
        return default if slides else min(default, context)
    max_length = options.max_length or length + options.max_new_tokens
    if not slides and max_length > context:
        raise UserError(
            f'{prefix}{length} prompt tokens and {max_length - length} new tokens exceed the '
            f"model's context of {context}; request at most {context - length}, or add "
            'context_overflow=sliding_window'
        )
    return max_length


def _min_length(length: int, max_length: int, options: GenerationOptions, prefix: str) -> int:
    """Return the minimum length of a text whose prompt has `length` tokens."""
    min_new = options.min_new_tokens
    bounds = {
        'min_length': options.min_length,
        'min_new_tokens': length + min_new if min_new else 0,
    }
    name = max(bounds, key=lambda name: bounds[name])
    if bounds[name] > max_length:
        raise UserError(
            f'{prefix}{name}: must be reachable with {length} prompt tokens and '
            f'{max_length - length} new tokens, got {getattr(options, name)}; lower it, or raise '
            f'max_new_tokens ({DEFAULT_NEW_TOKENS} by default)'
        )
    return bounds[name]


def _check_length_penalty(new_tokens: int, options: GenerationOptions, prefix: str) -> None:
    limit = MAX_SCORE_EXPONENT / math.log10(max(2, new_tokens))
    if options.num_beams > 1 and abs(options.length_penalty) > limit:
        raise UserError(
            f'{prefix}length_penalty: must be in [-{limit:.1f}, {limit:.1f}] for {new_tokens} new '
            f'tokens, got {options.length_penalty:g}; beyond this range, scores overflow float32'
        )


def round_up_to_bucket(size: int, maximum: int) -> int:
    """Round `size` up to a power of two of at least MIN_BUCKET and at most `maximum`; 0 stays 0."""
    return min(max(MIN_BUCKET, 1 << (size - 1).bit_length()), maximum) if size else 0


def split_batches(
    requests: Sequence[GenerationRequest], rows: int
) -> Iterator[list[GenerationRequest]]:
    """Yield the requests in order, `rows` at a time."""
    for start in range(0, len(requests), rows):
        yield list(requests[start : start + rows])


class GenerationBatch(NamedTuple):
    """The arrays of one batch, on the host.

    Attributes:
      prefill_BL: int32, the tokens to prefill: all but each prompt's last one.
      count_B: int32, valid tokens per row of `prefill_BL`.
      sequences: the prompts; where their capacity is below `max_length_B`, it grows during
        generation (`grow_capacity`).
      settings: constants of the sequences; its max_length_B is limited to the current capacity.
      cache_shape: static sizes of the KV cache.
      max_length_B: int32, final maximum length of each sequence.
    """

    prefill_BL: np.ndarray
    count_B: np.ndarray
    sequences: SequenceState
    settings: SequenceSettings
    cache_shape: CacheShape
    max_length_B: np.ndarray


def make_batch(
    requests: Sequence[GenerationRequest],
    *,
    context: int,
    chunk: int,
    row_shards: int,
    is_end_V: np.ndarray,
    min_rows: int = 1,
) -> GenerationBatch:
    """Make the arrays of a batch, with the number of rows rounded up.

    Args:
      requests: one per row.
      context: the model's context length.
      chunk: tokens that a decoding step processes at once.
      row_shards: number of devices among which the rows are divided.
      is_end_V: bool, the ids that end a sequence.
      min_rows: minimum number of rows.
    """
    rows = max(min_rows, 1 << (len(requests) - 1).bit_length())
    rows = -(-rows // row_shards) * row_shards
    prompts = [request.prompt.ids for request in requests]
    prefills = [_select_prefill(ids, context) for ids in prompts]
    longest_prompt = max(map(len, prompts))
    longest_text = max(request.max_length for request in requests)
    capacity = round_up_to_bucket(
        min(longest_text, max(INITIAL_CAPACITY, context, longest_prompt + 1)), UNBOUNDED
    )

    def pad_rows(values: Sequence[int], padding: int, dtype: Any = np.int32) -> np.ndarray:
        return np.array([*values, *[padding] * (rows - len(requests))], dtype)

    tokens_BL = _stack_rows(prompts, rows, capacity)
    prompt_length_B = pad_rows([len(ids) for ids in prompts], 1)
    max_length_B = pad_rows([request.max_length for request in requests], 1)
    return GenerationBatch(
        prefill_BL=_stack_rows(
            prefills, rows, round_up_to_bucket(max(map(len, prefills)), context)
        ),
        count_B=pad_rows([len(ids) for ids in prefills], 0),
        sequences=SequenceState(
            tokens_BL=tokens_BL,
            log_p_BL=np.zeros(tokens_BL.shape, np.float32),
            length_B=prompt_length_B,
            status_B=pad_rows([RUNNING] * len(requests), HALTED),
        ),
        settings=SequenceSettings(
            prompt_length_B=prompt_length_B.copy(),
            max_length_B=np.minimum(max_length_B, capacity),
            min_length_B=pad_rows([request.min_length for request in requests], 0),
            seed_B=pad_rows([request.seed for request in requests], 0, np.uint32),
            is_end_V=is_end_V,
        ),
        cache_shape=CacheShape(min(capacity, context), chunk),
        max_length_B=max_length_B,
    )


def _stack_rows(parts: Sequence[np.ndarray], rows: int, length: int) -> np.ndarray:
    """Stack token rows of different lengths, padded with zeros. int32 [rows, length]."""
    stacked_BL = np.zeros((rows, length), np.int32)
    for row, ids in enumerate(parts):
        stacked_BL[row, : len(ids)] = ids
    return stacked_BL


def _select_prefill(ids: np.ndarray, context: int) -> np.ndarray:
    """Return the ids to prefill: all but the prompt's last one, or those that fit when sliding."""
    before = ids[:-1]
    return before if len(before) < context else before[len(before) - context // 2 :]


def grow_capacity(
    sequences: SequenceState, max_length_B: np.ndarray
) -> tuple[SequenceState, np.ndarray]:
    """Return the sequences (on the host) with more capacity, and their new maximum lengths."""
    capacity = CAPACITY_GROWTH * sequences.tokens_BL.shape[1]
    padding = ((0, 0), (0, capacity - sequences.tokens_BL.shape[1]))
    grown = sequences.replace(
        tokens_BL=np.pad(sequences.tokens_BL, padding), log_p_BL=np.pad(sequences.log_p_BL, padding)
    )
    return grown, np.minimum(max_length_B, capacity)
