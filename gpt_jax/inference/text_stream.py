"""Streaming text generation: incremental detokenization, stop strings and finish reasons.

Emitted text never changes: bytes that may still become a character, and a suffix that may still
become a stop string, are held back.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gpt_jax.core.errors import UserError
from gpt_jax.inference import batching
from gpt_jax.inference.batching import GenerationRequest, TokenizedPrompt
from gpt_jax.inference.decode import ENDED, FULL, RUNNING, SequenceState
from gpt_jax.inference.engine import DECODING_METHODS, DecodeEngine
from gpt_jax.inference.options import GenerationOptions, check_draft_options

REPLACEMENT_CHARACTER = '\ufffd'  # how decoders show bytes that are not, or not yet, a character
UNINTERRUPTED_STEPS = 1 << 20  # decoding steps per call if the text is not streamed
STOP_CHECK_STEPS = 16  # maximum decoding steps per call if there are stop strings


class DetokenizerStream:
    """Incremental decoder for the ids of one text.

    Attributes:
      text: the text after the prompt that can no longer change; after a stop string or `close`,
        all of it.
      stopped: whether a stop string occurred; `text` ends before it.

    Args:
      decode: ids to text.
      prompt: the prompt's ids.
      stops: strings that end the text.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str], prompt: Sequence[int], stops: tuple[str, ...]
    ):
        self.text, self.stopped = '', False
        self._decode, self._stops, self._emitted = decode, stops, 0
        # The window holds the ids up to the last position where the text was complete
        # (`_complete` of them), and those added since. They are decoded together because the text
        # of an id may depend on the previous one. The first `_known` characters of the decoded
        # window are already in `text` or in the prompt.
        self._window = list(prompt)
        self._complete, self._known = len(self._window), len(decode(self._window))

    def add(self, id_: int) -> str:
        """Add the next id and return the text that can no longer change."""
        self._window.append(id_)
        decoded = self._decode(self._window)
        certain = decoded.rstrip(REPLACEMENT_CHARACTER)
        if self.stopped or len(certain) <= self._known:
            return ''
        self._append(certain[self._known :])
        self._known = len(certain)
        if certain == decoded:
            self._window = self._window[self._complete :]
            self._complete, self._known = len(self._window), len(self._decode(self._window))
        return self._emit(count_held_back(self.text, self._stops))

    def close(self) -> str:
        """End the text and return the part that was held back."""
        if not self.stopped:
            self._append(self._decode(self._window)[self._known :])
        return self._emit(0)

    def _append(self, piece: str) -> None:
        """Append text and cut it at the first stop string."""
        start = max(0, len(self.text) - max(map(len, self._stops), default=0) + 1)
        self.text += piece
        positions = [self.text.find(stop, start) for stop in self._stops]
        matches = [position for position in positions if position >= 0]
        if matches:
            self.text, self.stopped = self.text[: min(matches)], True

    def _emit(self, held_back: int) -> str:
        end = len(self.text) if self.stopped else len(self.text) - held_back
        piece, self._emitted = self.text[self._emitted : end], max(self._emitted, end)
        return piece


def count_held_back(text: str, stops: tuple[str, ...]) -> int:
    """Count the characters at the end of `text` that may be the beginning of a stop string."""
    longest = max(map(len, stops), default=1) - 1
    for size in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-size:]) for stop in stops if len(stop) > size):
            return size
    return 0


@dataclass(frozen=True)
class GeneratedText:
    """A finished text.

    Attributes:
      prompt: as given by the user.
      text: the whole text, prompt included; the end id or stop string is excluded.
      continuation: the text after the prompt.
      tokens: the generated ids, the end id included.
      log_probabilities: of each generated id under the model, before logits processors, in nats.
      finish_reason: 'end' (end of the document), 'stop' (a stop string or id) or 'length'.
      seed: seed of this text, which generates it again from its prompt and the same options.
    """

    prompt: str
    text: str
    continuation: str
    tokens: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    finish_reason: str
    seed: int


class TokenChunk(NamedTuple):
    """A piece of a text.

    Attributes:
      number: index of the text.
      text: the piece; may be empty in the last chunk.
      result: the finished text, in its last chunk; else None.
    """

    number: int
    text: str
    result: GeneratedText | None


class Detokenizer(NamedTuple):
    """The parts of a tokenizer that generation needs.

    Attributes:
      decode: ids to text.
      end_ids: ids that end a text, unless the options name others.
    """

    decode: Callable[[Sequence[int]], str]
    end_ids: tuple[int, ...]


