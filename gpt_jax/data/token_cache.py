"""On-disk format of tokenized text: memory-mapped ids and document starts, with checksums."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gpt_jax.core import files
from gpt_jax.core.errors import UserError
from gpt_jax.data.readers import TextChunk
from gpt_jax.data.sources import SplitChunks
from gpt_jax.data.tokenizer import END_OF_DOCUMENT_TOKENS, Tokenizer, save_tokenizer

FORMAT_VERSION = 1  # of the files below; changing it rebuilds every cache
META_FILE = 'meta.json'
# Limits on the text encoded at once: BPE takes about 100 bytes of memory per character.
MAX_BATCH_CHARACTERS = 1 << 20
MAX_BATCH_CHUNKS = 1024
MAX_UINT16_VOCABULARY = 1 << 16


@dataclasses.dataclass(frozen=True)
class TokenSplit:
    """The tokens of one split.

    Attributes:
      ids: [T] uint16 or uint32, memory-mapped: the documents one after the other, each with its
        end-of-document id.
      document_starts: [documents] int64, memory-mapped: index in `ids` where each document starts.
      text_bytes: size of the text in UTF-8, without the ends of documents.
    """

    ids: np.ndarray
    document_starts: np.ndarray
    text_bytes: int

    def __len__(self) -> int:
        return len(self.ids)


def write_cache(
    folder: Path,
    tokenizer: Tokenizer,
    chunks: SplitChunks,
    description: dict[str, Any],
    text_bytes: int | None,
) -> None:
    """Tokenize text into `folder`, with a progress bar and in bounded memory.

    meta.json is written last, so that a folder without it is incomplete.

    Args:
      folder: an existing folder.
      tokenizer: encodes the text.
      chunks: the text, with the split of each chunk.
      description: stored in meta.json as 'about'.
      text_bytes: size of the text in UTF-8, for the progress bar; None if unknown.

    Raises:
      UserError: the tokenizer has no id for a character, gives ids outside its vocabulary, encodes
        text as its end-of-document id, or lacks that id although a split has several documents.
    """
    import tqdm

    is_small = tokenizer.vocab_size <= MAX_UINT16_VOCABULARY
    dtype = np.dtype(np.uint16 if is_small else np.uint32)
    writers: dict[str, _SplitWriter] = {}
    # disable=None: no bar in a log file.
    with tqdm.tqdm(
        desc='tokenizing', total=text_bytes, unit='B', unit_scale=True, disable=None
    ) as bar:
        try:
            for batch in iterate_text_batches(chunks):
                for (split, chunk), ids in zip(batch, _encode_batch(tokenizer, batch), strict=True):
                    if split not in writers:
                        writers[split] = _SplitWriter(folder, split, dtype, tokenizer)
                    bar.update(writers[split].add(chunk, ids))
        finally:
            for writer in writers.values():
                writer.close()
    save_tokenizer(tokenizer, folder)
    checksums = {name: _file_identity(folder / name) for name in sorted(os.listdir(folder))}
    # The order of batches depends on the fingerprint: changing it changes every run.
    fingerprint = hashlib.sha256(json.dumps([FORMAT_VERSION, checksums], sort_keys=True).encode())
    meta = {
        'format': FORMAT_VERSION,
        'vocab_size': tokenizer.vocab_size,
        'end_of_document': tokenizer.end_of_document,
        'tokenizer': tokenizer.fingerprint,
        'dtype': dtype.name,
        'fingerprint': fingerprint.hexdigest(),
        'splits': {split: writer.counts for split, writer in sorted(writers.items())},
        'files': checksums,
        'about': description,
    }
    files.write_json(folder / META_FILE, meta)


def find_fault(folder: Path) -> str:
    """Describe what is wrong with a cache, judging by meta.json and file sizes; '' if nothing."""
    try:
        meta = json.loads((folder / META_FILE).read_bytes())
        for name, identity in meta['files'].items():
            size = (folder / name).stat().st_size
            if size != identity['size']:
                return f'{name} has {size} bytes instead of {identity["size"]}'
        required = {'splits', 'fingerprint', 'vocab_size', 'dtype'}
        if meta['format'] != FORMAT_VERSION or not required <= meta.keys():
            return f'{META_FILE} has another format'
    except FileNotFoundError as error:
        return f'{Path(error.filename).name} is missing'
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f'{META_FILE} cannot be read'
    return ''


def read_split(folder: Path, split: str, meta: dict[str, Any]) -> TokenSplit:
    """Memory-map one of the splits listed in `meta`, the content of meta.json."""
    ids = np.memmap(folder / f'{split}.ids', np.dtype(meta['dtype']), 'r')
    document_starts = np.memmap(folder / f'{split}.starts', np.int64, 'r')
    return TokenSplit(ids, document_starts, meta['splits'][split]['bytes'])


class _SplitWriter:
    """Open files of one split, and its counts."""

    def __init__(self, folder: Path, split: str, dtype: np.dtype, tokenizer: Tokenizer) -> None:
        self.ids_file = open(folder / f'{split}.ids', 'wb')  # noqa: SIM115  closed by close()
        self.starts_file = open(folder / f'{split}.starts', 'wb')  # noqa: SIM115
        self.dtype, self.tokenizer = dtype, tokenizer
        self.counts = {'tokens': 0, 'documents': 0, 'bytes': 0, 'empty_documents': 0}
        self.in_document = False

    def add(self, chunk: TextChunk, ids: np.ndarray) -> int:
        """Write a chunk's ids, and end its document if it is the last; skip empty documents.

        Returns:
          The size of the chunk in UTF-8.
        """
        size = len(chunk.text.encode('utf-8'))
        if len(ids):
            self._check_ids(ids)
            if not self.in_document:
                self._check_separable()
                self.starts_file.write(np.int64(self.counts['tokens']).tobytes())
                self.in_document = True
            self._write(ids)
        if chunk.is_last:
            if self.in_document and self.tokenizer.end_of_document is not None:
                self._write(np.array([self.tokenizer.end_of_document]))
            self.counts['documents' if self.in_document else 'empty_documents'] += 1
            self.in_document = False
        self.counts['bytes'] += size
        return size

    def close(self) -> None:
        for file in (self.ids_file, self.starts_file):
            file.flush()
            os.fsync(file.fileno())
            file.close()

    def _check_separable(self) -> None:
        """Raise UserError if a second document starts and the tokenizer cannot end the first."""
        if self.counts['documents'] and self.tokenizer.end_of_document is None:
            raise UserError(
                f'data.tokenizer: must have an end-of-document token (one of '
                f'{", ".join(END_OF_DOCUMENT_TOKENS)}) for several documents; use another '
                f'tokenizer, or a data.source with a single document and data.holdout=tail'
            )

    def _check_ids(self, ids: np.ndarray) -> None:
        vocab_size, end = self.tokenizer.vocab_size, self.tokenizer.end_of_document
        if int(ids.max()) >= vocab_size:
            raise UserError(
                f'data.tokenizer: must give ids below its vocabulary size of {vocab_size}, got '
                f'{ids.max()}'
            )
        if end is not None and (ids == end).any():
            raise UserError(
                f'data.tokenizer: must not encode text as its end-of-document id {end}; mark that '
                f'token as special in tokenizer.json'
            )

    def _write(self, ids: np.ndarray) -> None:
        self.ids_file.write(ids.astype(self.dtype).tobytes())
        self.counts['tokens'] += len(ids)


def _encode_batch(tokenizer: Tokenizer, batch: list[tuple[str, TextChunk]]) -> list[np.ndarray]:
    try:
        return tokenizer.encode_batch([chunk.text for _, chunk in batch])
    except UserError as error:
        raise UserError(f'data.tokenizer: {error}') from None


def iterate_text_batches(chunks: SplitChunks) -> Iterator[list[tuple[str, TextChunk]]]:
    """Iterate over lists of chunks of limited size."""
    batch: list[tuple[str, TextChunk]] = []
    characters = 0
    for split, chunk in chunks:
        batch.append((split, chunk))
        characters += len(chunk.text)
        if characters >= MAX_BATCH_CHARACTERS or len(batch) >= MAX_BATCH_CHUNKS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _file_identity(path: Path) -> dict[str, Any]:
    return {'size': path.stat().st_size, 'sha256': files.sha256_file(path)}
