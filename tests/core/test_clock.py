"""The clock leaves out the time in which the machine slept."""

import math

from gpt_jax.core.clock import MAX_INTERVAL_SECONDS, ActiveClock


def test_a_pause_counts_as_the_longest_interval():
    now = [100.0]
    clock = ActiveClock(lambda: now[0])
    assert clock.read() == 0
    for _ in range(10):
        now[0] += 1.0
        clock.read()
    assert clock.read() == 10.0
    assert clock.seconds_since_pause() == math.inf
    now[0] += 8 * 3600
    assert clock.read() == 10.0 + MAX_INTERVAL_SECONDS
    assert clock.seconds_since_pause() == 0.0
    now[0] += 2.0
    assert clock.seconds_since_pause() == 2.0
