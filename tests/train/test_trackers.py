"""Trackers: resume, failure and order with a fake service, and the real libraries if installed."""

import dataclasses
import json
import math
import struct
import subprocess
import sys
import time

import pytest

from gpt_jax.core.config import TrainConfig, default_config, parse_section
from gpt_jax.core.config_fields import config_hash
from gpt_jax.core.errors import UserError
from gpt_jax.core.files import read_json, read_jsonl
from gpt_jax.train import trackers
from gpt_jax.train.metrics import MetricsWriter
from gpt_jax.train.trackers import TrackedRun, Trackers

FAKE = 'tests.train.fake_tracker:FileTracker'
SUMMARY = {'status': 'done', 'validation_loss': 0.5, 'bad': math.nan, 'curve': [[1, 2.0]]}


def make_row(step):
    return step, {'loss': 1 / step, 'bad': math.nan}, {'seconds': 0.5 * step}


def track(folder, words, start, last, *, is_killed=False, log=print):
    """Train from `start` to `last`; the checkpoint of `start` has the rows up to it."""
    run = TrackedRun('tiny', 'sweep', folder, {'seed': 0, 'model': {'width': 8}})
    with MetricsWriter(folder) as metrics:
        metrics.resume(start)
        with Trackers(words, run, start, log) as running:
            for step in range(start + 1, last + 1):
                metrics.write(*make_row(step))
                running.log(*make_row(step))
            if not is_killed:
                running.finish(SUMMARY)


def read_service(folder):
    return read_jsonl(folder / 'service.jsonl')


def read_steps(folder):
    return [record['step'] for record in read_service(folder) if 'step' in record]


def test_a_resumed_run_goes_on_in_the_same_run_and_sends_each_step_once(tmp_path):
    track(tmp_path, [FAKE], 0, 6, is_killed=True)
    track(tmp_path, [FAKE], 3, 8)  # 4 to 6 are trained again
    records = read_service(tmp_path)
    assert [r for r in records if 'open' in r] == [
        {'open': 'run-1', 'name': 'tiny', 'group': 'sweep'}
    ] * 2
    assert read_steps(tmp_path) == list(range(1, 9))
    assert records[1]['values'] == {'loss': 1.0, 'timing/seconds': 0.5}  # finite values only
    assert records[-2:] == [
        {'summary': {'status': 'done', 'validation_loss': 0.5}},
        {'closed': True},
    ]
    assert sum('summary' in record for record in records) == 1
    position = read_json(tmp_path / 'trackers' / 'tests.train.fake_tracker.FileTracker.json')
    assert position == {'run_id': 'run-1', 'last_step': 8}


def test_a_tracker_that_is_added_later_gets_the_earlier_rows(tmp_path):
    track(tmp_path, [], 0, 4, is_killed=True)
    track(tmp_path, [FAKE], 3, 5)
    assert read_steps(tmp_path) == [1, 2, 3, 4, 5]
    assert read_service(tmp_path)[2]['values'] == {'loss': 0.5, 'timing/seconds': 1.0}


def test_a_service_that_lost_steps_gets_them_again(tmp_path):
    word = 'tests.train.fake_tracker:ForgetfulTracker'
    track(tmp_path, [word], 0, 5, is_killed=True)
    track(tmp_path, [word], 4, 6)
    assert read_steps(tmp_path) == [1, 2, 3, 4, 5, 3, 4, 5, 6]


