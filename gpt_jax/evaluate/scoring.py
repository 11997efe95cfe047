"""How likely are continuations of texts? Requests become packed rows, which one compiled program reads.

Several requests share a row, none of which sees another. What a request reads may be the beginning of what another
reads, as where choices of one token follow the same text: then it is read once. So neither the rows nor the batch
decide what comes out, beyond the rounding of float32.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.data.packed import best_fit
from gpt_jax.errors import UserError

LEAST = 64  # places of a row, where the model has so many
SPAN = 4  # times the longest request is a row long, so that what is left free at its end is little
ROWS = 16  # that are read at once

Batch = dict[str, np.ndarray]
# inputs, segments, positions int32 [B, L]; places, asked int32 [B, O] -> (log p [B, O], whether no id is likelier)
Read = Callable[[Batch], tuple[Any, Any]]


class Request(NamedTuple):
    """ids, int32: what is given (at least one), and what is scored."""

    context: np.ndarray
    continuation: np.ndarray


@dataclass(frozen=True)
class Scored:
    """A continuation's score.

    Attributes:
      each: log p of each of its tokens, in nats, float64.
      greedy: each of them is the likeliest.
    """

    each: np.ndarray
    greedy: bool

    @property
    def log_p(self) -> float:
        """Of all of it, in nats."""
        return float(self.each.sum())

    @property
    def tokens(self) -> int:
        return len(self.each)


class _Rows(NamedTuple):
    """rows: of each its stretches' numbers. stretches: what is read. askers: of each stretch the requests' numbers."""

    rows: list[list[int]]
    stretches: list[np.ndarray]
    askers: list[list[int]]


def score(
    read: Read, requests: Sequence[Request], *, context: int, rows: int = ROWS, ways: int = 1, least: int = LEAST,
    note: Callable[[int, int], None] | None = None,
) -> list[Scored]:  # fmt: skip
    """The score of each request, in their order.

    A request that is longer than the model's context by more than its last token, which is not read, is cut from the
    left, as lm-evaluation-harness cuts it.

    Args:
      read: the model, with its params.
      context: the model's.
      rows: that are read at once, at most; rounded up to a multiple of `ways`, the devices that share them.
      least: places of a row at least, at most `context`.
      note: told before each batch how many of them are done, and how many there are.

    Raises:
      UserError: a request without a context, or whose continuation alone is longer than the model's.
    """
    if not requests:
        return []
    inputs = [_inputs(one, number, context) for number, one in enumerate(requests)]
    length = _length([len(one) for one in inputs], context, ways, least)
    packed = _packed(inputs, length)
    count = min(rows, _rounded(len(packed.rows), 1))
    count = -(-count // ways) * ways
    asked = max(sum(len(requests[n].continuation) for s in row for n in packed.askers[s]) for row in packed.rows)
    places = _rounded(asked, LEAST)
    found: list[Scored | None] = [None] * len(requests)
    under_way: tuple[Any, list[tuple[int, int, int]]] | None = None
    total = -(-len(packed.rows) // count)
    for number in range(total):
        if note is not None:
            note(number, total)
        part = packed.rows[number * count : (number + 1) * count]
        batch = {name: np.zeros((count, length), np.int32) for name in ('inputs', 'segments', 'positions')}
        batch |= {name: np.zeros((count, places), np.int32) for name in ('places', 'asked')}
        where = [
            (n, row, first) for row, held in enumerate(part) for n, first in _fill(batch, row, held, packed, requests)
        ]
        following = read(batch), where
        _take(under_way, requests, found)
        under_way = following
    _take(under_way, requests, found)
    return [one for one in found if one is not None]


def _inputs(request: Request, number: int, context: int) -> np.ndarray:
    """What is read for the request: all but the last token, as far as the model's context goes."""
    if not len(request.context):
        raise UserError(f'request {number}: an empty context; give at least one token to go on from')
    if len(request.continuation) > context:
        raise UserError(
            f'request {number}: a continuation of {len(request.continuation)} tokens does not fit into the context of '
            f'{context}; perplexity takes texts of any length'
        )
    return np.concatenate([request.context, request.continuation]).astype(np.int32)[-(context + 1) :][:-1]


def _rounded(size: int, least: int) -> int:
    """A power of two times `least`: few sizes are compiled."""
    return least * (1 << (-(-size // least) - 1).bit_length()) if size else least


def _length(sizes: Sequence[int], context: int, ways: int, least: int) -> int:
    longest = max(sizes)
    wanted = max(longest, min(SPAN * longest, sum(sizes) // ways))
    return min(context, _rounded(wanted, min(least, context)))


def _packed(inputs: Sequence[np.ndarray], length: int) -> _Rows:
    owners = _owners(inputs)
    askers: dict[int, list[int]] = {}
    for number, owner in enumerate(owners):
        askers.setdefault(owner, []).append(number)
    stretches = [inputs[owner] for owner in askers]
    return _Rows(best_fit([len(one) for one in stretches], length), stretches, list(askers.values()))


def _owners(inputs: Sequence[np.ndarray]) -> list[int]:
    """Of each the number of the longest that begins with it, itself maybe: it is read there."""
    keys = [one.astype('>u4').tobytes() for one in inputs]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    owners = list(range(len(keys)))
    # Whatever begins with one of them comes right after it.
    for this, following in zip(order[-2::-1], order[:0:-1], strict=True):
        if keys[following].startswith(keys[this]):
            owners[this] = owners[following]
    return owners


def _fill(
    batch: Batch, row: int, held: Sequence[int], packed: _Rows, requests: Sequence[Request]
) -> Iterator[tuple[int, int]]:
    """Writes the row; gives (request's number, the first of its answers in the row)."""
    start, first = 0, 0
    for segment, stretch in enumerate(held, 1):
        ids = packed.stretches[stretch]
        part = slice(start, start + len(ids))
        batch['inputs'][row, part], batch['segments'][row, part] = ids, segment
        batch['positions'][row, part] = np.arange(len(ids))
        for number in packed.askers[stretch]:
            context, continuation = requests[number]
            stop = start + min(len(context) + len(continuation) - 1, len(ids))
            answers = slice(first, first + len(continuation))
            batch['places'][row, answers] = np.arange(stop - len(continuation), stop)
            batch['asked'][row, answers] = continuation
            yield number, first
            first += len(continuation)
        start += len(ids)


def _take(
    under_way: tuple[Any, list[tuple[int, int, int]]] | None, requests: Sequence[Request], found: list[Scored | None]
) -> None:
    """Fetches a batch, once the next one is under way."""
    if under_way is None:
        return
    (log_p_BO, hit_BO), where = under_way
    log_p_BO, hit_BO = np.asarray(log_p_BO, np.float64), np.asarray(hit_BO)
    for number, row, first in where:
        part = slice(first, first + len(requests[number].continuation))
        found[number] = Scored(log_p_BO[row, part], bool(hit_BO[row, part].all()))
