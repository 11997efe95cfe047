"""Agreement among the processes of a run, and preemption by signals."""

import functools
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

from gpt_jax.core.errors import UserError

# Values that `run_on_all_processes` reserves; no function may return them.
_NO_RESULT, _FAILED = -1, -(2**31)


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


class Preemption:
    """A context manager in which SIGTERM and SIGINT set a flag instead of ending the process.

    The training loop reads the flag between steps. A second SIGINT raises KeyboardInterrupt at
    once. The previous handlers are restored at exit. A signal that the process was started to
    ignore, as shells do with SIGINT for background jobs, stays ignored. Outside the main thread,
    where Python allows no handlers, this does nothing. Enter it after jax.distributed.initialize,
    which also handles SIGTERM.
    """

    signal_name: str | None = None  # of the first signal: 'SIGTERM' or 'SIGINT'

    def __enter__(self) -> Self:
        self._previous_handlers: dict[int, Any] = {}
        self._votes: Any = None
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous_handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous_handlers.items():
            # None is a handler that was not installed from Python, which cannot be restored.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self.signal_name = self.signal_name or signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    @property
    def requested(self) -> bool:
        """Whether this process was asked to stop."""
        return self.signal_name is not None

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
