"""What may a run's data be? The `data.` part of the configuration and its checks."""

import dataclasses
import os
import re

from gpt_jax.errors import UserError

HOLDOUTS = ('documents', 'tail')
PACKINGS = ('concatenate', 'isolate')
_SOURCE = re.compile(r'tfds:[a-z0-9_]+(/[A-Za-z0-9_.:-]+)?|files:.+', re.DOTALL)
_SMALLEST_BPE = 257  # every byte and the end of a document


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which text, held out how, in which tokens.

    Attributes:
      source: 'tfds:python_stdlib', 'tfds:<name>[/<config>]', or 'files:<glob>[,<glob>...]' (.jsonl, .jsonl.gz and
        .parquet by their columns; every other file is one document of plain text).
      validation_source: a source; '' is the source's own validation split, or one carved from it where it has none.
      validation_fraction: the share that is carved, of documents or of characters; above 0 and below 1.
      holdout: 'documents' (each by a hash of its content, so that copies stay on one side) or 'tail' (the last
        characters of the text; cuts one document).
      text_field: the column of jsonl, parquet or TFDS that holds the text.
      tokenizer: 'bytes', 'bpe:<vocabulary size>' (trained on the train split), the path of a tokenizer.json, or of a
        folder with vocab.json and merges.txt.
      packing: 'concatenate' (windows of one stream) or 'isolate' (documents in a window do not see each other).
      cache: folder of the tokenized text; '' is gpt_jax/data in $XDG_CACHE_HOME or ~/.cache.

    Raises:
      UserError: a value is not one of these; types are checked where the mapping is read (schema.py).
    """

    source: str
    validation_source: str
    validation_fraction: float
    holdout: str
    text_field: str
    tokenizer: str
    packing: str
    cache: str

    def __post_init__(self) -> None:
        _check_source('source', self.source)
        if self.validation_source:
            _check_source('validation_source', self.validation_source)
        if not 0 < self.validation_fraction < 1:
            raise UserError(f'data.validation_fraction: must be above 0 and below 1, got {self.validation_fraction}')
        _check_choice('holdout', self.holdout, HOLDOUTS)
        _check_choice('packing', self.packing, PACKINGS)
        if not self.text_field:
            raise UserError("data.text_field: empty; name the column that holds the text, such as 'text'")
        _check_tokenizer(self.tokenizer)


def cache_folder(cache: str) -> str:
    """The folder that `cache` means, absolute; '' is the user's cache folder."""
    if cache:
        return os.path.abspath(os.path.expanduser(cache))
    home = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
    return os.path.join(home, 'gpt_jax', 'data')


def _check_source(name: str, source: str) -> None:
    if not _SOURCE.fullmatch(source):
        raise UserError(
            f"data.{name}: {source!r} is no source; write 'tfds:<name>[/<config>]' or 'files:<glob>[,<glob>...]'"
        )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f'data.{name}: must be one of {", ".join(choices)}; got {value!r}')


def _check_tokenizer(tokenizer: str) -> None:
    if not tokenizer:
        raise UserError("data.tokenizer: empty; write 'bytes', 'bpe:<vocabulary size>' or a path")
    if tokenizer.startswith('bpe:'):
        size = tokenizer.removeprefix('bpe:')
        if not (size.isascii() and size.isdecimal()) or int(size) < _SMALLEST_BPE:
            raise UserError(f"data.tokenizer: 'bpe:' takes a whole number from {_SMALLEST_BPE} up, got {size!r}")
