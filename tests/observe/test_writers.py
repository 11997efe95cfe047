"""Are a run's numbers whole, exact, in order, and without gap or duplicate after a crash?"""

import json
import logging
import math
import sys

import pytest

from gpt_jax.errors import UserError
from gpt_jax.observe import writers
from gpt_jax.observe.writers import Metrics


def record(metrics, first, last, speed=1e6):
    for step in range(first, last + 1):
        metrics.write(step, {'loss': 1 / step, 'accuracy': 0.1 + step}, {'tokens_per_second': speed / step})


def test_lines_are_exact_and_ordered(tmp_path):
    with Metrics(tmp_path, tensorboard=False) as metrics:
        metrics.write(7, {'loss': 0.1 + 0.2, 'accuracy': 1, 'bad': math.nan, 'up': math.inf}, {'seconds': 1.5})
        metrics.write(8, {'loss': -math.inf}, {})
    text = (tmp_path / 'metrics.jsonl').read_text()
    assert text == (
        '{"step": 7, "accuracy": 1, "bad": "nan", "loss": 0.30000000000000004, "up": "inf"}\n'
        '{"step": 8, "loss": "-inf"}\n'
    )
    assert (tmp_path / 'timing.jsonl').read_text() == '{"step": 7, "seconds": 1.5}\n'
    rows = writers.read(tmp_path / 'metrics.jsonl')
    assert rows[0]['loss'] == 0.1 + 0.2
    assert math.isnan(rows[0]['bad'])
    assert rows[1] == {'step': 8, 'loss': -math.inf}


def test_equal_runs_are_equal_bytes_at_any_speed(tmp_path):
    for name, speed in (('a', 1e6), ('b', 2e6)):
        with Metrics(tmp_path / name, tensorboard=False) as metrics:
            record(metrics, 1, 5, speed)
    first, again = ((tmp_path / name / 'metrics.jsonl').read_bytes() for name in 'ab')
    assert first == again
    assert (tmp_path / 'a' / 'timing.jsonl').read_bytes() != (tmp_path / 'b' / 'timing.jsonl').read_bytes()


def test_crash_at_any_byte_leaves_no_gap_and_no_duplicate(tmp_path):
    with Metrics(tmp_path / 'whole', tensorboard=False) as metrics:
        record(metrics, 1, 6)
    names = ('metrics.jsonl', 'timing.jsonl')
    whole = {name: (tmp_path / 'whole' / name).read_bytes() for name in names}
    saved = [sum(len(line) for line in whole[name].splitlines(keepends=True)[:3]) for name in names]
    for ahead in range(len(whole[names[0]]) - saved[0] + 1):
        folder = tmp_path / str(ahead)
        folder.mkdir()
        for name, at in zip(names, saved, strict=True):
            (folder / name).write_bytes(whole[name][: at + ahead])
        with Metrics(folder, tensorboard=False) as metrics:
            metrics.resume(3)  # the step of the last checkpoint
            record(metrics, 4, 6)
        assert {name: (folder / name).read_bytes() for name in names} == whole


def test_flush_makes_the_lines_visible(tmp_path):
    with Metrics(tmp_path, tensorboard=False) as metrics:
        record(metrics, 1, 2)
        metrics.flush()
        assert [row['step'] for row in writers.read(tmp_path / 'metrics.jsonl')] == [1, 2]


def test_resume_drops_what_this_process_wrote_too(tmp_path):
    with Metrics(tmp_path, tensorboard=False) as metrics:
        record(metrics, 1, 5)
        metrics.resume(2)
        record(metrics, 3, 4, speed=5.0)
    assert [row['step'] for row in writers.read(tmp_path / 'metrics.jsonl')] == [1, 2, 3, 4]
    assert [row['tokens_per_second'] for row in writers.read(tmp_path / 'timing.jsonl')][2:] == [5 / 3, 5 / 4]


def test_resume_of_an_intact_file_leaves_it_alone(tmp_path):
    with Metrics(tmp_path, tensorboard=False) as metrics:
        record(metrics, 1, 3)
    before = (tmp_path / 'metrics.jsonl').stat()
    with Metrics(tmp_path, tensorboard=False) as metrics:
        metrics.resume(3)
    assert (tmp_path / 'metrics.jsonl').stat().st_ino == before.st_ino


def test_a_step_is_written_once(tmp_path):
    with Metrics(tmp_path, tensorboard=False) as metrics:
        record(metrics, 1, 3)
        with pytest.raises(ValueError, match='step 3 after step 3'):
            record(metrics, 3, 3)
    with Metrics(tmp_path, tensorboard=False) as again, pytest.raises(ValueError, match='step 2 after step 3'):
        record(again, 2, 2)


def test_opening_cuts_off_a_torn_line_and_keeps_the_rest(tmp_path):
    (tmp_path / 'metrics.jsonl').write_bytes(b'{"step": 1}\n{"step": 2, "lo')
    with Metrics(tmp_path, tensorboard=False) as metrics:
        metrics.write(2, {'loss': 0.5}, {})
    assert (tmp_path / 'metrics.jsonl').read_text() == '{"step": 1}\n{"step": 2, "loss": 0.5}\n'


def test_value_named_step_is_refused():
    with pytest.raises(ValueError, match="named 'step'"):
        writers.line(1, {'step': 2})


@pytest.mark.parametrize('broken', [b'{"step": ', b'[]', b'{"loss": 1}', b'\xff'])
def test_broken_line_is_named(tmp_path, broken):
    (tmp_path / 'metrics.jsonl').write_bytes(b'{"step": 1}\n' + broken + b'\n{"step": 3}\n')
    with pytest.raises(UserError, match=r'metrics\.jsonl:2: '):
        writers.read(tmp_path / 'metrics.jsonl')
    with pytest.raises(UserError, match=r'metrics\.jsonl:2: '):
        Metrics(tmp_path, tensorboard=False)
    with pytest.raises(UserError, match='absent: no such file'):
        writers.read(tmp_path / 'absent')


def test_disabled_writes_nothing(tmp_path):
    folder = tmp_path / 'run'
    with Metrics(folder, tensorboard=True, enabled=False) as metrics:
        metrics.resume(3)
        record(metrics, 1, 2)
        metrics.flush()
    assert not folder.exists()


def test_tensorboard_shows_what_is_finite(tmp_path):
    with Metrics(tmp_path, tensorboard=True) as metrics:
        metrics.write(1, {'loss': 2.0, 'broken': math.nan}, {'seconds': 1.0})
    events = b''.join(path.read_bytes() for path in (tmp_path / 'tensorboard').iterdir())
    assert b'loss' in events
    assert b'timing/seconds' in events
    assert b'broken' not in events


def test_missing_tensorboard_is_said_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, 'tensorboardX', None)
    with caplog.at_level(logging.WARNING), Metrics(tmp_path, tensorboard=True) as metrics:
        record(metrics, 1, 3)
    assert caplog.text.count('tensorboardX is not installed') == 1
    assert [json.loads(text)['step'] for text in (tmp_path / 'metrics.jsonl').read_text().splitlines()] == [1, 2, 3]
    assert not (tmp_path / 'tensorboard').exists()
