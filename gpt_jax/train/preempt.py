"""Has anyone asked this run to stop? SIGTERM and SIGINT as a flag that the loop reads between steps."""

import functools
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self


class Preemption:
    """A context manager in which SIGTERM and SIGINT set a flag and no longer end the process.

    A second SIGINT raises KeyboardInterrupt at once. The old handlers return at exit. A signal that the process was
    started to ignore (as a shell does to SIGINT of a background job) stays ignored. Outside the main thread, where
    Python allows no handlers, it does nothing. Enter it after jax.distributed.initialize, which also takes SIGTERM.
    """

    signal_name: str | None = None  # of the first signal, 'SIGTERM' or 'SIGINT'

    def __enter__(self) -> Self:
        self._old: dict[int, Any] = {}
        self._votes: Any = None
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._old[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            # None is a handler that was not installed from Python, which Python cannot put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self.signal_name = self.signal_name or signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    @property
    def requested(self) -> bool:
        """Whether this process was asked to stop."""
        return self.signal_name is not None

    def requested_anywhere(self) -> bool:
        """Whether any process was asked to stop; the same answer on all of them.

        With several processes all must call it equally often, once per step. What it returns is the outcome of the
        vote that the previous call began: by now that is a finished 4-byte all-reduce, so that the answer comes a step
        late and never waits for the step that was just dispatched.
        """
        import jax

        if jax.process_count() == 1:
            return self.requested
        votes, self._votes = self._votes, _vote()(self.requested)
        return votes is not None and bool(votes)


@functools.cache
def _vote() -> Callable[[bool], Any]:
    """A function that begins counting the flags of all processes; its result is a replicated int32 scalar."""
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(jax.devices()), ('device',))
    one_each, same = NamedSharding(mesh, PartitionSpec('device')), NamedSharding(mesh, PartitionSpec())
    count = jax.jit(lambda votes: votes.sum(), out_shardings=same)

    def vote(flag: bool) -> Any:
        shape = (jax.device_count(),)
        return count(jax.make_array_from_callback(shape, one_each, lambda _: np.array([flag], np.int32)))

    return vote
