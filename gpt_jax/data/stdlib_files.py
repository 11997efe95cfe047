"""Which modules has Python's standard library, and on which side of a split is each?"""

import hashlib
from pathlib import Path

# Tests and third-party packages are not the library; _sysconfigdata holds this build's paths and flags.
LEFT_OUT = frozenset(
    {'test', 'tests', 'idle_test', 'site-packages', 'dist-packages', '__pycache__', '_bundled', 'lib-dynload'}
)
LEFT_OUT_FILES = '_sysconfigdata'
HELD_OUT = {0: 'validation', 1: 'test'}  # of 20 parts; the other 18 are train


def split_of(path: str) -> str:
    """'train' (about 90% of paths), 'validation' or 'test' (about 5% each), by a hash of the relative path."""
    return HELD_OUT.get(int.from_bytes(hashlib.sha256(path.encode('utf-8')).digest()[:8]) % 20, 'train')


def documents(root: Path) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """The library's modules and what was left out.

    Returns:
      [(relative path, text), ...] in the order of paths, no text twice (so none on both sides of a split), and how many
      files were 'not_utf8', 'duplicate' or 'empty'.
    """
    kept: list[tuple[str, str]] = []
    left = {'not_utf8': 0, 'duplicate': 0, 'empty': 0}
    seen: set[bytes] = set()
    for path in sorted(root.rglob('*.py'), key=lambda path: path.relative_to(root).as_posix()):
        relative = path.relative_to(root)
        if LEFT_OUT.intersection(relative.parts) or path.name.startswith(LEFT_OUT_FILES) or not path.is_file():
            continue
        content = path.read_bytes()
        try:
            text = content.decode('utf-8')
        except UnicodeDecodeError:
            left['not_utf8'] += 1
            continue
        if not text.strip():
            left['empty'] += 1
        elif content in seen:
            left['duplicate'] += 1
        else:
            seen.add(content)
            kept.append((relative.as_posix(), text))
    return kept, left