def test_a_failing_tracker_warns_once_and_the_next_start_sends_the_rest(tmp_path):
    lost, lines = 'tests.train.fake_tracker:LostTracker', []
    words = [lost, FAKE.replace('FileTracker', 'refuse')]
    track(tmp_path, words, 0, 5, log=lines.append)
    assert [line.partition('; ')[0] for line in sorted(lines)] == [
        f'tiny: tracker {lost}: stopped (ConnectionError: no route to host)',
        f'tiny: tracker {words[1]}: stopped (UserError: quota exceeded)',
    ]
    assert read_steps(tmp_path) == [1, 2]
    assert read_service(tmp_path)[-1] == {'closed': True}
    assert len(read_jsonl(tmp_path / 'metrics.jsonl')) == 5
    (tmp_path / 'trackers' / 'tests.train.fake_tracker.LostTracker.json').rename(
        tmp_path / 'trackers' / 'tests.train.fake_tracker.FileTracker.json'
    )
    track(tmp_path, [FAKE], 4, 6)
    assert read_steps(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_an_interrupt_in_the_thread_of_a_tracker_is_one_line(tmp_path, capsys):
    lines = []
    track(tmp_path, ['tests.train.fake_tracker:InterruptedTracker'], 0, 2, log=lines.append)
    assert read_steps(tmp_path) == [1, 2]
    assert len(lines) == 1
    assert 'InterruptedTracker: stopped (KeyboardInterrupt); metrics.jsonl has' in lines[0]
    assert capsys.readouterr().err == ''


def test_a_slow_tracker_delays_neither_steps_nor_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, 'FINISH_SECONDS', 0.1)
    lines, began = [], time.monotonic()
    track(tmp_path, ['tests.train.fake_tracker:SlowTracker'], 0, 50, log=lines.append)
    assert time.monotonic() - began < 1.5
    assert len(lines) == 1
    assert 'SlowTracker: was still sending when the run ended; metrics.jsonl has every' in lines[0]


def make_train_config(**fields):
    config = default_config()
    config['train'] |= fields
    return parse_section(config, 'train')


def test_words_and_identity():
    words = ('wandb', FAKE, 'wandb')
    assert trackers.list_trackers(make_train_config(trackers=words)) == (
        'tensorboard',
        'wandb',
        FAKE,
    )
    assert trackers.list_trackers(make_train_config(tensorboard=False)) == ()
    with pytest.raises(UserError, match=r"must be one of .* or a dotted path .*'wandb'"):
        make_train_config(trackers=('wandbb',))
    config = default_config()
    before = config_hash(config)
    config['train']['trackers'] = ['mlflow']
    assert config_hash(config) == before
    choices = {field.name: field.metadata['choices'] for field in dataclasses.fields(TrainConfig)}
    assert {*choices['trackers'], 'tensorboard'} == trackers.CLASSES.keys()


def test_group_is_the_sweeps_folder(tmp_path):
    assert trackers.find_group(tmp_path / 'ladder' / 'trials' / '4x128') == 'ladder'
    assert trackers.find_group(tmp_path / 'ladder') == ''


@pytest.mark.parametrize('word', ['wandb', 'mlflow', 'trackio'])
def test_a_missing_library_is_one_line_that_names_the_extra(word, monkeypatch):
    monkeypatch.delitem(sys.modules, f'gpt_jax.train.tracker_{word}', raising=False)
    monkeypatch.setitem(sys.modules, word, None)
    message = rf"config\.train\.trackers: {word} cannot be imported .*pip install -e '\.\[{word}\]'"
    with pytest.raises(UserError, match=message):
        trackers.check_trackers(make_train_config(trackers=(word,)))
    with pytest.raises(UserError, match=r"train\.trackers: cannot import 'my_lab\.none:Tracker'"):
        trackers.check_trackers(make_train_config(trackers=('my_lab.none:Tracker',)))


