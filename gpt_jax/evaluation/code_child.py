"""Child process of code_execution.py that runs one program with limits.

It is run as a script and imports nothing from gpt_jax, so that it starts quickly. Standard input: a
JSON object {"program", "nonce", "memory", "seconds"}. Standard output: the nonce if the program
runs to its end, else the name of the exception. Resource limits, a network namespace without
devices (where the system allows it) and an audit hook restrict the program. The hook only prevents
accidents; code that is written to get around it can do so.
"""

import contextlib
import ctypes
import json
import os
import resource
import sys
from collections.abc import Callable
from typing import Any

NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000  # CLONE_NEWUSER, CLONE_NEWNET of sched.h
MAX_FILE_BYTES = 1 << 20
MAX_OPEN_FILES = 32
# Prefixes of refused audit events (table of audit events in Python's documentation).
REFUSED_EVENTS = (
    'socket.',
    'subprocess.',
    'ctypes.',
    'os.exec',
    'os.fork',
    'os.posix_spawn',
    'os.spawn',
    'os.startfile',
    'os.system',
    'os.kill',
    'os.putenv',
    'os.chdir',
    'os.chmod',
    'os.chown',
    'os.chflags',
    'os.link',
    'os.symlink',
    'os.setxattr',
    'os.removexattr',
    'os.utime',
    'pty.',
    'shutil.',
    'signal.',
    'resource.set',
    'urllib.',
    'ftplib.',
    'smtplib.',
    'http.',
    'webbrowser.',
    'sqlite3.',
    'syslog.',
    'fcntl.',
)
# Audit events that are only allowed inside the working folder.
FOLDER_EVENTS = (
    'os.remove',
    'os.rename',
    'os.rmdir',
    'os.mkdir',
    'os.truncate',
    'os.mkfifo',
    'os.mknod',
)
WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def main() -> None:
    job = json.loads(sys.stdin.read())
    verdict_file = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    sys.stdin = os.fdopen(0)  # the program must not read the job from the old buffer
    program, nonce = job['program'], job.pop('nonce')
    _disable_network()
    _set_limits(job['memory'], job['seconds'])
    sys.addaudithook(_make_hook(os.path.realpath('.')))
    verdict = nonce
    try:
        exec(compile(program, '<program>', 'exec'), {'__name__': '__main__'})
    except BaseException as error:
        verdict = type(error).__name__[:100]
    with contextlib.suppress(OSError):
        os.write(verdict_file, verdict.encode('utf-8', 'replace'))
    os._exit(0 if verdict == nonce else 1)


def _disable_network() -> None:
    """Enter a network namespace without devices.

    Where that is not allowed (in many containers), only the hook refuses sockets.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).unshare(NEW_USER | NEW_NETWORK)


def _set_limits(memory: int, seconds: int) -> None:
    """Set the resource limits; the one on processes exempts root, so the hook backs it up."""
    limits = {
        'AS': memory,
        'CPU': seconds,
        'FSIZE': MAX_FILE_BYTES,
        'NPROC': 0,
        'NOFILE': MAX_OPEN_FILES,
        'CORE': 0,
    }
    for name, limit in limits.items():
        number = getattr(resource, f'RLIMIT_{name}', None)
        if number is not None:
            # The machine's own limit may be lower, or this kind of limit unsupported.
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(number, (limit, limit))


def _make_hook(folder: str) -> Callable[[str, tuple[Any, ...]], None]:
    """Make an audit hook that refuses REFUSED_EVENTS and changes to files outside the folder."""
    # Bound now, since the program may replace them in `os`.
    real, to_path, prefix = os.path.realpath, os.fspath, folder + os.sep

    def is_inside(path: Any) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        return f'{real(os.fsdecode(to_path(path)))}'.startswith(prefix)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == 'open':
            path, mode, flags = arguments
            if isinstance(flags, int):
                writes = bool(flags & WRITE_FLAGS)
            else:
                writes = any(letter in str(mode) for letter in 'wax+')
            refused = writes and not is_inside(path)
        elif event.startswith(FOLDER_EVENTS):
            paths = [
                argument
                for argument in arguments
                if isinstance(argument, str | bytes | os.PathLike)
            ]
            refused = not all(is_inside(path) for path in paths)
        else:
            refused = event.startswith(REFUSED_EVENTS)
        if refused:
            raise PermissionError(f'{event} is refused here')

    return hook


if __name__ == '__main__':
    main()
