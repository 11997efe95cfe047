"""How is one measurement run in its own process, and ended in time? Its JSON lines come out as they are printed."""

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
OUT_OF_MEMORY = ('RESOURCE_EXHAUSTED', 'out of memory', 'Out of memory', 'OutOfMemoryError', 'Unable to allocate')
MEMORY_FRACTION = '0.92'  # JAX takes three quarters of a GPU by default; some is left to cuDNN's and cuBLAS's own


def environment() -> dict[str, str]:
    """This process's, with the repository importable and almost the whole GPU for JAX, unless it says otherwise."""
    found = dict(os.environ)
    found['PYTHONPATH'] = os.pathsep.join([str(ROOT), *filter(None, [found.get('PYTHONPATH')])])
    if not {'XLA_CLIENT_MEM_FRACTION', 'XLA_PYTHON_CLIENT_MEM_FRACTION'} & set(found):
        found['XLA_CLIENT_MEM_FRACTION'] = MEMORY_FRACTION
    return found


def lines(command: list[str], until: float) -> Iterator[dict[str, Any]]:
    """Runs `command` and yields each JSON object that it prints on a line, with 'elapsed_seconds' since its start.

    A process that fails, is still running at `until` (time.monotonic; it and its children are killed) or prints
    nothing adds one last object: 'failed' (one line), 'out_of_memory', 'out_of_time'.
    """
    began, count = time.monotonic(), 0
    with (
        tempfile.TemporaryFile('w+', errors='replace') as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True, env=environment()
        ) as process,
    ):
        expired = threading.Event()
        timer = threading.Timer(max(0.0, until - began), _expire, (process, expired))
        timer.daemon = True
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith('{'):
                    count += 1
                    yield json.loads(line) | {'elapsed_seconds': time.monotonic() - began}
            code = process.wait()
        finally:
            timer.cancel()
            _kill(process)
        elapsed = time.monotonic() - began
        if expired.is_set():
            why = f'ended after {elapsed:.0f} s: no time left'
            yield {'failed': why, 'out_of_memory': False, 'out_of_time': True, 'elapsed_seconds': elapsed}
        elif code or not count:
            errors.seek(0)
            text = errors.read()
            why = next((line for line in reversed(text.splitlines()) if line.strip()), 'printed nothing')
            memory = any(word in text for word in OUT_OF_MEMORY)
            yield {'failed': f'exit {code}: {why.strip()[:300]}', 'out_of_memory': memory, 'elapsed_seconds': elapsed}


def _expire(process: subprocess.Popen[str], expired: threading.Event) -> None:
    expired.set()
    _kill(process)


def _kill(process: subprocess.Popen[str]) -> None:
    """The process and all that it started; those of torch.compile outlive their parent otherwise."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
