"""Is a run that was killed anywhere, any number of times, bitwise the run that was not?

The fast test kills 3 times; `pytest -m slow -n 0 tests/faults/test_kill.py` kills 24 times over 4 runs.
"""

import random
import time

import pytest

from tests import program


def killed_until_done(arguments: list[str], workdir, kills: int, generator: random.Random) -> int:
    """Kills the run at `kills` random moments of its life, then lets it finish; how many kills hit it alive."""
    hit = 0
    for _ in range(kills):
        process = program.start(arguments)
        began, moment = time.monotonic(), None
        while process.poll() is None:
            if moment is None and (workdir / 'config.json').exists():
                moment = time.monotonic() - began + generator.uniform(0, 6)
            if moment is not None and time.monotonic() - began > moment:
                process.kill()
                hit += 1
                break
            time.sleep(0.005)
        process.communicate()
        (workdir / 'summary.json').unlink(missing_ok=True)  # a run that got to its end before the kill does it again
    program.run(arguments)
    return hit


def check(source, tmp_path, runs: int, kills: int) -> int:
    fields = {'config__data__source': source, 'config__train__steps': 120, 'config__train__checkpoint_every': 5}
    program.run(program.command(tmp_path / 'whole', **fields))
    hit, generator = 0, random.Random(0)
    for index in range(runs):
        workdir = tmp_path / f'killed_{index}'
        hit += killed_until_done(program.command(workdir, **fields), workdir, kills, generator)
        assert program.summary(workdir)['parameters_sha256'] == program.summary(tmp_path / 'whole')['parameters_sha256']
        assert (workdir / 'metrics.jsonl').read_bytes() == (tmp_path / 'whole' / 'metrics.jsonl').read_bytes()
    return hit


def test_three_kills(source, tmp_path):
    assert check(source, tmp_path, runs=1, kills=3) >= 1


@pytest.mark.slow
def test_many_kills(source, tmp_path):
    hit = check(source, tmp_path, runs=4, kills=7)
    print(f'{hit} kills survived bitwise')
    assert hit >= 20
