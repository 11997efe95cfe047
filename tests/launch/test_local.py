"""The supervisor of foreground processes: signals, exit codes, restarts, the process record."""

import json
import os
import signal
import sys
import threading
import time

import pytest

from gpt_jax.launch.launchers import LAUNCHERS
from gpt_jax.launch.local import PROCESSES_FILE, ProcessSpec, run_processes
from gpt_jax.sweep import claims
from tests.launch.test_launchers import make_job

LOCAL = LAUNCHERS['local']
# Touches a file, and exits with 75 on SIGTERM.
PATIENT = (
    'import pathlib, signal, sys, time; signal.signal(15, lambda *_: sys.exit(75)); '
    'pathlib.Path(sys.argv[1]).touch(); time.sleep(30)'
)


def shell(text):
    return ProcessSpec(['sh', '-c', text], None, stops_on_eof=False)


def run_and_log(make_processes, restarts, folder):
    """Returns the exit code and the logged lines."""
    lines = []
    return run_processes(make_processes, restarts, lines.append, folder), lines


@pytest.mark.parametrize(
    ('codes', 'code'),
    [((0, 0), 0), ((0, 3), 3), ((75, 0), 75), ((75, 2), 2), ((0, 'kill'), 75), ((4, 'kill'), 4)],
)
def test_the_worst_exit_code_is_returned(tmp_path, codes, code):
    scripts = ['kill -9 $$' if value == 'kill' else f'exit {value}' for value in codes]
    specs = [shell(script) for script in scripts]
    assert run_and_log(lambda _: specs, 0, tmp_path) == (code, [])
    assert not (tmp_path / PROCESSES_FILE).exists()


def test_interrupted_processes_are_restarted_up_to_the_limit(tmp_path):
    code, lines = run_and_log(
        lambda attempt: [shell('exit 75' if attempt < 2 else 'exit 0')], 5, tmp_path
    )
    assert (code, len(lines)) == (0, 2)
    code, lines = run_and_log(lambda _: [shell('exit 75')], 2, tmp_path)
    assert (code, len(lines)) == (75, 2)
    assert run_and_log(lambda _: [shell('exit 2')], 5, tmp_path) == (2, [])


@pytest.mark.parametrize('stops_on_eof', [False, True])
def test_a_signal_is_passed_on_and_ends_the_restarts(tmp_path, stops_on_eof):
    ready = [tmp_path / 'ready-0', tmp_path / 'ready-1']
    command = [sys.executable, '-c', PATIENT]
    if stops_on_eof:
        command = ['sh', '-c', 'touch "$0"; cat >/dev/null; exit 75']
    specs = [ProcessSpec([*command, str(path)], tmp_path / 'log', stops_on_eof) for path in ready]
    job = make_job(folder=tmp_path)

    def send_signal():
        while not all(path.exists() for path in (*ready, tmp_path / PROCESSES_FILE)):
            time.sleep(0.02)
        record = json.loads((tmp_path / PROCESSES_FILE).read_text())
        assert record['launcher']['pid'] == os.getpid()
        assert LOCAL.cancel_commands(job, '') == [['kill', '-TERM', str(os.getpid())]]
        assert str(record['processes'][0]) in LOCAL.status_commands(job, '')[0][-1]
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=send_signal)
    thread.start()
    began = time.monotonic()
    result = run_and_log(lambda _: specs, 5, tmp_path)
    thread.join()
    assert result == (75, [])
    assert time.monotonic() - began < 20


def test_the_record_of_a_dead_launcher_is_ignored(tmp_path):
    record = {'launcher': claims.this_process() | {'began': '1'}, 'processes': [1]}
    (tmp_path / PROCESSES_FILE).write_text(json.dumps(record))
    assert LOCAL.cancel_commands(make_job(folder=tmp_path), '') == []
    assert LOCAL.status_commands(make_job(folder=tmp_path), '') == []
