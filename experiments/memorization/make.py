"""Modules of Python's standard library with random strings planted at different frequencies.

python experiments/memorization/make.py

Writes into runs/memorization_corpus (or --folder): train.jsonl, the modules TRAIN with the strings,
one module per line; held_out.jsonl, the modules HELD_OUT unchanged; canaries.jsonl, the strings and
their counts in train.jsonl; about.json with sizes and SHA-256. The same --seed and the same version
of Python give the same files; other versions have other words in the same modules.
"""

import argparse
import platform
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from gpt_jax.core import files
from gpt_jax.core.errors import UserError
from gpt_jax.evaluation import memorization

FOLDER = 'runs/memorization_corpus'
TRAIN = (
    'bdb',
    'calendar',
    'cmd',
    'codecs',
    'contextlib',
    'copy',
    'csv',
    'dis',
    'filecmp',
    'fileinput',
    'fnmatch',
    'fractions',
    'getopt',
    'gettext',
    'glob',
)
HELD_OUT = ('heapq', 'gzip', 'shlex', 'textwrap')
COUNTS = (0, 1, 2, 4, 8, 16, 32, 64)  # repetitions of a string
STRINGS_PER_COUNT = 25
WORDS = 6  # per string, 5 letters each


def read_modules(modules: Sequence[str]) -> list[str]:
    """Read the sources of modules, with '?' for non-ASCII characters: one byte per character.

    Raises:
      UserError: this Python has no such module.
    """
    root = Path(sysconfig.get_paths()['stdlib'])
    sources = []
    for name in modules:
        path = root / f'{name}.py'
        if not path.is_file():
            raise UserError(
                f'{path}: this Python has no such module; use another version, or change TRAIN or '
                'HELD_OUT'
            )
        sources.append(path.read_text(encoding='utf-8').encode('ascii', 'replace').decode())
    return sources


def write_corpus(folder: Path, seed: int) -> dict[str, Any]:
    """Write the files and return the content of about.json."""
    sources = read_modules(TRAIN)
    planted, canaries = memorization.plant_canaries(sources, COUNTS, STRINGS_PER_COUNT, WORDS, seed)
    rows: dict[str, list[dict[str, Any]]] = {
        'train': [
            {'module': name, 'text': text} for name, text in zip(TRAIN, planted, strict=True)
        ],
        'held_out': [
            {'module': name, 'text': text}
            for name, text in zip(HELD_OUT, read_modules(HELD_OUT), strict=True)
        ],
        'canaries': [canary._asdict() for canary in canaries],
    }
    about: dict[str, Any] = {
        'seed': seed,
        'python': platform.python_version(),
        'bytes': sum(map(len, sources)),
        'bytes_with_canaries': sum(map(len, planted)),
        'files': {},
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, group in rows.items():
        path = folder / f'{name}.jsonl'
        files.write_jsonl(path, group)
        about['files'][path.name] = {'rows': len(group), 'sha256': files.sha256_file(path)}
    files.write_json(folder / 'about.json', about)
    return about


if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--folder', default=FOLDER, help='output folder')
    parser.add_argument('--seed', type=int, default=0, help='of the strings and their positions')
    flags = parser.parse_args()
    about = write_corpus(Path(flags.folder), flags.seed)
    total = f'{about["bytes_with_canaries"]:,} with the strings'
    print(f'{flags.folder}: {about["bytes"]:,} bytes of modules, {total}')
