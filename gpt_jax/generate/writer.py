"""How do requests become texts, piece by piece as they are written? Ids in, text out, and why each text ended."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gpt_jax.errors import UserError
from gpt_jax.generate import batching
from gpt_jax.generate.batching import Prompt, Request
from gpt_jax.generate.decode import ENDED, FULL, RUNNING, Texts
from gpt_jax.generate.options import Options, check_draft
from gpt_jax.generate.rounds import METHODS, Device
from gpt_jax.generate.text import Reader

AT_ONCE = 1 << 20  # steps of a call where nobody looks on
STOPPABLE = 16  # where stop strings are looked for after each call


@dataclass(frozen=True)
class Text:
    """A text that is done.

    Attributes:
      prompt: as it was given.
      text: the whole text, prompt included; it ends before what ended it.
      continuation: what was written after the prompt.
      tokens: the ids written, what ended the text included.
      log_probabilities: of each of them under the model itself, before any option acts, in nats.
      finish_reason: 'end' (the end of the document), 'stop' (a stop string or id) or 'length'.
      seed: this text's own: its prompt and the same options with this seed write it again.
    """

    prompt: str
    text: str
    continuation: str
    tokens: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    finish_reason: str
    seed: int


class Update(NamedTuple):
    """Text number `number` has grown by `piece`; `done`: the whole of it, once it is."""

    number: int
    piece: str
    done: Text | None


class Words(NamedTuple):
    """decode: ids to text. ends: ids that end a text, where the options name none."""

    decode: Callable[[Sequence[int]], str]
    ends: tuple[int, ...]


def write(
    device: Device, words: Words, prompts: Sequence[Prompt], options: Options, *, ways: int, block: int = AT_ONCE
) -> Iterator[Update]:
    """Texts as they grow, prompt by prompt and those of one prompt after each other, a batch at a time.

    Args:
      ways: devices that share the rows of a batch.
      block: steps between two looks; no number depends on it.

    Raises:
      UserError: before anything is written, where a prompt or an option does not suit the model.
    """
    context = device.model.config.context
    if device.drafted:
        check_draft(options)
        if options.draft_tokens >= context:
            raise UserError(f"draft_tokens: {options.draft_tokens} do not fit into the model's context of {context}")
    wanted = batching.requests(prompts, options, context)
    ends_V = _ends(options, words.ends, device.model.config.vocab_size)
    method = METHODS['beams' if options.num_beams > 1 else 'drafted' if device.drafted else 'plain']
    chunk = options.draft_tokens + 1 if device.drafted else 1
    first, size = 0, max(1, options.batch_size // options.num_beams)
    for batch in batching.batches(wanted, size):
        least = size if len(wanted) > size else 1  # the last batch, too, is as large as the others
        arrays = batching.arrays(batch, least=least, context=context, chunk=chunk, ways=ways, ends_V=ends_V)
        each = options.num_return_sequences if options.num_beams > 1 else 1
        lines = [Line(words, one, options) for one in batch for _ in range(each)]
        halted = np.zeros(max(len(arrays.count_B), len(lines)), bool)
        for texts in method(device, arrays, options, min(block, STOPPABLE) if options.stop else block, halted):
            for row, line in enumerate(lines):
                if line.done is None:
                    piece = line.read(texts, row)
                    halted[row] = line.done is not None
                    if piece or line.done:
                        yield Update(first + row, piece, line.done)
        first += len(lines)


def _ends(options: Options, ends: tuple[int, ...], vocabulary: int) -> np.ndarray:
    """bool [V]: the ids that end a text."""
    for name in ('eos_token_id', 'stop_token_ids'):
        for id_ in getattr(options, name):
            if id_ >= vocabulary:
                raise UserError(f'{name}: {id_} is no id of this model; there are {vocabulary}')
    return np.isin(np.arange(vocabulary), [*(options.eos_token_id or ends), *options.stop_token_ids])


class Line:
    """One text as it comes. `done`: the text, once nothing more is added to it."""

    def __init__(self, words: Words, request: Request, options: Options):
        self.done: Text | None = None
        self._words, self._request, self._options = words, request, options
        self._prompt = request.prompt.ids.tolist()
        self._reader = Reader(words.decode, self._prompt, options.stop)
        self._tokens: list[int] = []
        self._log_p: list[float] = []

    def read(self, texts: Texts, row: int) -> str:
        """Takes what the row has more than before; returns the text that has become certain."""
        start, length = len(self._prompt) + len(self._tokens), int(texts.length_B[row])
        reason = int(texts.reason_B[row])
        pieces = []
        for place in range(start, length):
            self._tokens.append(int(texts.tokens_BL[row, place]))
            self._log_p.append(float(texts.log_p_BL[row, place]))
            if place + 1 < length or reason != ENDED:  # what ends a text is no part of it
                pieces.append(self._reader.add(self._tokens[-1]))
            if self._reader.stopped:
                break
        if self._reader.stopped or reason != RUNNING:
            pieces.append(self._reader.close())
            self.done = self._text('stop' if self._reader.stopped else self._reason(reason))
        return ''.join(pieces)

    def _reason(self, reason: int) -> str:
        if reason == FULL:
            return 'length'
        return 'end' if self._tokens[-1] in (self._options.eos_token_id or self._words.ends) else 'stop'

    def _text(self, reason: str) -> Text:
        prompt = self._request.prompt.text
        return Text(
            prompt=prompt, text=prompt + self._reader.text, continuation=self._reader.text,
            tokens=tuple(self._tokens), log_probabilities=tuple(self._log_p), finish_reason=reason,
            seed=self._request.seed,
        )  # fmt: skip
