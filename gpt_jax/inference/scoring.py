"""Log-probabilities of continuations, computed in packed rows.

Several requests share a row and do not attend to each other. If the input of a request is a prefix
of another's (as for one-token answers to the same question), it is processed only once. Up to
float32 rounding, results do not depend on rows and batches.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.core.errors import UserError
from gpt_jax.tasks.encoding import pack_best_fit

MIN_ROW_LENGTH = 64  # tokens, unless the model's context is shorter
ROW_LENGTH_FACTOR = 4  # row length over that of the longest request, so that rows are well filled
DEFAULT_ROWS = 16  # rows per batch

ScoringBatch = dict[str, np.ndarray]
# A batch has inputs, segments, positions int32 [B, L] and query_positions, query_tokens int32 [B,
# O]; the function returns (log p of the query tokens, whether each is the most likely) [B, O].
ScoreFn = Callable[[ScoringBatch], tuple[Any, Any]]


class ScoringRequest(NamedTuple):
    """A continuation to score, in token ids.

    Attributes:
      context: int32, at least one id.
      continuation: int32, the ids to score.
    """

    context: np.ndarray
    continuation: np.ndarray


@dataclass(frozen=True)
class ContinuationScore:
    """The score of a continuation.

    Attributes:
      token_log_p: float64, log-probability of each token, in nats.
      greedy: whether every token is the most likely one.
    """

    token_log_p: np.ndarray
    greedy: bool

    @property
    def log_p(self) -> float:
        """The log-probability of the whole continuation, in nats."""
        return float(self.token_log_p.sum())

    @property
    def tokens(self) -> int:
        """The number of tokens in the continuation."""
        return len(self.token_log_p)


class _PackedRequests(NamedTuple):
    """Requests packed into rows.

    Attributes:
      rows: indices of the segments in each row.
      segments: input token ids.
      requests: indices of the requests that each segment serves.
    """

    rows: list[list[int]]
    segments: list[np.ndarray]
    requests: list[list[int]]


class _Answer(NamedTuple):
    """Location of a request's scores in a batch: its row, and its first query in the row."""

    request: int
    row: int
    first: int


