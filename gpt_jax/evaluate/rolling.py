"""What does a model lose on a text of any length? Windows of its context, in which each token is scored once."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpt_jax.errors import UserError
from gpt_jax.evaluate.scoring import Request


@dataclass(frozen=True)
class Perplexity:
    """What a text costs the model.

    Attributes:
      nats: -log p of all of its tokens.
      tokens: that were scored.
      words: stretches of the text between spaces, as lm-evaluation-harness counts them.
      bytes: of the text in UTF-8.
    """

    nats: float
    tokens: int
    words: int
    bytes: int

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.tokens

    @property
    def token_perplexity(self) -> float:
        return math.exp(self.nats / self.tokens)

    @property
    def word_perplexity(self) -> float:
        return math.exp(self.nats / self.words)

    @property
    def byte_perplexity(self) -> float:
        return math.exp(self.nats / self.bytes)

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.bytes


def measured(nats: float, tokens: int, text: str) -> Perplexity:
    return Perplexity(nats, tokens, len(re.split(r'\s+', text)), len(text.encode('utf-8')))


def windows(targets: int, context: int, stride: int) -> np.ndarray:
    """Which tokens are read and which scored, window by window; int [K, 3].

    Of the text's ids with one before them, a window (begin, first, stop) reads ids[begin:stop], `context` of them at
    most, and scores ids[first + 1 : stop + 1]. Each but the first window scores `stride` tokens, the last one what is
    left, and reads as much as it can before them: so each token sees at least `context - stride` others, if there are
    so many. A stride of the context is what lm-evaluation-harness's rolling does.

    Raises:
      UserError: stride is not in [1, context].
    """
    if not 1 <= stride <= context:
        raise UserError(f"stride: wants tokens from 1 to the model's context of {context}, got {stride}")
    if not targets:
        return np.zeros((0, 3), int)
    stops = np.minimum(context + stride * np.arange(1 + max(0, -(-(targets - context) // stride))), targets)
    firsts = np.concatenate([[0], stops[:-1]])
    return np.stack([np.maximum(0, stops - context), firsts, stops], axis=1)


def requests(ids: Sequence[int] | np.ndarray, context: int, stride: int) -> list[Request]:
    """The windows of a text as requests. ids: int [T + 1], of which the first is not scored."""
    ids = np.asarray(ids, np.int32)
    cut = windows(len(ids) - 1, context, stride)
    return [Request(ids[begin : first + 1], ids[first + 1 : stop + 1]) for begin, first, stop in cut]
