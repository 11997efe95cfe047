"""What does tokenized text look like on disk? Ids and document starts, memory-mapped, known by their checksums."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gpt_jax import files
from gpt_jax.data.holdout import Labelled
from gpt_jax.data.text_files import Piece
from gpt_jax.data.tokenizer import ENDS, Tokenizer
from gpt_jax.errors import UserError

FORMAT = 1  # of the files below; a change makes every cache anew
META = 'meta.json'
TOKENIZER = 'tokenizer.json'
BATCH_CHARACTERS, BATCH_PIECES = 1 << 20, 1024  # encoded at once; BPE takes some 100 bytes a character meanwhile
SMALL_VOCABULARY = 1 << 16


@dataclasses.dataclass(frozen=True)
class Tokens:
    """One split.

    Attributes:
      ids: [T] uint16 or uint32, memory-mapped: the documents one after the other, each with its end-of-document id.
      starts: [documents] int64, memory-mapped: where in `ids` each document begins.
      bytes: of the text in UTF-8, without the ends of documents.
    """

    ids: np.ndarray
    starts: np.ndarray
    bytes: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text per id, ends of documents counted as ids."""
        return self.bytes / len(self)


def write(folder: Path, tokenizer: Tokenizer, pieces: Labelled, about: dict[str, Any], total: int | None) -> None:
    """Tokenizes `pieces` into `folder` with a progress bar; memory does not grow with the text. meta.json comes last.

    Args:
      about: goes into meta.json as 'about'.
      total: bytes of text to come, for the bar, where that is known.

    Raises:
      UserError: the tokenizer has no id for a character, gives ids outside its vocabulary, or its end-of-document id
        for text; or it has no such id, and a split has several documents.
    """
    import tqdm

    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= SMALL_VOCABULARY else np.uint32)
    writers: dict[str, _Writer] = {}
    # disable=None: no bar in a log file.
    with tqdm.tqdm(desc='tokenizing', total=total, unit='B', unit_scale=True, disable=None) as bar:
        try:
            for batch in _in_batches(pieces):
                for (split, piece), ids in zip(batch, _encoded(tokenizer, batch), strict=True):
                    if split not in writers:
                        writers[split] = _Writer(folder, split, dtype, tokenizer)
                    bar.update(writers[split].add(piece, ids))
        finally:
            for writer in writers.values():
                writer.close()
    files.write_bytes(folder / TOKENIZER, tokenizer.content)
    sums = {name: _identity(folder / name) for name in sorted(os.listdir(folder))}
    meta = {
        'format': FORMAT,
        'vocab_size': tokenizer.vocab_size,
        'end_of_document': tokenizer.end_of_document,
        'tokenizer': tokenizer.fingerprint,
        'dtype': dtype.name,
        'fingerprint': hashlib.sha256(json.dumps([FORMAT, sums], sort_keys=True).encode()).hexdigest(),
        'splits': {split: writer.counts for split, writer in sorted(writers.items())},
        'files': sums,
        'about': about,
    }
    files.write_json(folder / META, meta)


def fault(folder: Path) -> str:
    """What is wrong with a cache, by its meta.json and the sizes of its files; '' if nothing is."""
    try:
        meta = json.loads((folder / META).read_bytes())
        for name, identity in meta['files'].items():
            size = (folder / name).stat().st_size
            if size != identity['size']:
                return f'{name} has {size} bytes instead of {identity["size"]}'
        if meta['format'] != FORMAT or not {'splits', 'fingerprint', 'vocab_size', 'dtype'} <= meta.keys():
            return f'{META} is of another format'
    except FileNotFoundError as error:
        return f'{Path(error.filename).name} is missing'
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f'{META} cannot be read'
    return ''


