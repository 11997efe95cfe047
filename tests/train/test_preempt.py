"""Signals: the first one asks, the second Ctrl-C insists, and nothing of it stays behind."""

import os
import signal
import threading

import pytest

from gpt_jax.train.preempt import Preemption

pytestmark = pytest.mark.usefixtures('hearing')


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_request(number):
    with Preemption() as preemption:
        assert not preemption.requested
        assert preemption.signal_name is None
        assert not preemption.requested_anywhere()
        send(number)
        assert preemption.requested
        assert preemption.requested_anywhere()
        assert preemption.signal_name == number.name


def test_sigterm_may_come_again_and_the_first_name_stays():
    with Preemption() as preemption:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            send(number)
        assert preemption.signal_name == 'SIGTERM'


def test_the_second_ctrl_c_interrupts():
    with Preemption() as preemption:
        send(signal.SIGINT)
        assert preemption.requested
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_the_old_handlers_return():
    caught = []
    old = signal.signal(signal.SIGTERM, lambda number, _: caught.append(number))
    try:
        before = signal.getsignal(signal.SIGINT)
        with Preemption():
            send(signal.SIGTERM)
            send(signal.SIGINT)
            assert caught == []
        send(signal.SIGTERM)
        assert caught == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGTERM, old)


def test_an_ignored_signal_stays_ignored():
    old = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Preemption() as preemption:
            send(signal.SIGINT)
            assert not preemption.requested
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, old)


def test_outside_the_main_thread_it_does_nothing():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def elsewhere() -> None:
        with Preemption() as preemption:
            seen.append((preemption.requested, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


def test_a_new_one_begins_unasked():
    with Preemption() as first:
        send(signal.SIGTERM)
    with Preemption() as second:
        assert (first.requested, second.requested) == (True, False)
