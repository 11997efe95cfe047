"""Is only training time counted, and only the window's tokens?"""

import contextlib

import pytest

from gpt_jax.observe import meters


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_window_ends_with_each_reading(clock):
    meter = meters.Throughput(clock)
    meter.add(600)
    meter.add(400)
    clock.now += 4
    assert meter.read() == {'seconds': 4, 'tokens_per_second': 250}
    meter.add(100)
    clock.now += 1
    assert meter.read() == {'seconds': 1, 'tokens_per_second': 100}


def test_paused_time_is_not_training_time(clock):
    meter = meters.Throughput(clock)
    meter.add(100)
    clock.now += 1
    with meter.paused():
        clock.now += 50
        with meter.paused():
            clock.now += 50
    clock.now += 1
    with contextlib.suppress(KeyError), meter.paused():
        clock.now += 10
        raise KeyError
    assert meter.read() == {'seconds': 2, 'tokens_per_second': 50}


def test_empty_window_and_reading_inside_a_pause(clock):
    meter = meters.Throughput(clock)
    assert meter.read() == {'seconds': 0, 'tokens_per_second': 0}
    with meter.paused(), pytest.raises(RuntimeError, match='inside paused'):
        meter.read()


def test_utilization():
    assert meters.utilization(2e6, 1e6, 4e12) == 0.5