def stream_texts(
    engine: DecodeEngine,
    detokenizer: Detokenizer,
    prompts: Sequence[TokenizedPrompt],
    options: GenerationOptions,
    *,
    row_shards: int,
    block: int = UNINTERRUPTED_STEPS,
) -> Iterator[TokenChunk]:
    """Generate texts batch by batch and yield their chunks.

    The texts are numbered prompt by prompt.

    Args:
      engine: the model and its compiled programs.
      detokenizer: ids to text.
      prompts: one or more prompts.
      options: the generation options.
      row_shards: number of devices among which the rows of a batch are divided.
      block: decoding steps between chunks; results do not depend on it.

    Raises:
      UserError: at the first chunk, if a prompt or an option does not suit the model.
    """
    context = engine.model.config.context
    speculative = engine.draft is not None
    if speculative:
        check_draft_options(options)
        if options.draft_tokens >= context:
            raise UserError(
                f"draft_tokens: must be below the model's context of {context}, "
                f'got {options.draft_tokens}'
            )
    for number, prompt in enumerate(prompts, 1):
        name = f'prompt {number}' if len(prompts) > 1 else 'prompt'
        check_ids(prompt.ids, engine.model.config.vocab_size, name)
    requests = batching.make_requests(prompts, options, context)
    is_end_V = _make_end_mask(options, detokenizer.end_ids, engine.model.config.vocab_size)
    beam_search = options.num_beams > 1
    name = 'beam_search' if beam_search else 'speculative' if speculative else 'sampling'
    texts_per_row = options.num_return_sequences if beam_search else 1
    rows = max(1, options.batch_size // options.num_beams)
    if options.stop:
        block = min(block, STOP_CHECK_STEPS)
    first = 0
    for batch_requests in batching.split_batches(requests, rows):
        batch = batching.make_batch(
            batch_requests,
            # The last of several batches is padded to the shape of the others, so that it runs
            # the same compiled program.
            min_rows=rows if len(requests) > rows else 1,
            context=context,
            chunk=options.draft_tokens + 1 if speculative else 1,
            row_shards=row_shards,
            is_end_V=is_end_V,
        )
        readers = [
            SequenceReader(detokenizer, request, options)
            for request in batch_requests
            for _ in range(texts_per_row)
        ]
        halted = np.zeros(max(len(batch.count_B), len(readers)), bool)
        for sequences in DECODING_METHODS[name](engine, batch, options, block, halted):
            for row, reader in enumerate(readers):
                if reader.result is None:
                    text = reader.read(sequences, row)
                    halted[row] = reader.result is not None
                    if text or reader.result:
                        yield TokenChunk(first + row, text, reader.result)
        first += len(readers)


def check_ids(ids: np.ndarray, vocab_size: int, name: str) -> None:
    """Raise UserError for an id that the model does not have: XLA would take another one's row."""
    if len(ids) and ids.max() >= vocab_size:
        raise UserError(
            f"{name}: token ids must be below the model's vocabulary size of {vocab_size}, got "
            f'{ids.max()}'
        )


def _make_end_mask(
    options: GenerationOptions, end_ids: tuple[int, ...], vocab_size: int
) -> np.ndarray:
    """Return which ids end a text. bool [V]."""
    for name in ('eos_token_id', 'stop_token_ids'):
        for id_ in getattr(options, name):
            if id_ >= vocab_size:
                raise UserError(
                    f"{name}: must be below the model's vocabulary size of {vocab_size}, got {id_}"
                )
    all_end_ids = [*(options.eos_token_id or end_ids), *options.stop_token_ids]
    return np.isin(np.arange(vocab_size), all_end_ids)


class SequenceReader:
    """Reader of one text from a row of successive snapshots.

    Attributes:
      result: the text once it is finished; None until then.
    """

    def __init__(
        self, detokenizer: Detokenizer, request: GenerationRequest, options: GenerationOptions
    ):
        self.result: GeneratedText | None = None
        self._request = request
        self._eos_ids = options.eos_token_id or detokenizer.end_ids
        self._prompt_length = len(request.prompt.ids)
        self._stream = DetokenizerStream(
            detokenizer.decode, request.prompt.ids.tolist(), options.stop
        )
        self._tokens: list[int] = []
        self._log_p: list[float] = []

    def read(self, sequences: SequenceState, row: int) -> str:
        """Read the new tokens of a row and return the text that can no longer change."""
        start, length = self._prompt_length + len(self._tokens), int(sequences.length_B[row])
        status = int(sequences.status_B[row])
        pieces = []
        for position in range(start, length):
            self._tokens.append(int(sequences.tokens_BL[row, position]))
            self._log_p.append(float(sequences.log_p_BL[row, position]))
            if position + 1 < length or status != ENDED:  # the end id is not part of the text
                pieces.append(self._stream.add(self._tokens[-1]))
            if self._stream.stopped:
                break
        if self._stream.stopped or status != RUNNING:
            pieces.append(self._stream.close())
            self.result = self._make_result(status)
        return ''.join(pieces)

    def _make_result(self, status: int) -> GeneratedText:
        prompt, continuation = self._request.prompt.text, self._stream.text
        return GeneratedText(
            prompt=prompt,
            text=prompt + continuation,
            continuation=continuation,
            tokens=tuple(self._tokens),
            log_probabilities=tuple(self._log_p),
            finish_reason=self._finish_reason(status),
            seed=self._request.seed,
        )

    def _finish_reason(self, status: int) -> str:
        if self._stream.stopped:
            return 'stop'
        if status == FULL:
            return 'length'
        return 'end' if self._tokens[-1] in self._eos_ids else 'stop'
