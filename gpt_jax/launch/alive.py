"""Is that process, on that machine, still the one it was? Its number may be another's by now."""

import os
import socket
from pathlib import Path
from typing import Any


def me() -> dict[str, Any]:
    """What tells this process from every other: machine (as booted, and as a container sees it), number, start."""
    return {'host': socket.gethostname(), 'machine': _machine(), 'pid': os.getpid(), 'began': _began(os.getpid())}


def dead(process: dict[str, Any]) -> bool:
    """Whether it is known to have ended; False of one on another machine, or where nothing can be known."""
    if not process['machine'] or process['machine'] != _machine():
        return False
    return _began(process['pid']) != process['began']


def _machine() -> str:
    """The same for two processes only if they see each other's numbers; '' where the system does not say."""
    try:
        boot = Path('/proc/sys/kernel/random/boot_id').read_text().strip()
        return f'{boot} {os.readlink("/proc/self/ns/pid")}'
    except OSError:
        return ''


def _began(pid: int) -> str:
    """When it started, in ticks since the boot; '' where there is no such process, or only what is left of one."""
    try:
        after = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    except OSError:
        return ''
    return '' if after[0] in ('Z', 'X') else after[19]