def score_requests(
    score: ScoreFn,
    requests: Sequence[ScoringRequest],
    *,
    context: int,
    rows: int = DEFAULT_ROWS,
    row_shards: int = 1,
    min_row_length: int = MIN_ROW_LENGTH,
    on_batch: Callable[[int, int], None] | None = None,
) -> list[ContinuationScore]:
    """Score each request, in order.

    A request that is more than one token longer than the context is truncated from the left, as in
    lm-evaluation-harness; its last token is scored but is not an input.

    Args:
      score: the model with its params.
      requests: the continuations and their contexts.
      context: the model's context length.
      rows: maximum rows per batch, rounded up to a multiple of `row_shards`.
      row_shards: number of devices among which the rows are divided.
      min_row_length: minimum tokens per row, limited to `context`.
      on_batch: called before each batch with the numbers of finished batches and of all batches.

    Raises:
      UserError: a request has no context, or a continuation is longer than the model's context.
    """
    if not requests:
        return []
    inputs = [_select_input(request, n, context) for n, request in enumerate(requests)]
    length = _choose_row_length([len(ids) for ids in inputs], context, row_shards, min_row_length)
    packed = _pack_requests(inputs, length)
    batch_rows = min(rows, _round_up(len(packed.rows), 1))
    batch_rows = -(-batch_rows // row_shards) * row_shards
    queries = _round_up(
        max(
            sum(len(requests[n].continuation) for segment in row for n in packed.requests[segment])
            for row in packed.rows
        ),
        MIN_ROW_LENGTH,
    )
    scores: list[ContinuationScore | None] = [None] * len(requests)
    pending: tuple[Any, list[_Answer]] | None = None
    batches = -(-len(packed.rows) // batch_rows)
    for number in range(batches):
        if on_batch is not None:
            on_batch(number, batches)
        batch = {
            name: np.zeros((batch_rows, length), np.int32)
            for name in ('inputs', 'segments', 'positions')
        }
        for name in ('query_positions', 'query_tokens'):
            batch[name] = np.zeros((batch_rows, queries), np.int32)
        answers = [
            answer
            for row, segments in enumerate(
                packed.rows[number * batch_rows : (number + 1) * batch_rows]
            )
            for answer in _fill_row(batch, row, segments, packed, requests)
        ]
        # The previous batch is fetched while the device computes this one.
        current = score(batch), answers
        if pending is not None:
            _fetch_scores(*pending, requests, scores)
        pending = current
    if pending is not None:
        _fetch_scores(*pending, requests, scores)
    return [item for item in scores if item is not None]


def _select_input(request: ScoringRequest, number: int, context: int) -> np.ndarray:
    """Return the input ids: all but the last one, and of these at most the last `context`."""
    if not len(request.context):
        raise UserError(f'request {number}: the context must have at least one token')
    if len(request.continuation) > context:
        raise UserError(
            f"request {number}: the continuation must fit into the model's context of {context}, "
            f'got {len(request.continuation)} tokens; perplexity takes texts of any length'
        )
    ids = np.concatenate([request.context, request.continuation]).astype(np.int32)
    return ids[-(context + 1) :][:-1]


def _round_up(size: int, unit: int) -> int:
    """Round up to a power of two times `unit`, so that few sizes are compiled."""
    return unit * (1 << (-(-size // unit) - 1).bit_length()) if size else unit


def _choose_row_length(
    sizes: Sequence[int], context: int, row_shards: int, min_row_length: int
) -> int:
    longest = max(sizes)
    length = max(longest, min(ROW_LENGTH_FACTOR * longest, sum(sizes) // row_shards))
    return min(context, _round_up(length, min(min_row_length, context)))


def _pack_requests(inputs: Sequence[np.ndarray], length: int) -> _PackedRequests:
    by_owner: dict[int, list[int]] = {}
    for number, owner in enumerate(_find_owners(inputs)):
        by_owner.setdefault(owner, []).append(number)
    segments = [inputs[owner] for owner in by_owner]
    rows = pack_best_fit([len(ids) for ids in segments], length)
    return _PackedRequests(rows, segments, list(by_owner.values()))


def _find_owners(inputs: Sequence[np.ndarray]) -> list[int]:
    """Return for each input the index of the longest one that it is a prefix of, or its own."""
    keys = [ids.astype('>u4').tobytes() for ids in inputs]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    owners = list(range(len(keys)))
    # In sorted order, the inputs that begin with another one follow it directly.
    for index, following in zip(order[-2::-1], order[:0:-1], strict=True):
        if keys[following].startswith(keys[index]):
            owners[index] = owners[following]
    return owners


def _fill_row(
    batch: ScoringBatch,
    row: int,
    segments: Sequence[int],
    packed: _PackedRequests,
    requests: Sequence[ScoringRequest],
) -> Iterator[_Answer]:
    """Write a row of the batch and yield where the scores of its requests will be."""
    start, first = 0, 0
    for number, segment in enumerate(segments, 1):
        ids = packed.segments[segment]
        part = slice(start, start + len(ids))
        batch['inputs'][row, part], batch['segments'][row, part] = ids, number
        batch['positions'][row, part] = np.arange(len(ids))
        for request in packed.requests[segment]:
            context, continuation = requests[request]
            stop = start + min(len(context) + len(continuation) - 1, len(ids))
            query = slice(first, first + len(continuation))
            batch['query_positions'][row, query] = np.arange(stop - len(continuation), stop)
            batch['query_tokens'][row, query] = continuation
            yield _Answer(request, row, first)
            first += len(continuation)
        start += len(ids)


def _fetch_scores(
    results: tuple[Any, Any],
    answers: Sequence[_Answer],
    requests: Sequence[ScoringRequest],
    scores: list[ContinuationScore | None],
) -> None:
    """Copy the results of a batch to the host and enter them into `scores`."""
    log_p_BO, greedy_BO = np.asarray(results[0], np.float64), np.asarray(results[1])
    for request, row, first in answers:
        query = slice(first, first + len(requests[request].continuation))
        scores[request] = ContinuationScore(log_p_BO[row, query], bool(greedy_BO[row, query].all()))
