"""The sweep's dashboard, on a terminal and in a log file."""

import io

import pytest

from gpt_jax.sweep.dashboard import Dashboard


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock():
    return Clock()


def run_two_trials(dashboard, clock):
    dashboard.finish('a', 'done', {'validation_loss': 2.5, 'seconds': 20.0})
    dashboard.start(['b'])
    clock.now = 30.0
    dashboard.refresh('step 10/20 · loss 2.000')


def test_table(clock):
    dashboard = Dashboard(Terminal(), 'sweep', {'a': 1.0, 'b': 1.0, 'c': 2.0}, clock=clock)
    run_two_trials(dashboard, clock)
    assert dashboard.format_lines() == [
        'sweep: 1 of 3 done · 0:30 elapsed',
        '  a  done     loss 2.5000 · 20 s',
        '  b  running  step 10/20 · loss 2.000',
        '  c  waiting',
    ]
    dashboard.finish('b', 'done', {'validation_loss': 2.0, 'seconds': 30.0})
    assert dashboard.format_lines()[0] == 'sweep: 2 of 3 done · 0:30 elapsed · about 1:00 left'
    dashboard.finish('c', 'failed: diverged', {}, last_line='run.py: not finite')
    assert (
        dashboard.format_lines()[0]
        == 'sweep: 2 of 3 done · 1 failed · 0:30 elapsed · about 0:00 left'
    )
    assert dashboard.format_lines()[-1] == '  c  failed   failed: diverged'


def test_long_sweep_shows_a_part(clock):
    costs = {f't{index}': 1.0 for index in range(50)}
    dashboard = Dashboard(Terminal(), 'sweep', costs, clock=clock)
    for index in range(20):
        dashboard.finish(f't{index}', 'done', {'validation_loss': 1.0, 'seconds': 1.0})
    dashboard.start(['t20'])
    shown = dashboard.format_lines()
    assert len(shown) < 17
    assert any('t20' in line and 'running' in line for line in shown)
    assert shown[-1] == '  and 37 more'


def test_terminal_is_redrawn_in_place(clock):
    stream = Terminal()
    dashboard = Dashboard(stream, 'sweep', {'a': 1.0, 'b': 1.0}, clock=clock)
    run_two_trials(dashboard, clock)
    assert stream.getvalue().count('\x1b[3A') == 2
    dashboard.close()


def test_log_gets_lines_for_events_and_for_progress(clock):
    stream = io.StringIO()
    dashboard = Dashboard(stream, 'sweep', {'a': 1.0, 'b': 1.0}, clock=clock)
    run_two_trials(dashboard, clock)
    clock.now = 31.0
    dashboard.refresh('step 11/20')
    dashboard.finish('b', 'failed: diverged', {}, last_line='run.py: not finite')
    assert stream.getvalue().splitlines() == [
        'trial 1 of 2 · a · already done',
        'trial 2 of 2 · b · step 10/20 · loss 2.000',
        'trial 2 of 2 · b · failed: diverged; run.py: not finite',
    ]


def test_trials_of_other_processes_are_shown_and_then_done(clock):
    out = io.StringIO()
    dashboard = Dashboard(out, 'sweep', {'a': 1.0, 'b': 1.0}, clock=clock)
    dashboard.mark_elsewhere(['a', 'b'])
    dashboard.start(['b'])
    assert dashboard.format_lines()[1:] == ['  a  elsewhere', '  b  running  starting']
    dashboard.finish('a', 'done', {'validation_loss': 2.5, 'seconds': 20.0})
    assert out.getvalue() == 'trial 1 of 2 · a · done elsewhere\n'