def read_events(folder):
    """Read the events that TensorBoard would show: a START event hides those at later steps."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    shown = {}
    for path in sorted((folder / 'tensorboard').iterdir(), key=lambda path: path.stat().st_mtime):
        content, position = path.read_bytes(), 0
        while position < len(content):
            (size,) = struct.unpack_from('<Q', content, position)
            event = Event.FromString(content[position + 12 : position + 12 + size])
            position += 16 + size
            if event.session_log.status == SessionLog.START:
                shown = {step: values for step, values in shown.items() if step < event.step}
            elif event.summary.value:
                values = {value.tag: value.simple_value for value in event.summary.value}
                assert event.step not in shown
                shown[event.step] = values
    return shown


def test_tensorboard_has_each_step_once(tmp_path):
    track(tmp_path, ['tensorboard'], 0, 5, is_killed=True)
    track(tmp_path, ['tensorboard'], 3, 6)
    shown = read_events(tmp_path)
    assert list(shown) == [1, 2, 3, 4, 5, 6]
    assert shown[4] == {'loss': 0.25, 'timing/seconds': 2.0}


def test_missing_tensorboard_is_one_line(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, 'gpt_jax.train.tracker_tensorboard', raising=False)
    monkeypatch.setitem(sys.modules, 'tensorboardX', None)
    lines = []
    track(tmp_path, ['tensorboard'], 0, 3, log=lines.append)
    assert lines == ['tiny: tensorboardX is not installed: no TensorBoard files are written']
    assert not (tmp_path / 'tensorboard').exists()


@pytest.fixture
def patient(monkeypatch):
    """Opening a database of MLflow takes longer than a run that is stopped waits."""
    monkeypatch.setattr(trackers, 'STOP_SECONDS', 60.0)


def check_real(folder, word, read):
    """Kill and resume a run with the real library; `read` returns its (step, loss), in order."""
    lines = []
    track(folder, [word], 0, 6, is_killed=True, log=lines.append)
    track(folder, [word], 3, 8, log=lines.append)
    assert lines == []
    run_id = read_json(folder / 'trackers' / f'{word}.json')['run_id']
    assert read(run_id) == [(step, 1 / step) for step in range(1, 9)]


@pytest.mark.usefixtures('patient')
@pytest.mark.filterwarnings('default')
def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip('wandb')
    monkeypatch.setenv('WANDB_MODE', 'offline')

    def read(run_id):
        steps = []
        for path in sorted(tmp_path.glob('wandb/offline-run-*/*.wandb')):
            command = [sys.executable, '-m', 'wandb', 'leet', 'inspect', '--json', str(path)]
            out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            records = [json.loads(line) for line in out.splitlines()]
            runs = [record['run'] for record in records if record['type'] == 'run']
            assert {run['run_id'] for run in runs} == {run_id}
            assert {run['run_group'] for run in runs} == {'sweep'}
            history = [record['history'] for record in records if record['type'] == 'history']
            steps += [(row['step']['num'], row['item']['loss']) for row in history]
        return steps

    check_real(tmp_path, 'wandb', read)


@pytest.mark.usefixtures('patient')
@pytest.mark.filterwarnings('default')
def test_mlflow_in_a_database(tmp_path, monkeypatch):
    mlflow = pytest.importorskip('mlflow')
    monkeypatch.setenv('MLFLOW_TRACKING_URI', f'sqlite:///{tmp_path}/mlflow.db')

    def read(run_id):
        client = mlflow.MlflowClient()
        run = client.get_run(run_id)
        assert run.info.status == 'FINISHED'
        assert run.data.tags['sweep'] == 'sweep'
        assert run.data.params == {'seed': '0', 'model.width': '8'}
        assert run.data.metrics['summary/validation_loss'] == 0.5
        history = client.get_metric_history(run_id, 'loss')
        return [(metric.step, metric.value) for metric in history]

    check_real(tmp_path, 'mlflow', read)


@pytest.mark.usefixtures('patient')
@pytest.mark.filterwarnings('default')
def test_trackio_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv('TRACKIO_DIR', str(tmp_path / 'trackio'))
    pytest.importorskip('trackio')
    from trackio.sqlite_storage import SQLiteStorage

    def read(run_id):
        return [(row['step'], row['loss']) for row in SQLiteStorage.get_logs('gpt_jax', run_id)]

    check_real(tmp_path, 'trackio', read)
