"""Which text does every machine with Python already have? Its standard library, as a TFDS data set."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from gpt_jax.data.stdlib_files import documents, split_of


class PythonStdlib(tfds.core.GeneratorBasedBuilder):
    """Features 'text' and 'path'; splits by file. `root` is the library's folder."""

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
        kept, left = documents(self.root)
        self.info.metadata.update(left)
        return {split: self._generate_examples(kept, split) for split in ('train', 'validation', 'test')}

    def _generate_examples(self, kept: list[tuple[str, str]], split: str) -> Iterator[tuple[str, dict[str, str]]]:
        for path, text in kept:
            if split_of(path) == split:
                yield path, {'text': text, 'path': path}
