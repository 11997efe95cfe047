"""Clock of the time in which this process ran, without that in which the machine slept."""

import threading
import time
from collections.abc import Callable

MAX_INTERVAL_SECONDS = 5.0  # between two readings; what is longer was a pause


class ActiveClock:
    """Seconds in which this process ran; read it at least every MAX_INTERVAL_SECONDS.

    A longer interval between two readings counts as MAX_INTERVAL_SECONDS: the machine was
    suspended, its virtual machine or container paused, or the process stopped (SIGSTOP). No clock
    of the system leaves all of these out. A late reading of a busy process only makes a deadline
    later.

    Args:
      clock: returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock, self._lock = clock, threading.Lock()
        self._last, self._seconds, self._pause_end = clock(), 0.0, -float('inf')

    def read(self) -> float:
        """Return the active seconds since the clock was made."""
        with self._lock:
            now = self._clock()
            interval, self._last = now - self._last, now
            self._seconds += min(interval, MAX_INTERVAL_SECONDS)
            if interval > MAX_INTERVAL_SECONDS:
                self._pause_end = self._seconds
            return self._seconds

    def seconds_since_pause(self) -> float:
        """Return the active seconds since the last pause; infinity if there was none."""
        return self.read() - self._pause_end
