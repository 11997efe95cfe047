"""Records the reference runs: `python -m tests.reference.record [CASE ...]`; without a case, all.

Recording is legitimate only where a change alters numbers on purpose (another initialization,
another order of data, a corrected formula), or to move to another processor or to other versions of
packages after the tests have passed with the old ones. It is never the way to make a refactoring
pass. Say in the commit which cases changed, and why.
"""

import argparse
import hashlib
import json
import platform
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name('recorded.json')
PACKAGES = ('jax', 'jaxlib', 'numpy', 'scipy')
CPU_FIELDS = ('vendor_id', 'cpu family', 'model', 'model name', 'stepping', 'flags')


def get_processor() -> dict[str, str]:
    """What rounding depends on: the processor, and the packages that compute."""
    cpu = {'model name': platform.processor()}
    information = Path('/proc/cpuinfo')
    if information.exists():
        first, _, _ = information.read_text().partition('\n\n')
        pairs = [line.partition(':') for line in first.splitlines()]
        found = {name.strip(): value.strip() for name, _, value in pairs}
        cpu |= {name: value for name, value in found.items() if name in CPU_FIELDS}
    return {
        'machine': platform.machine(),
        'cpu': cpu['model name'],
        'cpu_sha256': hashlib.sha256(json.dumps(cpu, sort_keys=True).encode()).hexdigest(),
        **{package: metadata.version(package) for package in PACKAGES},
    }


def read_recorded() -> dict[str, Any]:
    """The recorded processor, and the recorded results by case."""
    return json.loads(PATH.read_text())


def main() -> None:
    """Runs the cases that the command line names, and writes their results.

    Raises:
      SystemExit: some cases are named, but the others were recorded on another processor.
    """
    from tests import conftest  # before JAX: the devices and the flags of XLA that tests have
    from tests.reference import runs

    del conftest
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('cases', nargs='*', metavar='CASE', help=', '.join(runs.CASES))
    names = parser.parse_args().cases
    if unknown := set(names) - runs.CASES.keys():
        parser.error(f'no such case: {", ".join(sorted(unknown))}')
    processor = get_processor()
    before = read_recorded() if PATH.exists() else {'processor': processor, 'cases': {}}
    if names and before['processor'] != processor:
        parser.error('the other cases were recorded on another processor; record all')
    results = {}
    for name in names or runs.CASES:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            results[name] = runs.CASES[name](Path(folder))
        is_new = 'new' if name not in before['cases'] else 'changed'
        state = 'as before' if before['cases'].get(name) == results[name] else is_new
        print(f'{name}: {state}, {time.monotonic() - began:.1f} s', flush=True)
    kept = {name: result for name, result in before['cases'].items() if name in runs.CASES}
    recorded = {'processor': processor, 'cases': (kept | results) if names else results}
    PATH.write_text(f'{json.dumps(recorded, indent=1)}\n')


if __name__ == '__main__':
    main()
