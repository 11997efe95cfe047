"""Scores of texts under a loaded model: continuations and perplexity.

Context and continuation are split as in lm-evaluation-harness. The two are encoded as one text,
since a tokenizer may merge across the boundary; the continuation is what follows the first n
tokens, where n is the number of tokens of the context encoded alone. Trailing spaces of the context
are moved to the continuation, because words begin with their space in most vocabularies. An empty
context is replaced by the id that begins a text.

The perplexity of a text of any length is computed in windows of the model's context length, so that
each token is scored once.
"""

import functools
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from gpt_jax.core.errors import UserError
from gpt_jax.core.progress import Progress
from gpt_jax.data.target_bytes import ByteTable, make_byte_table, make_measure
from gpt_jax.data.tokenizer import Tokenizer
from gpt_jax.inference import scoring
from gpt_jax.inference.placement import InferencePlacement
from gpt_jax.inference.pretrained import Pretrained
from gpt_jax.inference.scoring import ContinuationScore, ScoringBatch, ScoringRequest
from gpt_jax.inference.text_stream import check_ids
from gpt_jax.train import objective

MIN_REQUESTS_FOR_PROGRESS = 64
MAX_ROWS = 1 << 20  # per batch

EncodeFn = Callable[[list[str]], Sequence[np.ndarray]]  # texts -> ids of each
ScoringPair = tuple[str, str] | ScoringRequest  # (context, continuation), as text or as ids


def check_text(value: Any, prefix: str) -> str:
    """Return the value if it is text that can be encoded.

    Raises:
      UserError: not a string, or a string with half a surrogate pair.
    """
    if not isinstance(value, str):
        raise UserError(f'{prefix}: must be a string, got {type(value).__name__}')
    try:
        value.encode('utf-8')
    except UnicodeEncodeError as error:
        raise UserError(
            f'{prefix}: must be valid text; character {error.start} is half a surrogate pair'
        ) from None
    return value


@dataclass(frozen=True)
class TextEncoder:
    """Encoder of texts with and without the ids that a model expects before a text."""

    tokenizer: Tokenizer
    prefix_ids: tuple[int, ...]

    def encode_plain(self, texts: list[str]) -> list[np.ndarray]:
        """Encode texts without the prefix."""
        return [np.asarray(ids, np.int32) for ids in self.tokenizer.encode_batch(texts)]

    def encode_whole(self, texts: list[str]) -> list[np.ndarray]:
        """Encode texts with the prefix."""
        prefix_ids = np.array(self.prefix_ids, np.int32)
        return [np.concatenate([prefix_ids, ids]) for ids in self.encode_plain(texts)]


def make_continuation_requests(
    pairs: Sequence[tuple[str, str]],
    encode_whole: EncodeFn,
    encode_plain: EncodeFn,
    prefix_id: int | None,
) -> list[ScoringRequest]:
    """Encode pairs of (context, continuation).

    Args:
      pairs: the texts.
      encode_whole: encodes texts, with the ids that the model expects before a text.
      encode_plain: encodes texts without these ids.
      prefix_id: the id that replaces an empty context; None: the tokenizer has none.

    Raises:
      UserError: a context is empty and there is no `prefix_id`.
    """
    split = [_move_spaces(*pair) for pair in pairs]
    with_context = [pair for pair in split if pair[0]]
    wholes = iter(encode_whole([context + continuation for context, continuation in with_context]))
    contexts = iter(encode_whole([context for context, _ in with_context]))
    plain = iter(encode_plain([continuation for context, continuation in split if not context]))
    requests = []
    for number, (context, _) in enumerate(split):
        if context:
            context_ids, whole_ids = next(contexts), np.asarray(next(wholes), np.int32)
            request = ScoringRequest(
                np.asarray(context_ids, np.int32), whole_ids[len(context_ids) :]
            )
        else:
            request = _begin_with_prefix(np.asarray(next(plain), np.int32), prefix_id, number)
        requests.append(request)
    return requests


def _move_spaces(context: str, continuation: str) -> tuple[str, str]:
    """Move the spaces at the end of the context to the continuation."""
    stripped = context.rstrip()
    return stripped, context[len(stripped) :] + continuation


