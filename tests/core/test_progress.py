"""The progress line: its text, and how often it is written."""

import io

import pytest

from gpt_jax.core import progress
from gpt_jax.core.formatting import format_duration, format_short_count


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def draw(stream, steps, seconds_a_step=1.0, total=100):
    clock = Clock()
    shown = progress.Progress(stream, trial=(1, 3), name='tiny', steps=total, clock=clock)
    for step in steps:
        clock.now = step * seconds_a_step
        shown.update(step, 2.5, 5e4)
    shown.close()
    return stream.getvalue()


def test_line():
    assert progress.format_progress((2, 6), '3x48', 120, 400, 2.3451, 51_234.0, 42.2) == (
        'trial 2 of 6 · 3x48 · step 120/400 · loss 2.345 · 51.2k tok/s · 0:42 left'
    )
    assert (
        progress.format_progress(None, 'run', 1, 9, float('nan'), 950.0, None)
        == 'run · step 1/9 · loss nan · 950 tok/s'
    )


@pytest.mark.parametrize(
    ('value', 'words'),
    [
        (0, '0'),
        (950, '950'),
        (999.6, '1.0k'),
        (1234, '1.2k'),
        (999_960, '1.0M'),
        (3.4e6, '3.4M'),
        (1.5e9, '1.5B'),
        (2e12, '2.0T'),
        (5e15, '5000.0T'),
        (float('inf'), 'inf'),
        (float('nan'), 'nan'),
    ],
)
def test_count(value, words):
    assert format_short_count(value) == words


@pytest.mark.parametrize(
    ('seconds', 'words'),
    [
        (0, '0:00'),
        (42.4, '0:42'),
        (59.6, '1:00'),
        (727, '12:07'),
        (3723, '1:02:03'),
        (4e5, '111:06:40'),
        (-3, '0:00'),
    ],
)
def test_duration(seconds, words):
    assert format_duration(seconds) == words


def test_log_file_gets_a_line_every_few_seconds_and_the_last():
    lines = draw(io.StringIO(), range(1, 26), total=25).splitlines()
    assert [line.split('step ')[1].split('/')[0] for line in lines] == ['1', '11', '21', '25']


def test_terminal_rewrites_one_line(monkeypatch):
    monkeypatch.setenv('COLUMNS', '100')
    text = draw(Terminal(), [98, 99, 100])
    assert text.count('\r') == 3
    assert text.count('\n') == 1
    assert text.endswith('\n')


def test_shorter_line_covers_the_longer_one_before_it(monkeypatch):
    monkeypatch.setenv('COLUMNS', '100')
    stream = Terminal()
    shown = progress.Progress(stream, trial=None, name='run', steps=10, clock=Clock())
    shown.update(1, 12.5, 1.0)
    shown.update(1, 2.5, 1.0)
    _, long, short = stream.getvalue().split('\r')
    assert short == long.replace('12.500', '2.500') + ' '


def test_line_does_not_wrap(monkeypatch):
    monkeypatch.setenv('COLUMNS', '30')
    assert max(len(part) for part in draw(Terminal(), [1, 2]).split('\r')) <= 30


def test_time_left_follows_the_pace_from_the_first_update_on():
    text = draw(io.StringIO(), [0, 50], seconds_a_step=2.0)
    first, second = text.splitlines()
    assert 'left' not in first
    assert second.endswith('1:40 left')


def test_one_slow_stretch_does_not_jerk_the_time_left():
    clock = Clock()
    stream = io.StringIO()
    shown = progress.Progress(stream, trial=None, name='run', steps=1000, clock=clock)
    for step, now in ((0, 0), (10, 10), (20, 20), (30, 60)):
        clock.now = now
        shown.update(step, 2.5, 1.0)
    assert (
        stream.getvalue()
        .splitlines()[-1]
        .endswith(f'{format_duration(970 * (0.8 * 1 + 0.2 * 4))} left')
    )


def test_narrow_encoding_does_not_stop_a_run():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding='ascii')
    shown = progress.Progress(stream, trial=None, name='run', steps=10, clock=Clock())
    shown.update(1, 2.5, 1.0)
    assert raw.getvalue() == b'run ? step 1/10 ? loss 2.500 ? 1 tok/s\n'


def test_what_is_done_between_steps_takes_the_place_of_their_numbers():
    stream, clock = Terminal(), Clock()
    shown = progress.Progress(stream, trial=(2, 3), name='tiny', steps=10, clock=clock)
    shown.note('evaluating, batch 1/2')
    assert stream.getvalue().endswith('\rtiny · evaluating, batch 1/2')
    shown.update(5, 2.5, 5e4)
    shown.note('evaluating, batch 2/2')
    assert (
        stream.getvalue()
        .rstrip()
        .endswith('\rtrial 2 of 3 · tiny · step 5/10 · evaluating, batch 2/2')
    )
    shown.close()
    assert stream.getvalue().splitlines()[-1].rstrip().endswith('50.0k tok/s')


def test_a_log_is_not_flooded_by_what_is_done_between_steps():
    stream, clock = io.StringIO(), Clock()
    shown = progress.Progress(stream, trial=None, name='tiny', steps=10, clock=clock)
    for clock.now in (0.0, 1.0, 9.0, 11.0):
        shown.note(f'evaluating, second {clock.now:.0f}')
    assert stream.getvalue() == 'tiny · evaluating, second 0\ntiny · evaluating, second 11\n'
