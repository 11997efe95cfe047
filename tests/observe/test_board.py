"""Does the table say what waits, runs and ended, on a terminal and in a log?"""

import io

import pytest

from gpt_jax.observe.board import Board


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


def fill(board, clock):
    board.end('a', 'done', {'validation_loss': 2.5, 'seconds': 20.0})
    board.begin(['b'])
    clock.now = 30.0
    board.tick('step 10/20 · loss 2.000')


def test_the_table(clock):
    board = Board(Terminal(), 'sweep', {'a': 1.0, 'b': 1.0, 'c': 2.0}, clock=clock)
    fill(board, clock)
    assert board.lines() == [
        'sweep: 1 of 3 done · 0:30 spent',
        '  a  done     loss 2.5000 · 20 s',
        '  b  running  step 10/20 · loss 2.000',
        '  c  waiting',
    ]
    board.end('b', 'done', {'validation_loss': 2.0, 'seconds': 30.0})
    assert board.lines()[0] == 'sweep: 2 of 3 done · 0:30 spent · about 1:00 left'
    board.end('c', 'failed: diverged', {}, why='run.py: not finite')
    assert board.lines()[0] == 'sweep: 2 of 3 done · 1 not · 0:30 spent · about 0:00 left'
    assert board.lines()[-1] == '  c  failed   failed: diverged'


def test_a_long_sweep_shows_a_part(clock):
    costs = {f't{index}': 1.0 for index in range(50)}
    board = Board(Terminal(), 'sweep', costs, clock=clock)
    for index in range(20):
        board.end(f't{index}', 'done', {'validation_loss': 1.0, 'seconds': 1.0})
    board.begin(['t20'])
    shown = board.lines()
    assert len(shown) < 17
    assert any('t20' in line and 'running' in line for line in shown)
    assert shown[-1] == '  and 37 more'


def test_a_terminal_is_redrawn_in_place(clock):
    stream = Terminal()
    board = Board(stream, 'sweep', {'a': 1.0, 'b': 1.0}, clock=clock)
    fill(board, clock)
    assert stream.getvalue().count('\x1b[3A') == 2
    board.close()


def test_a_log_gets_a_line_when_something_happens_and_now_and_then(clock):
    stream = io.StringIO()
    board = Board(stream, 'sweep', {'a': 1.0, 'b': 1.0}, clock=clock)
    fill(board, clock)
    clock.now = 31.0
    board.tick('step 11/20')
    board.end('b', 'failed: diverged', {}, why='run.py: not finite')
    assert stream.getvalue().splitlines() == [
        'trial 1 of 2 · a · already done',
        'trial 2 of 2 · b · step 10/20 · loss 2.000',
        'trial 2 of 2 · b · failed: diverged; run.py: not finite',
    ]


def test_what_others_have_in_hand_is_shown_and_then_done(clock):
    out = io.StringIO()
    board = Board(out, 'sweep', {'a': 1.0, 'b': 1.0}, clock=clock)
    board.away(['a', 'b'])
    board.begin(['b'])
    assert board.lines()[1:] == ['  a  elsewhere', '  b  running  starting']
    board.end('a', 'done', {'validation_loss': 2.5, 'seconds': 20.0})
    assert out.getvalue() == 'trial 1 of 2 · a · done elsewhere\n'
