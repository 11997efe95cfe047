"""Agreement among the processes of a run, and preemption by signals."""

import contextlib
import functools
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from gpt_jax.core.errors import UserError
from gpt_jax.core.interruption import SignalCounter

# Values that `run_on_all_processes` reserves; no function may return them.
_NO_RESULT, _FAILED = -1, -(2**31)
AGREE_SECONDS = 10.0  # for processes to stop together, where each could end by itself


def is_first_process() -> bool:
    """Return whether this process writes the run's files."""
    import jax

    return jax.process_index() == 0


def is_multiprocess() -> bool:
    """Return whether the run has several processes."""
    import jax

    return jax.process_count() > 1


def run_on_all_processes(function: Callable[[], int]) -> int:
    """Call `function` on every process and return the first process's result on all of them.

    Every process must call this; it waits for the slowest. With one process it is a plain call.

    Args:
      function: returns an int32.

    Raises:
      UserError: `function` failed on another process. That process raises its own error.
    """
    import numpy as np

    if not is_multiprocess():
        return function()
    from jax.experimental import multihost_utils

    result, error = _FAILED, None
    try:
        result = function()
    except Exception as exception:
        error = exception
    results = multihost_utils.process_allgather(np.int32(result)).tolist()
    if error is not None:
        raise error
    if _FAILED in results:
        raise UserError(f'process {results.index(_FAILED)} failed; see its own message')
    return int(results[0])


def run_on_first_process(function: Callable[[], int | None]) -> int | None:
    """Call `function` on the first process only and return its result on all of them.

    Every process must call this. An error on the first process is raised on all of them.

    Args:
      function: returns an int >= 0, or None.
    """

    def call_if_first() -> int:
        result = function() if is_first_process() else None
        return _NO_RESULT if result is None else result

    result = run_on_all_processes(call_if_first)
    return None if result == _NO_RESULT else result


class Preemption(SignalCounter):
    """A context manager in which SIGTERM and SIGINT set a flag instead of ending the process.

    The training loop reads the flag between steps. A second SIGINT raises KeyboardInterrupt at
    once. Enter it after jax.distributed.initialize, which also handles SIGTERM.
    """

    _votes: Any = None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        super()._on_signal(number, frame)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def nothing_unsaved(
        self, before_end: Callable[[], None] = lambda: None
    ) -> contextlib.AbstractContextManager[None]:
        """In this block, there is nothing to save, so that a signal ends the process in seconds.

        With several processes, these first have time to agree (`requested_on_any_process`).

        Args:
          before_end: waits for this process's part of a save in progress.
        """
        if is_multiprocess():
            return self.interruptible(before_end, raises=False, seconds=AGREE_SECONDS)
        return self.interruptible(before_end)

    @property
    def requested(self) -> bool:
        """Whether this process was asked to stop."""
        return self.count > 0

    def requested_on_any_process(self) -> bool:
        """Return whether any process was asked to stop; the same answer on all of them.

        With several processes, all must call this equally often: once per step. It returns the
        result of the vote that the previous call started, a 4-byte all-reduce that is complete by
        now. So the answer is one step late, but the call never waits for the step just dispatched.
        """
        import jax

        if jax.process_count() == 1:
            return self.requested
        votes, self._votes = self._votes, _make_vote()(self.requested)
        return votes is not None and bool(votes)


@functools.cache
def _make_vote() -> Callable[[bool], Any]:
    """Make a function that starts counting the flags of all processes: a replicated int32."""
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(jax.devices()), ('device',))
    per_device = NamedSharding(mesh, PartitionSpec('device'))
    replicated = NamedSharding(mesh, PartitionSpec())
    count = jax.jit(lambda votes: votes.sum(), out_shardings=replicated)

    def vote(flag: bool) -> Any:
        own_vote = np.array([flag], np.int32)
        votes = jax.make_array_from_callback((jax.device_count(),), per_device, lambda _: own_vote)
        return count(votes)

    return vote