def _begin_with_prefix(ids: np.ndarray, prefix_id: int | None, number: int) -> ScoringRequest:
    if prefix_id is None:
        raise UserError(
            f'pair {number}: the context must not be empty, since the tokenizer has no token that '
            'begins a text'
        )
    if len(ids) and ids[0] == prefix_id:  # the text already begins with it
        return ScoringRequest(ids[:1], ids[1:])
    return ScoringRequest(np.array([prefix_id], np.int32), ids)


@dataclass(frozen=True)
class Perplexity:
    """The loss of a text under a model.

    Attributes:
      nats: summed -log p of the scored tokens.
      tokens: number of scored tokens.
      words: number of whitespace-separated words, as counted by lm-evaluation-harness.
      bytes: number of bytes of the scored tokens' text in UTF-8.
    """

    nats: float
    tokens: int
    words: int
    bytes: int

    @property
    def nats_per_token(self) -> float:
        """The loss per token, in nats."""
        return self.nats / self.tokens

    @property
    def token_perplexity(self) -> float:
        """exp(nats / tokens)."""
        return math.exp(self.nats / self.tokens)

    @property
    def word_perplexity(self) -> float:
        """exp(nats / words)."""
        return math.exp(self.nats / self.words)

    @property
    def bits_per_byte(self) -> float:
        """The loss per byte, in bits; comparable across tokenizers."""
        return self.nats / math.log(2) / self.bytes


def count_words(text: str) -> int:
    """Count the words of a text, as lm-evaluation-harness does."""
    return len(re.split(r'\s+', text))


