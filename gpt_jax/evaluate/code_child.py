"""Does one program run to its end? A program of its own, which evaluate/code.py starts and feeds; not to be imported.

On its standard input comes one JSON object, {"program", "nonce", "memory", "seconds"}; on its standard output goes the
nonce, if the program came to its end, or the name of what it raised. Nothing of gpt_jax is imported, so that a child
starts in no time. What it may do is bounded by limits of the system, by a network without devices where the system lets
anyone have one, and by a hook that refuses what Python is about to do. The hook is for accidents: code that sets out to
get round it can.
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
WRITTEN = 1 << 20  # bytes of one file
OPEN = 32  # files at once
# Events of Python's audit hooks (the table in its documentation) that begin with one of these are refused.
REFUSED = ('socket.', 'subprocess.', 'ctypes.', 'os.exec', 'os.fork', 'os.posix_spawn', 'os.spawn', 'os.startfile',
           'os.system', 'os.kill', 'os.putenv', 'os.chdir', 'os.chmod', 'os.chown', 'os.chflags', 'os.link',
           'os.symlink', 'os.setxattr', 'os.removexattr', 'os.utime', 'pty.', 'shutil.', 'signal.', 'resource.set',
           'urllib.', 'ftplib.', 'smtplib.', 'http.', 'webbrowser.', 'sqlite3.', 'syslog.', 'fcntl.')  # fmt: skip
CHANGING = ('os.remove', 'os.rename', 'os.rmdir', 'os.mkdir', 'os.truncate', 'os.mkfifo', 'os.mknod')
ASKED_TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def main() -> None:
    job = json.loads(sys.stdin.read())
    verdict = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    sys.stdin = os.fdopen(0)  # what was read is not read again
    program, nonce = job['program'], job.pop('nonce')
    _without_network()
    _limit(job['memory'], job['seconds'])
    sys.addaudithook(_hook(os.path.realpath('.')))
    said = nonce
    try:
        exec(compile(program, '<program>', 'exec'), {'__name__': '__main__'})
    except BaseException as error:
        said = type(error).__name__[:100]
    with contextlib.suppress(OSError):
        os.write(verdict, said.encode('utf-8', 'replace'))
    os._exit(0 if said == nonce else 1)


def _without_network() -> None:
    """A network of its own, without devices; where that is not allowed (many containers), the hook alone is left."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).unshare(NEW_USER | NEW_NETWORK)


def _limit(memory: int, seconds: int) -> None:
    """The number of processes is not bounded for root, whom the system lets pass; the hook is there for that."""
    limits = {'AS': memory, 'CPU': seconds, 'FSIZE': WRITTEN, 'NPROC': 0, 'NOFILE': OPEN, 'CORE': 0}
    for name, most in limits.items():
        number = getattr(resource, f'RLIMIT_{name}', None)
        if number is not None:
            with contextlib.suppress(ValueError, OSError):  # the machine's own are lower, or it knows none of this kind
                resource.setrlimit(number, (most, most))


def _hook(folder: str) -> Callable[[str, tuple[Any, ...]], None]:
    """Refuses what is REFUSED, and changes of files outside the folder."""
    real, names, within = os.path.realpath, os.fspath, folder + os.sep  # as they are before the program changes them

    def inside(path: Any) -> bool:
        return isinstance(path, str | bytes | os.PathLike) and f'{real(os.fsdecode(names(path)))}'.startswith(within)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == 'open':
            path, mode, flags = arguments
            writes = bool(flags & ASKED_TO_WRITE) if isinstance(flags, int) else any(c in str(mode) for c in 'wax+')
            refused = writes and not inside(path)
        elif event.startswith(CHANGING):
            refused = not all(inside(path) for path in arguments if isinstance(path, str | bytes | os.PathLike))
        else:
            refused = event.startswith(REFUSED)
        if refused:
            raise PermissionError(f'{event} is refused here')

    return hook


if __name__ == '__main__':
    main()
