"""How fast is training? Tokens per second of training time, and the share of the machine's peak that it makes."""

import contextlib
import time
from collections.abc import Callable, Iterator


class Throughput:
    """Counts tokens over the window since the last reading; time inside `paused` is not training time.

    Count tokens when a step's numbers have arrived, not when it was dispatched: dispatch runs ahead of the device.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._begin()

    def add(self, tokens: int) -> None:
        self._tokens += tokens

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """For evaluation, checkpoints, waiting: whatever is not a training step. May be nested."""
        if self._pauses == 0:
            self._pause_start = self._clock()
        self._pauses += 1
        try:
            yield
        finally:
            self._pauses -= 1
            if self._pauses == 0:
                self._idle += self._clock() - self._pause_start

    def read(self) -> dict[str, float]:
        """Ends the window and begins the next: 'seconds' of training time and 'tokens_per_second' over them.

        Raises:
          RuntimeError: called inside `paused`, where the window has no end yet.
        """
        if self._pauses:
            raise RuntimeError('the throughput was read inside paused()')
        seconds = self._clock() - self._start - self._idle
        tokens = self._tokens
        self._begin()
        return {'seconds': seconds, 'tokens_per_second': tokens / seconds if seconds > 0 else 0.0}

    def _begin(self) -> None:
        self._start, self._idle, self._tokens, self._pauses = self._clock(), 0.0, 0, 0


def utilization(tokens_per_second: float, flops_per_token: float, peak_flops: float) -> float:
    """The share of the machine's peak that the model's own FLOPs make (MFU, Chowdhery et al. 2022, appendix B).

    Args:
      tokens_per_second: over all devices.
      flops_per_token: forward and backward, the model's and not the hardware's: recomputation is not counted. The
        caller says with the number whether attention is in it, causal or not.
      peak_flops: FLOPs per second of all devices together, at the precision of the matmuls.
    """
    return tokens_per_second * flops_per_token / peak_flops
