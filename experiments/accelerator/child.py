"""A measurement in its own process, with a time limit and JSON lines as output."""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OUT_OF_MEMORY = (
    'RESOURCE_EXHAUSTED',
    'out of memory',
    'Out of memory',
    'OutOfMemoryError',
    'Unable to allocate',
)
# JAX takes three quarters of a GPU by default; cuDNN and cuBLAS need some memory of their own.
MEMORY_FRACTION = '0.92'


def make_environment() -> dict[str, str]:
    """Return this process's environment, with the repository on PYTHONPATH.

    JAX may use almost the whole GPU, unless a out_of_memory fraction is set already.
    """
    environment = dict(os.environ)
    environment['PYTHONPATH'] = os.pathsep.join(
        [str(ROOT), *filter(None, [environment.get('PYTHONPATH')])]
    )
    if not {'XLA_CLIENT_MEM_FRACTION', 'XLA_PYTHON_CLIENT_MEM_FRACTION'} & set(environment):
        environment['XLA_CLIENT_MEM_FRACTION'] = MEMORY_FRACTION
    return environment


def stream_records(command: list[str], deadline: float) -> Iterator[dict[str, Any]]:
    """Run `command` and yield each JSON object that it prints on a line.

    Args:
      command: the program and its arguments.
      deadline: in seconds of time.monotonic; the process and its children are killed then.

    Yields:
      The objects, each with 'elapsed_seconds' since the start. A process that fails, reaches the
      deadline or prints nothing adds one last object: 'failed' (one line), 'out_of_memory' and, at
      the deadline, 'out_of_time'.
    """
    start, count = time.monotonic(), 0
    with (
        tempfile.TemporaryFile('w+', errors='replace') as errors,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
            env=make_environment(),
        ) as process,
    ):
        expired = threading.Event()
        timer = threading.Timer(max(0.0, deadline - start), _expire, (process, expired))
        timer.daemon = True
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith('{'):
                    count += 1
                    yield json.loads(line) | {'elapsed_seconds': time.monotonic() - start}
            code = process.wait()
        finally:
            timer.cancel()
            _kill(process)
        elapsed = time.monotonic() - start
        if expired.is_set():
            reason = f'ended after {elapsed:.0f} s: no time left'
            yield {
                'failed': reason,
                'out_of_memory': False,
                'out_of_time': True,
                'elapsed_seconds': elapsed,
            }
        elif code or not count:
            errors.seek(0)
            text = errors.read()
            reason = next(
                (line for line in reversed(text.splitlines()) if line.strip()), 'printed nothing'
            )
            out_of_memory = any(message in text for message in OUT_OF_MEMORY)
            yield {
                'failed': f'exit {code}: {reason.strip()[:300]}',
                'out_of_memory': out_of_memory,
                'elapsed_seconds': elapsed,
            }


def _expire(process: subprocess.Popen[str], expired: threading.Event) -> None:
    expired.set()
    _kill(process)


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill the process and its children; those of torch.compile outlive their parent otherwise."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
