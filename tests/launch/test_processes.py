"""Are processes started, asked to stop, killed and started again as told, and is their end the job's?"""

import json
import os
import signal
import sys
import threading
import time

import pytest

from gpt_jax.launch import local
from gpt_jax.launch.processes import RECORD, Process, run
from tests.launch.test_launchers import make

# Writes its name, and leaves with 75 when asked to stop.
PATIENT = (
    'import pathlib, signal, sys, time; signal.signal(15, lambda *_: sys.exit(75)); '
    'pathlib.Path(sys.argv[1]).touch(); time.sleep(30)'
)


def shell(text, tether=False):
    return Process(['sh', '-c', text], None, tether)


def said_and_code(make, restarts, folder):
    said = []
    return run(make, restarts, said.append, folder), said


@pytest.mark.parametrize(
    ('codes', 'code'), [((0, 0), 0), ((0, 3), 3), ((75, 0), 75), ((75, 2), 2), ((0, 'kill'), 75), ((4, 'kill'), 4)]
)
def test_the_end_of_all_is_told_by_the_worst(tmp_path, codes, code):
    texts = ['kill -9 $$' if one == 'kill' else f'exit {one}' for one in codes]
    assert said_and_code(lambda _: [shell(text) for text in texts], 0, tmp_path) == (code, [])
    assert not (tmp_path / RECORD).exists()


def test_what_was_interrupted_is_started_again_but_not_for_ever(tmp_path):
    code, said = said_and_code(lambda attempt: [shell('exit 75' if attempt < 2 else 'exit 0')], 5, tmp_path)
    assert (code, len(said)) == (0, 2)
    code, said = said_and_code(lambda _: [shell('exit 75')], 2, tmp_path)
    assert (code, len(said)) == (75, 2)
    assert said_and_code(lambda _: [shell('exit 2')], 5, tmp_path) == (2, [])


@pytest.mark.parametrize('tether', [False, True])
def test_a_signal_is_passed_on_and_ends_the_restarts(tmp_path, tether):
    ready = [tmp_path / 'ready-0', tmp_path / 'ready-1']
    patient = 'touch "$0"; cat >/dev/null; exit 75'
    argv = [['sh', '-c', patient, str(one)] if tether else [sys.executable, '-c', PATIENT, str(one)] for one in ready]

    def ask():
        while not all(one.exists() for one in ready):
            time.sleep(0.02)
        record = json.loads((tmp_path / RECORD).read_text())
        assert record['launcher']['pid'] == os.getpid()
        assert local.cancel(make(folder=tmp_path), '') == [['kill', '-TERM', str(os.getpid())]]
        assert str(record['processes'][0]) in local.status(make(folder=tmp_path), '')[0][-1]
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=ask)
    thread.start()
    began = time.monotonic()
    code, said = said_and_code(lambda _: [Process(one, tmp_path / 'log', tether) for one in argv], 5, tmp_path)
    thread.join()
    assert (code, said) == (75, [])
    assert time.monotonic() - began < 20


def test_a_record_of_a_launcher_that_is_gone_is_nobody(tmp_path):
    (tmp_path / RECORD).write_text(
        json.dumps({'launcher': {'machine': '', 'pid': 1, 'began': '0', 'host': 'x'}, 'processes': [1]})
    )
    local_me = json.loads((tmp_path / RECORD).read_text())
    from gpt_jax.launch import alive

    local_me['launcher'] = alive.me() | {'began': '1'}
    (tmp_path / RECORD).write_text(json.dumps(local_me))
    assert local.cancel(make(folder=tmp_path), '') == []
    assert local.status(make(folder=tmp_path), '') == []
