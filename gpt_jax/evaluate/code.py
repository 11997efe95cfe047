"""Does written code do what was asked? pass@k: each program runs in a process of its own, with its tests.

No jail. Running what a model wrote is running a stranger's code with your rights, and so it is only done where it was
asked for (`--run_code`). What holds: a program is stopped after a time, with all of its process group; its memory, the
size of its files and their number are bounded; it starts in an empty folder that is deleted afterwards, with an empty
environment and nothing on its standard input, and what it prints goes nowhere. What holds against accidents only:
sockets, other processes, signals and changes of files elsewhere are refused by a hook inside Python, besides a network
without devices where the system grants one, and a bound on processes, which root passes. What does not hold: it can
read all files that you can read, and code that sets out to get round the hook, or to look for the word that says it
passed, will. For a model that you do not trust, use a container or a virtual machine without network.
"""

import concurrent.futures
import json
import math
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from gpt_jax.errors import UserError

CHILD = Path(__file__).with_name('code_child.py')
WARNING = (
    'code that a model wrote is only run with --run_code: it runs with your rights, bounded in time and memory, but it '
    'is in no jail: it can read your files. Use a container or a virtual machine for models that you do not trust'
)
SECONDS = 10.0
MEMORY = 1 << 30
PATIENCE = 2.0  # seconds of processor time beyond the clock's, so that the clock is what stops a program


class Outcome(NamedTuple):
    """passed: it ran to its end, tests and all. why: 'passed', the name of what it raised, 'timed out', 'left early'
    or 'killed by signal N'."""

    passed: bool
    why: str


def run(
    programs: Sequence[str], *, allowed: bool, seconds: float = SECONDS, memory: int = MEMORY, workers: int = 0
) -> list[Outcome]:
    """What becomes of each program, in their order.

    Args:
      programs: whole programs, tests included; one passes that raises nothing to its last line.
      allowed: whether the user asked for it by --run_code.
      seconds: by the clock, for each.
      memory: bytes of address space, for each.
      workers: how many at once; 0: as many as there are processors.

    Raises:
      UserError: not allowed.
    """
    if not allowed:
        raise UserError(WARNING)
    with concurrent.futures.ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        return list(pool.map(lambda program: _run(program, seconds, memory), programs))


def _run(program: str, seconds: float, memory: int) -> Outcome:
    nonce = secrets.token_hex(16)
    job = {'program': program, 'nonce': nonce, 'memory': memory, 'seconds': math.ceil(seconds + PATIENCE)}
    # Files, not pipes: a file can be no longer than the child's limit, and no process that is left holds up its reader.
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as asked,
        tempfile.TemporaryFile() as told,
    ):
        asked.write(json.dumps(job).encode('ascii'))
        asked.seek(0)
        child = subprocess.Popen([sys.executable, '-I', '-B', str(CHILD)], stdin=asked, stdout=told,
                                 stderr=subprocess.DEVNULL, cwd=folder, env={}, start_new_session=True)  # fmt: skip
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            return Outcome(False, 'timed out')
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        told.seek(0)
        said = told.read(1000).decode('utf-8', 'replace')
    if child.returncode < 0:
        return Outcome(False, f'killed by signal {-child.returncode}')
    if child.returncode == 0 and said == nonce:
        return Outcome(True, 'passed')
    return Outcome(False, said if child.returncode == 1 and said.isidentifier() else 'left early')


def body(written: str) -> str:
    """Of what goes on from a function's first lines, that function: to the first line that is not set in.

    A line that closes a bracket, or stands in a string of several lines, may begin at the margin; the former is kept.
    """
    lines = written.split('\n')
    for number, line in enumerate(lines):
        if number and re.match(r'[^\s)\]}]', line):
            return '\n'.join(lines[:number])
    return written


def pass_at(k: int, passed: Sequence[Sequence[bool]]) -> float:
    """The mean over problems of the chance that one of k programs passes (Chen et al. 2021, equation 1; unbiased).

    Args:
      passed: of each problem, whether each of its programs passed; at least k of each.

    Raises:
      UserError: fewer than k.
    """
    fewest = min(len(some) for some in passed)
    if fewest < k:
        raise UserError(f'config.task.metrics: pass@{k} wants {k} programs or more for each problem, not {fewest}')
    chances = [1 - math.comb(len(some) - sum(some), k) / math.comb(len(some), k) for some in passed]
    return math.fsum(chances) / len(chances)
