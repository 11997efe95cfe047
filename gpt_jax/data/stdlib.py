"""Source code of Python's standard library as a TFDS dataset: text that every machine has."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

# Tests and third-party packages are not part of the library.
EXCLUDED_FOLDERS = frozenset(
    {
        'test',
        'tests',
        'idle_test',
        'site-packages',
        'dist-packages',
        '__pycache__',
        '_bundled',
        'lib-dynload',
    }
)
EXCLUDED_PREFIX = '_sysconfigdata'  # these files hold paths and flags of one build
HELD_OUT_SPLITS = {0: 'validation', 1: 'test'}  # of 20 parts; the other 18 are train


def assign_split(path: str) -> str:
    """Return the split of a relative path, by its hash: 90% 'train', 5% 'validation', 5% 'test'."""
    digest = hashlib.sha256(path.encode('utf-8')).digest()
    return HELD_OUT_SPLITS.get(int.from_bytes(digest[:8]) % 20, 'train')


def read_documents(root: Path) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """Read the modules of the library in `root`.

    Returns:
      [(relative path, text), ...] in the order of paths and without duplicate texts, so that no
      text is in two splits; and the number of files skipped as 'not_utf8', 'duplicate' or 'empty'.
    """
    documents: list[tuple[str, str]] = []
    skipped = {'not_utf8': 0, 'duplicate': 0, 'empty': 0}
    seen: set[bytes] = set()
    for path in sorted(root.rglob('*.py'), key=lambda path: path.relative_to(root).as_posix()):
        relative = path.relative_to(root)
        is_excluded = EXCLUDED_FOLDERS.intersection(relative.parts)
        if is_excluded or path.name.startswith(EXCLUDED_PREFIX) or not path.is_file():
            continue
        content = path.read_bytes()
        try:
            text = content.decode('utf-8')
        except UnicodeDecodeError:
            skipped['not_utf8'] += 1
            continue
        if not text.strip():
            skipped['empty'] += 1
        elif content in seen:
            skipped['duplicate'] += 1
        else:
            seen.add(content)
            documents.append((relative.as_posix(), text))
    return documents, skipped


class PythonStdlib(tfds.core.GeneratorBasedBuilder):
    """Builder of the dataset 'python_stdlib', with features 'text' and 'path'; split by file.

    Args:
      root: folder of the library.
      arguments: passed to the TFDS builder.
    """

    VERSION = tfds.core.Version('1.0.0')

    def __init__(self, *, root: str, **arguments: Any) -> None:
        self.root = Path(root)
        super().__init__(**arguments)

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        return tfds.core.DatasetInfo(
            builder=self,
            description="The sources of the running Python's standard library, without its tests.",
            features=tfds.features.FeaturesDict({'text': text, 'path': text}),
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, _: Any) -> dict[str, Iterator[tuple[str, dict[str, str]]]]:
        documents, skipped = read_documents(self.root)
        self.info.metadata.update(skipped)
        splits = ('train', 'validation', 'test')
        return {split: self._generate_examples(documents, split) for split in splits}

    def _generate_examples(
        self, documents: list[tuple[str, str]], split: str
    ) -> Iterator[tuple[str, dict[str, str]]]:
        for path, text in documents:
            if assign_split(path) == split:
                yield path, {'text': text, 'path': path}
