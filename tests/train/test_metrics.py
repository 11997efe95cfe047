"""Metrics files, throughput and the loss curve."""

import contextlib
import math

import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.train.metrics import (
    MAX_CURVE_POINTS,
    MetricsWriter,
    Throughput,
    compute_mfu,
    encode_line,
    make_loss_curve,
    read_metrics,
)

FILES = ('metrics.jsonl', 'timing.jsonl')


def write_steps(writer, first, last, speed=1e6):
    for step in range(first, last + 1):
        values = {'loss': 1 / step, 'accuracy': 0.1 + step}
        writer.write(step, values, {'tokens_per_second': speed / step})


def read_steps(path):
    return [row['step'] for row in read_metrics(path)]


def test_lines_are_exact_and_ordered(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        values = {'loss': 0.1 + 0.2, 'accuracy': 1, 'bad': math.nan, 'up': math.inf}
        writer.write(7, values, {'seconds': 1.5})
        writer.write(8, {'loss': -math.inf}, {})
    assert (tmp_path / 'metrics.jsonl').read_text() == (
        '{"step": 7, "accuracy": 1, "bad": "nan", "loss": 0.30000000000000004, "up": "inf"}\n'
        '{"step": 8, "loss": "-inf"}\n'
    )
    assert (tmp_path / 'timing.jsonl').read_text() == '{"step": 7, "seconds": 1.5}\n'
    rows = read_metrics(tmp_path / 'metrics.jsonl')
    assert rows[0]['loss'] == 0.1 + 0.2
    assert math.isnan(rows[0]['bad'])
    assert rows[1] == {'step': 8, 'loss': -math.inf}


def test_equal_runs_write_equal_metrics_at_any_speed(tmp_path):
    for name, speed in (('a', 1e6), ('b', 2e6)):
        with MetricsWriter(tmp_path / name) as writer:
            write_steps(writer, 1, 5, speed)
    metrics, timing = ([(tmp_path / name / file).read_bytes() for name in 'ab'] for file in FILES)
    assert metrics[0] == metrics[1]
    assert timing[0] != timing[1]


def test_a_crash_at_any_byte_leaves_no_gap_and_no_duplicate(tmp_path):
    with MetricsWriter(tmp_path / 'complete') as writer:
        write_steps(writer, 1, 6)
    complete = {name: (tmp_path / 'complete' / name).read_bytes() for name in FILES}
    # Number of bytes of the first three steps, the last of which is the checkpoint's.
    saved = [
        sum(len(line) for line in complete[name].splitlines(keepends=True)[:3]) for name in FILES
    ]
    for ahead in range(len(complete[FILES[0]]) - saved[0] + 1):
        folder = tmp_path / str(ahead)
        folder.mkdir()
        for name, size in zip(FILES, saved, strict=True):
            (folder / name).write_bytes(complete[name][: size + ahead])
        with MetricsWriter(folder) as writer:
            writer.resume(3)
            write_steps(writer, 4, 6)
        assert {name: (folder / name).read_bytes() for name in FILES} == complete


def test_flush_makes_the_lines_visible(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        write_steps(writer, 1, 2)
        writer.flush()
        assert read_steps(tmp_path / 'metrics.jsonl') == [1, 2]


def test_resume_drops_lines_of_this_process(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        write_steps(writer, 1, 5)
        writer.resume(2)
        write_steps(writer, 3, 4, speed=5.0)
    assert read_steps(tmp_path / 'metrics.jsonl') == [1, 2, 3, 4]
    timing = read_metrics(tmp_path / 'timing.jsonl')
    assert [row['tokens_per_second'] for row in timing[2:]] == [5 / 3, 5 / 4]


def test_resume_does_not_rewrite_an_intact_file(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        write_steps(writer, 1, 3)
    before = (tmp_path / 'metrics.jsonl').stat()
    with MetricsWriter(tmp_path) as writer:
        writer.resume(3)
    assert (tmp_path / 'metrics.jsonl').stat().st_ino == before.st_ino


def test_a_step_is_written_once(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        write_steps(writer, 1, 3)
        with pytest.raises(ValueError, match='step must be after 3, got 3'):
            write_steps(writer, 3, 3)
    with (
        MetricsWriter(tmp_path) as reopened,
        pytest.raises(ValueError, match='step must be after 3, got 2'),
    ):
        write_steps(reopened, 2, 2)


def test_opening_drops_a_torn_line_and_no_other(tmp_path):
    (tmp_path / 'metrics.jsonl').write_bytes(b'{"step": 1}\n{"step": 2, "lo')
    with MetricsWriter(tmp_path) as writer:
        writer.write(2, {'loss': 0.5}, {})
    assert (tmp_path / 'metrics.jsonl').read_text() == '{"step": 1}\n{"step": 2, "loss": 0.5}\n'


def test_a_metric_named_step_is_rejected():
    with pytest.raises(ValueError, match="named 'step'"):
        encode_line(1, {'step': 2})


@pytest.mark.parametrize('broken', [b'{"step": ', b'[]', b'{"loss": 1}', b'\xff'])
def test_the_error_names_a_broken_line(tmp_path, broken):
    (tmp_path / 'metrics.jsonl').write_bytes(b'{"step": 1}\n' + broken + b'\n{"step": 3}\n')
    with pytest.raises(UserError, match=r'metrics\.jsonl:2: '):
        read_metrics(tmp_path / 'metrics.jsonl')
    with pytest.raises(UserError, match=r'metrics\.jsonl:2: '):
        MetricsWriter(tmp_path)
    with pytest.raises(UserError, match='absent: no such file'):
        read_metrics(tmp_path / 'absent')


def test_a_disabled_writer_writes_nothing(tmp_path):
    folder = tmp_path / 'run'
    with MetricsWriter(folder, enabled=False) as writer:
        writer.resume(3)
        write_steps(writer, 1, 2)
        writer.flush()
    assert not folder.exists()


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_reading_ends_the_window(clock):
    throughput = Throughput(clock)
    throughput.add_tokens(600)
    throughput.add_tokens(400)
    clock.now += 4
    assert throughput.read() == {'seconds': 4, 'tokens_per_second': 250}
    throughput.add_tokens(100)
    clock.now += 1
    assert throughput.read() == {'seconds': 1, 'tokens_per_second': 100}


def test_paused_time_is_not_training_time(clock):
    throughput = Throughput(clock)
    throughput.add_tokens(100)
    clock.now += 1
    with throughput.pause():
        clock.now += 50
        with throughput.pause():
            clock.now += 50
    clock.now += 1
    with contextlib.suppress(KeyError), throughput.pause():
        clock.now += 10
        raise KeyError
    assert throughput.read() == {'seconds': 2, 'tokens_per_second': 50}


def test_an_empty_window_and_a_reading_inside_a_pause(clock):
    throughput = Throughput(clock)
    assert throughput.read() == {'seconds': 0, 'tokens_per_second': 0}
    with throughput.pause(), pytest.raises(RuntimeError, match='inside pause'):
        throughput.read()


def test_mfu():
    assert compute_mfu(2e6, 1e6, 4e12) == 0.5


def test_curve_points_are_even_in_log_tokens_and_end_with_the_run():
    rows = [
        {'tokens': 1000 * step, 'loss': 5.0 - step / 1000, 'step': step} for step in range(1, 2001)
    ]
    curve = make_loss_curve(rows)
    assert len(curve) <= MAX_CURVE_POINTS
    assert [tokens for tokens, _ in curve] == sorted(tokens for tokens, _ in curve)
    assert curve[-1][0] == 2_000_000
    assert curve[0] == [1000, 4.999]
    assert curve[-1][1] == pytest.approx(3.1, abs=0.1)  # the mean of its bin


def test_curve_skips_rows_without_a_loss():
    assert make_loss_curve([]) == []
    rows = [{'tokens': 5, 'loss': 'nan'}, {'step': 3}, {'tokens': 7, 'loss': 2.0}]
    assert make_loss_curve(rows) == [[7.0, 2.0]]
