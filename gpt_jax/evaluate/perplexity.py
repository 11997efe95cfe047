"""What does the model lose on text it has not seen? Mean loss in nats per token and in bits per byte."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax

# (params, batch) -> (summed loss in nats, summed weight of the targets), as scalars on the device
SummedLoss = Callable[[Any, Any], tuple[jax.Array, jax.Array]]


def mean_loss(summed_loss: SummedLoss, params: Any, batches: Iterable[Any]) -> float:
    """The mean of -log p(token) over all weighted targets, in nats per token.

    Each batch's sum is float32; the sums are added exactly. Fetching waits until the next batch is under way.
    """
    totals: list[float] = []
    counts: list[float] = []
    under_way: tuple[jax.Array, jax.Array] | None = None
    for batch in batches:
        following = summed_loss(params, batch)
        if under_way is not None:
            totals.append(float(under_way[0]))
            counts.append(float(under_way[1]))
        under_way = following
    if under_way is not None:
        totals.append(float(under_way[0]))
        counts.append(float(under_way[1]))
    return math.fsum(totals) / math.fsum(counts)


def bits_per_byte(nats_per_token: float, bytes_per_token: float) -> float:
    """The loss in a unit that does not depend on the tokenizer. `bytes_per_token`: UTF-8 bytes of the same text."""
    return nats_per_token / math.log(2) / bytes_per_token