def make_windows(targets: int, context: int, stride: int) -> np.ndarray:
    """Cut a text into windows so that each token is scored once.

    Let `ids` be one id that is not scored, followed by those to score. A window (begin, first,
    stop) takes ids[begin:stop] as input, at most `context` of them, and scores
    ids[first + 1 : stop + 1]. The first window scores up to `context` tokens, each other one
    `stride` tokens, and the last one the rest. As much text as fits precedes the scored tokens, so
    each is conditioned on at least `context - stride` others, where there are that many. A stride
    equal to the context gives the rolling log-likelihood of lm-evaluation-harness.

    Args:
      targets: number of tokens to score.
      context: the model's context length.
      stride: number of tokens that a window scores.

    Returns:
      int [K, 3]: begin, first, stop of each window.

    Raises:
      UserError: the stride is not in [1, context].
    """
    if not 1 <= stride <= context:
        raise UserError(f"stride: must be in [1, {context}] (the model's context), got {stride}")
    if not targets:
        return np.zeros((0, 3), int)
    further_windows = max(0, -(-(targets - context) // stride))
    stops = np.minimum(context + stride * np.arange(1 + further_windows), targets)
    firsts = np.concatenate([[0], stops[:-1]])
    return np.stack([np.maximum(0, stops - context), firsts, stops], axis=1)


def make_rolling_requests(
    ids: Sequence[int] | np.ndarray, context: int, stride: int
) -> list[ScoringRequest]:
    """Make one request per window of a text.

    Args:
      ids: int [T + 1]; the first one is not scored.
    """
    ids = np.asarray(ids, np.int32)
    return [
        ScoringRequest(ids[begin : first + 1], ids[first + 1 : stop + 1])
        for begin, first, stop in make_windows(len(ids) - 1, context, stride)
    ]


class Scorer:
    """Scorer of texts with the params of a model on its devices.

    Attributes:
      prefix_id: the id placed before a text that has no context; None: the tokenizer has none.
    """

    def __init__(self, pretrained: Pretrained, placement: InferencePlacement, params: Any):
        self._encoder = TextEncoder(pretrained.tokenizer, pretrained.prefix_ids)
        self._context = pretrained.model_config.context
        self._vocab_size = pretrained.model_config.vocab_size
        self._placement, self._params = placement, params
        self._score = jax.jit(
            objective.make_token_scores(pretrained.model_config, placement.policy)
        )
        ids = pretrained.prefix_ids[-1:] or (pretrained.tokenizer.end_of_document,)
        is_usable = ids[0] is not None and ids[0] < self._vocab_size
        self.prefix_id: int | None = ids[0] if is_usable else None

    def score(
        self,
        pairs: Sequence[ScoringPair],
        batch_size: int = scoring.DEFAULT_ROWS,
        context: int | None = None,
    ) -> list[ContinuationScore]:
        """Score each continuation, in order.

        Args:
          pairs: pairs of context and continuation, as text (see the module docstring) or as ids.
          batch_size: rows per batch; only affects speed.
          context: maximum number of input tokens per text; None: the model's context.
        """
        context = self._context if context is None else context
        for name, value, limit in (
            ('batch_size', batch_size, MAX_ROWS),
            ('context', context, self._context),
        ):
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
                raise UserError(f'{name}: must be an integer in [1, {limit}], got {value!r}')
        requests = self._make_requests(pairs)
        for number, request in enumerate(requests):
            ids = np.concatenate([request.context, request.continuation])
            check_ids(ids, self._vocab_size, f'pair {number}')
        progress = None
        if len(requests) >= MIN_REQUESTS_FOR_PROGRESS:
            progress = Progress(sys.stderr, trial=None, name='scoring', steps=len(requests))

        def show_batch(finished: int, total: int) -> None:
            if progress is not None:
                progress.note(f'batch {finished + 1}/{total}')

        scores = scoring.score_requests(
            self._score_batch,
            requests,
            context=context,
            rows=batch_size,
            row_shards=self._placement.row_shards,
            on_batch=show_batch,
        )
        if progress is not None:
            progress.close()
        return scores

    def perplexity(
        self,
        text: str | Sequence[int],
        stride: int | None = None,
        batch_size: int = scoring.DEFAULT_ROWS,
        context: int | None = None,
    ) -> Perplexity:
        """Measure the loss of a text.

        The first token is scored after `prefix_id`; without one it is not scored.

        Args:
          text: a string, or its ids.
          stride: number of tokens that a window scores; None: the context.
          batch_size: rows per batch; only affects speed.
          context: maximum number of input tokens per window; None: the model's context.
        """
        context = self._context if context is None else context
        encode = self._encoder.encode_plain
        ids = encode([check_text(text, 'text')])[0] if isinstance(text, str) else text
        prefix = [] if self.prefix_id is None else [self.prefix_id]
        all_ids = np.array([*prefix, *ids], np.int32)
        if len(all_ids) < 2:
            raise UserError('text: must have at least one token to score, got none')
        windows = make_rolling_requests(all_ids, context, context if stride is None else stride)
        scores = self.score(windows, batch_size, context)
        nats = -math.fsum(score.log_p for score in scores)
        if isinstance(text, str) and prefix:
            return Perplexity(nats, len(ids), count_words(text), len(text.encode('utf-8')))
        size = self._count_scored_bytes(text, all_ids[1:])
        words = count_words(self._encoder.tokenizer.decode(all_ids[1:]))
        return Perplexity(nats, len(all_ids) - 1, words, size)

    def _count_scored_bytes(self, text: str | Sequence[int], ids: np.ndarray) -> int:
        """Count the bytes of the ids at the end of a text, or of ids that were given as such."""
        tokenizer, table = self._encoder.tokenizer, self._byte_table
        if table.is_exact:
            return int(table.lengths_V[ids].sum())
        if isinstance(text, str):
            ((_, lengths),) = make_measure(tokenizer, table)([text])
            return int(lengths[len(lengths) - len(ids) :].sum())
        return len(tokenizer.decode(ids[table.lengths_V[ids] > 0]).encode('utf-8'))

    @functools.cached_property
    def _byte_table(self) -> ByteTable:
        return make_byte_table(self._encoder.tokenizer)

    def _make_requests(self, pairs: Sequence[ScoringPair]) -> list[ScoringRequest]:
        texts = [pair for pair in pairs if not isinstance(pair, ScoringRequest)]
        for number, pair in enumerate(texts):
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise UserError(
                    f'pair {number}: must be a context and a continuation, got {pair!r}'
                )
            for part in pair:
                check_text(part, f'pair {number}')
        encoded = iter(
            make_continuation_requests(
                texts, self._encoder.encode_whole, self._encoder.encode_plain, self.prefix_id
            )
        )
        return [pair if isinstance(pair, ScoringRequest) else next(encoded) for pair in pairs]

    def _score_batch(self, batch: ScoringBatch) -> tuple[jax.Array, jax.Array]:
        return self._score(self._params, jax.device_put(batch, self._placement.row_sharding))
