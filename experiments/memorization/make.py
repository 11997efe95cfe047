"""Modules of Python's library with random strings planted in them, some once, some often: what does a model keep?

python experiments/memorization/make.py

Writes into runs/memorization_corpus (or --folder): train.jsonl, the modules TRAIN with the strings (a module a line);
held_out.jsonl, the modules HELD_OUT as they are; canaries.jsonl, the strings and how often each stands in train.jsonl;
about.json with sizes and SHA-256. The same --seed and the same Python make the same files; another Python's library has
other words in the same modules.
"""

import argparse
import platform
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from gpt_jax import files, jsonl
from gpt_jax.errors import UserError
from gpt_jax.evaluate import memorization

FOLDER = 'runs/memorization_corpus'
TRAIN = (
    'bdb', 'calendar', 'cmd', 'codecs', 'contextlib', 'copy', 'csv', 'dis', 'filecmp', 'fileinput', 'fnmatch',
    'fractions', 'getopt', 'gettext', 'glob',
)  # fmt: skip
HELD_OUT = ('heapq', 'gzip', 'shlex', 'textwrap')
COUNTS = (0, 1, 2, 4, 8, 16, 32, 64)  # how often a string is planted
EACH = 25  # strings of each count
WORDS = 6  # of a string, 5 letters each


def texts(modules: Sequence[str]) -> list[str]:
    """Their sources; what is not ASCII is a question mark, so that a letter is a byte.

    Raises:
      UserError: the running Python lacks one of them.
    """
    root = Path(sysconfig.get_paths()['stdlib'])
    found = []
    for name in modules:
        path = root / f'{name}.py'
        if not path.is_file():
            raise UserError(f'{path}: this Python has no such module; take another Python, or change TRAIN or HELD_OUT')
        found.append(path.read_text(encoding='utf-8').encode('ascii', 'replace').decode())
    return found


def write(folder: Path, seed: int) -> dict[str, Any]:
    """Makes the files; returns what about.json says of them."""
    plain = texts(TRAIN)
    planted, canaries = memorization.plant(plain, COUNTS, EACH, WORDS, seed)
    rows: dict[str, list[dict[str, Any]]] = {
        'train': [{'module': name, 'text': text} for name, text in zip(TRAIN, planted, strict=True)],
        'held_out': [{'module': name, 'text': text} for name, text in zip(HELD_OUT, texts(HELD_OUT), strict=True)],
        'canaries': [canary._asdict() for canary in canaries],
    }
    about: dict[str, Any] = {
        'seed': seed, 'python': platform.python_version(), 'bytes': sum(map(len, plain)),
        'bytes_with_canaries': sum(map(len, planted)), 'files': {},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for name, each in rows.items():
        path = folder / f'{name}.jsonl'
        jsonl.write(path, each)
        about['files'][path.name] = {'rows': len(each), 'sha256': files.sha256_file(path)}
    files.write_json(folder / 'about.json', about)
    return about


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--folder', default=FOLDER, help='where the files go')
    parser.add_argument('--seed', type=int, default=0, help='decides the strings and where they are planted')
    flags = parser.parse_args()
    said = write(Path(flags.folder), flags.seed)
    print(f'{flags.folder}: {said["bytes"]:,} bytes of modules, {said["bytes_with_canaries"]:,} with the strings')