def verify(folder: Path) -> None:
    """Reads every file of a cache and compares its SHA-256.

    Raises:
      UserError: a file is missing or not what was written; names it.
    """
    trouble = fault(folder)
    if not trouble:
        for name, identity in files.read_json(folder / META)['files'].items():
            if files.sha256_file(folder / name) != identity['sha256']:
                trouble = f'{name} is not what was written (SHA-256 differs)'
                break
    if trouble:
        raise UserError(f'{folder}: {trouble}; delete the folder and run again')


def read_split(folder: Path, split: str, meta: dict[str, Any]) -> Tokens:
    """Maps one split that `meta` (the content of meta.json) lists."""
    ids = np.memmap(folder / f'{split}.ids', np.dtype(meta['dtype']), 'r')
    return Tokens(ids, np.memmap(folder / f'{split}.starts', np.int64, 'r'), meta['splits'][split]['bytes'])


class _Writer:
    """The open files of one split and its counts."""

    def __init__(self, folder: Path, split: str, dtype: np.dtype, tokenizer: Tokenizer) -> None:
        self.ids = open(folder / f'{split}.ids', 'wb')  # noqa: SIM115  closed by close()
        self.starts = open(folder / f'{split}.starts', 'wb')  # noqa: SIM115
        self.dtype, self.tokenizer = dtype, tokenizer
        self.counts = {'tokens': 0, 'documents': 0, 'bytes': 0, 'empty_documents': 0}
        self.within = False

    def add(self, piece: Piece, ids: np.ndarray) -> int:
        """Writes a piece's ids and ends its document if it is the last; a document without any is left out.

        Returns:
          The piece's bytes in UTF-8.
        """
        size = len(piece.text.encode('utf-8'))
        if len(ids):
            self._check(ids)
            if not self.within:
                self._check_ended()
                self.starts.write(np.int64(self.counts['tokens']).tobytes())
                self.within = True
            self._write(ids)
        if piece.last:
            if self.within and self.tokenizer.end_of_document is not None:
                self._write(np.array([self.tokenizer.end_of_document]))
            self.counts['documents' if self.within else 'empty_documents'] += 1
            self.within = False
        self.counts['bytes'] += size
        return size

    def close(self) -> None:
        for file in (self.ids, self.starts):
            file.flush()
            os.fsync(file.fileno())
            file.close()

    def _check_ended(self) -> None:
        if self.counts['documents'] and self.tokenizer.end_of_document is None:
            raise UserError(
                f'data.tokenizer: has no token that ends a document (one of {", ".join(ENDS)}), and there are several; '
                'take a tokenizer that has one, or data.source of a single text with data.holdout=tail'
            )

    def _check(self, ids: np.ndarray) -> None:
        if int(ids.max()) >= self.tokenizer.vocab_size:
            raise UserError(
                f'data.tokenizer: gave id {ids.max()} outside its vocabulary of {self.tokenizer.vocab_size}'
            )
        if self.tokenizer.end_of_document is not None and (ids == self.tokenizer.end_of_document).any():
            raise UserError(
                f'data.tokenizer: made its end-of-document id {self.tokenizer.end_of_document} out of text; '
                'mark that token as special in tokenizer.json'
            )

    def _write(self, ids: np.ndarray) -> None:
        self.ids.write(ids.astype(self.dtype).tobytes())
        self.counts['tokens'] += len(ids)


def _encoded(tokenizer: Tokenizer, batch: list[tuple[str, Piece]]) -> list[np.ndarray]:
    try:
        return tokenizer.encode_batch([piece.text for _, piece in batch])
    except UserError as error:
        raise UserError(f'data.tokenizer: {error}') from None


def _in_batches(pieces: Labelled) -> Iterator[list[tuple[str, Piece]]]:
    batch: list[tuple[str, Piece]] = []
    characters = 0
    for split, piece in pieces:
        batch.append((split, piece))
        characters += len(piece.text)
        if characters >= BATCH_CHARACTERS or len(batch) >= BATCH_PIECES:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _identity(path: Path) -> dict[str, Any]:
    return {'size': path.stat().st_size, 'sha256': files.sha256_file(path)}
