"""How are the trials of a sweep run, each once? One process each, and a file of records made from what they left."""

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpt_jax import files
from gpt_jax.errors import EXIT_BAD_INPUT, EXIT_RESUMABLE, Preempted


def run(names: list[str], command: list[str], workdir: Path, *, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Runs every trial that has no summary yet, in order, and writes records.jsonl after each.

    A trial that fails is marked and passed over; the same call again tries it again, and nothing that is done.

    Args:
      names: of the trials; trial NAME works in workdir/trials/NAME and leaves summary.json there.
      command: to which `--trial=NAME` is added.

    Returns:
      The records in the order of `names`.

    Raises:
      Preempted: a trial was interrupted and saved.
    """
    failed: dict[str, str] = {}
    for index, name in enumerate(names, 1):
        folder = workdir / 'trials' / name
        if (folder / 'summary.json').exists():
            say(f'trial {index} of {len(names)} · {name} · already done')
            continue
        code, asked = run_forwarding([*command, f'--trial={name}'])
        if asked or code == EXIT_RESUMABLE:
            raise Preempted(f'interrupted in trial {name}; the same command goes on from there')
        if code != 0:
            failed[name] = 'bad input' if code == EXIT_BAD_INPUT else f'exit code {code}'
            say(f'trial {index} of {len(names)} · {name} · failed ({failed[name]}); the others go on')
        write_records(names, failed, workdir)
    return write_records(names, failed, workdir)


def run_forwarding(command: list[str]) -> tuple[int, bool]:
    """Runs a command to its end; whoever asks this process to stop, asks that one too, and it may still save.

    Ctrl-C reaches both at once, so it is passed on as SIGTERM: a second SIGINT would make the other drop its work.

    Returns:
      The exit code, and whether stopping was asked for.
    """
    asked = False
    with subprocess.Popen(command) as process:

        def ask(*_: object) -> None:
            nonlocal asked
            asked = True
            process.terminate()

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            code = process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    return code, asked


def write_records(names: list[str], failed: dict[str, str], workdir: Path) -> list[dict[str, Any]]:
    """records.jsonl from the summaries: written whole each time, so it can neither miss a trial nor hold one twice."""
    records = []
    for name in names:
        path = workdir / 'trials' / name / 'summary.json'
        if path.exists():
            records.append(files.read_json(path) | {'name': name})
        elif name in failed:
            records.append({'name': name, 'status': f'failed: {failed[name]}'})
    files.write_text(workdir / 'records.jsonl', ''.join(json.dumps(one) + '\n' for one in records))
    return records
