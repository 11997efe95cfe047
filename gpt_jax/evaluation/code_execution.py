"""Execution of generated code for pass@k: each program with its tests in a process of its own.

This is not a sandbox. Running generated code means running a stranger's code with your permissions,
so it is only done on request (`--run_code`).

Enforced: a time limit, after which the whole process group is killed; limits on memory, on the
size of files and on the number of open ones; an empty working folder that is deleted afterwards; an
empty environment and standard input; discarded output.

Only against accidents: a hook inside Python refuses sockets, other processes, signals and changes
to files elsewhere; where the system allows it, there is no network device; the number of processes
is limited, except for root.

Not prevented: the program can read every file that you can read, and code that is written to get
around the hook, or to find the nonce that reports success, will do so. For a model that you do not
trust, use a container or a virtual machine without network access.
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

from gpt_jax.core.errors import UserError

CHILD_SCRIPT = Path(__file__).with_name('code_child.py')
RUN_CODE_WARNING = (
    'generated code only runs with --run_code: it runs with your permissions and with limits on '
    'time and memory, but it is not sandboxed and can read your files; use a container or a '
    'virtual machine for models that you do not trust'
)
TIME_LIMIT_SECONDS = 10.0
MEMORY_LIMIT_BYTES = 1 << 30
# CPU seconds on top of the time limit, so that usually the time limit is what ends a program.
CPU_GRACE_SECONDS = 2.0


class ProgramOutcome(NamedTuple):
    """Result of one program.

    passed: whether it ran to its end, tests included. why: 'passed', the name of the exception,
    'timed out', 'left early' or 'killed by signal N'.
    """

    passed: bool
    why: str


def run_programs(
    programs: Sequence[str],
    *,
    allowed: bool,
    seconds: float = TIME_LIMIT_SECONDS,
    memory: int = MEMORY_LIMIT_BYTES,
    workers: int = 0,
) -> list[ProgramOutcome]:
    """Run programs and return their outcomes in order.

    Args:
      programs: whole programs, tests included; a program passes if it runs to its end.
      allowed: whether the user requested it with --run_code.
      seconds: time limit of each program.
      memory: bytes of address space of each program.
      workers: number of concurrent programs; 0: as many as there are processors.

    Raises:
      UserError: running generated code is not allowed.
    """
    if not allowed:
        raise UserError(RUN_CODE_WARNING)
    with concurrent.futures.ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        return list(pool.map(lambda program: _run_program(program, seconds, memory), programs))


def _run_program(program: str, seconds: float, memory: int) -> ProgramOutcome:
    nonce = secrets.token_hex(16)
    job = {
        'program': program,
        'nonce': nonce,
        'memory': memory,
        'seconds': math.ceil(seconds + CPU_GRACE_SECONDS),
    }
    # Files instead of pipes: the child's limit bounds the size of a file, and no leftover process
    # can block the reader.
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as stdin,
        tempfile.TemporaryFile() as stdout,
    ):
        stdin.write(json.dumps(job).encode('ascii'))
        stdin.seek(0)
        child = subprocess.Popen(
            [sys.executable, '-I', '-B', str(CHILD_SCRIPT)],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            start_new_session=True,
        )
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            return ProgramOutcome(False, 'timed out')
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        stdout.seek(0)
        verdict = stdout.read(1000).decode('utf-8', 'replace')
    if child.returncode < 0:
        return ProgramOutcome(False, f'killed by signal {-child.returncode}')
    if child.returncode == 0 and verdict == nonce:
        return ProgramOutcome(True, 'passed')
    raised = child.returncode == 1 and verdict.isidentifier()
    return ProgramOutcome(False, verdict if raised else 'left early')


def extract_function_body(text: str) -> str:
    """Return the part of a completion that belongs to the function it continues.

    It ends before the first later line that is not indented, unless that begins with a closing
    bracket. An unindented line of a multi-line string ends the function, too.
    """
    lines = text.split('\n')
    for number, line in enumerate(lines):
        if number and re.match(r'[^\s)\]}]', line):
            return '\n'.join(lines[:number])
    return text


def pass_at_k(k: int, passed: Sequence[Sequence[bool]]) -> float:
    """Return the probability that at least one of k programs passes, averaged over problems.

    It is the unbiased estimate of Chen et al. 2021, equation 1.

    Args:
      passed: for each problem, whether each of its programs passed; at least k per problem.

    Raises:
      UserError: a problem has fewer than k programs.
    """
    fewest = min(len(programs) for programs in passed)
    if fewest < k:
        raise UserError(
            f'config.task.metrics: pass@{k} needs at least {k} programs per problem, got {fewest}'
        )
    chances = [
        1 - math.comb(len(programs) - sum(programs), k) / math.comb(len(programs), k)
        for programs in passed
    ]
    return math.fsum(chances) / len(chances)
