"""A run that is killed at random moments ends bitwise like one that is not.

`pytest -m slow -n 0 tests/faults/test_kill.py` kills 28 times in 4 runs. The fast tests kill during
the last validation (test_signals.py) and while a checkpoint is saved (test_checkpoint_damage.py).
"""

import random
import time

import pytest

from tests import in_process, program


def kill_and_finish(arguments: list[str], workdir, kills: int, generator: random.Random) -> int:
    """Kill the run at random moments, then let it finish; return how often it was running."""
    interrupted = 0
    for _ in range(kills):
        process = program.start(arguments)
        start, kill_time = time.monotonic(), None
        while process.poll() is None:
            elapsed = time.monotonic() - start
            if kill_time is None and (workdir / 'config.json').exists():
                kill_time = elapsed + generator.uniform(0, 6)
            if kill_time is not None and elapsed > kill_time:
                process.kill()
                interrupted += 1
                break
            time.sleep(0.005)
        process.communicate()
        # A run that finished before the kill repeats its end.
        (workdir / 'summary.json').unlink(missing_ok=True)
    in_process.run(arguments)
    return interrupted


def check_runs(source, tmp_path, runs: int, kills: int, steps: int) -> int:
    """Compare killed runs with an uninterrupted one; return how many kills hit a live process."""
    fields = {
        'config__data__source': source,
        'config__model__layers': 1,
        'config__train__steps': steps,
        'config__train__checkpoint_every': 5,
    }
    complete = tmp_path / 'complete'
    in_process.run(in_process.command(complete, **fields))
    interrupted, generator = 0, random.Random(0)
    for index in range(runs):
        workdir = tmp_path / f'killed_{index}'
        command = in_process.command(workdir, **fields)
        interrupted += kill_and_finish(command, workdir, kills, generator)
        checksum, expected = (
            program.summary(folder)['parameters_sha256'] for folder in (workdir, complete)
        )
        assert checksum == expected
        metrics, expected_metrics = (
            (folder / 'metrics.jsonl').read_bytes() for folder in (workdir, complete)
        )
        assert metrics == expected_metrics
    return interrupted


@pytest.mark.slow
def test_many_kills(source, tmp_path):
    assert check_runs(source, tmp_path, runs=4, kills=7, steps=120) >= 20
