"""Tokenized text datasets: tokenized once per config into a cache, then memory-mapped."""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt_jax.core import files
from gpt_jax.core.config import DataConfig, cache_folder
from gpt_jax.core.errors import UserError
from gpt_jax.core.progress import LogFn
from gpt_jax.data import sources, token_cache, tokenizer
from gpt_jax.data.token_cache import TokenSplit
from gpt_jax.data.tokenizer import Tokenizer

# Errors that the user can fix: a full disk, an exceeded quota, missing permissions.
CACHE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}


@dataclasses.dataclass(frozen=True)
class TokenizedDataset:
    """Memory-mapped tokens of a text dataset.

    Attributes:
      train, validation: never empty.
      test: None unless the source has such a split.
      vocab_size: exclusive upper bound of all ids.
      fingerprint: hash of all ids, document starts and the tokenizer, and of nothing else; 64 hex
        digits.
      path: the cache folder.
    """

    train: TokenSplit
    validation: TokenSplit
    test: TokenSplit | None
    vocab_size: int
    fingerprint: str
    path: Path

    def load_tokenizer(self) -> Tokenizer:
        """Load the tokenizer that produced the ids."""
        return tokenizer.load_tokenizer(self.path / tokenizer.TOKENIZER_FILE)


def prepare_dataset(config: DataConfig, log: LogFn = print) -> TokenizedDataset:
    """Open a config's tokenized text, tokenizing it first if the cache is incomplete.

    Safe to call from many processes at once: one tokenizes, the others wait. A process that is
    killed midway leaves nothing behind that would be used later.

    Args:
      config: the checked data section.
      log: receives a line for every slow stage and for a damaged cache.

    Raises:
      UserError: bad input, or a cache folder that cannot be written.
    """
    description = _describe_config(config)
    folder = _cache_folder(config, description)
    cache = folder.parent
    if token_cache.find_fault(folder):
        try:
            with files.hold_lock(cache / f'{folder.name}.lock', wait=True):
                # Checked again, because another process may have held the lock and built it.
                if fault := token_cache.find_fault(folder):
                    if folder.exists():
                        log(f'{folder}: {fault}; building it again')
                    _build_cache(config, description, folder, log)
        except OSError as error:
            if error.errno in CACHE_ERRORS:
                where = error.filename or cache
                raise UserError(f'data.cache: {where}: {error.strerror}') from None
            raise
    return _open_cache(folder)


def load_cached_tokenizer(config: DataConfig) -> Tokenizer | None:
    """Load the tokenizer of a config's tokens, or return None if the cache is incomplete."""
    folder = _cache_folder(config, _describe_config(config))
    if token_cache.find_fault(folder):
        return None
    return tokenizer.load_tokenizer(folder / tokenizer.TOKENIZER_FILE)


def _cache_folder(config: DataConfig, description: dict[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()
    return Path(cache_folder(config.cache)) / digest[:24]


def _describe_config(config: DataConfig) -> dict[str, Any]:
    """Return everything that determines the tokens, without reading the text."""
    description: dict[str, Any] = {
        'format': token_cache.FORMAT_VERSION,
        'source': sources.describe_source('source', config.source),
        'text_field': config.text_field,
        'tokenizer': tokenizer.identify_tokenizer(config.tokenizer),
    }
    if config.separator:
        description['separator'] = config.separator
    if config.validation_source:
        validation = sources.describe_source('validation_source', config.validation_source)
        return description | {'validation_source': validation}
    return description | {
        'validation_fraction': config.validation_fraction,
        'holdout': config.holdout,
    }


def _build_cache(config: DataConfig, description: dict[str, Any], folder: Path, log: LogFn) -> None:
    """Write the cache into a temporary folder next to `folder`, then rename it.

    The caller holds the lock, so an existing temporary folder is left over from a killed process.
    """
    unfinished = folder.parent / f'.{folder.name}.unfinished'
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir()
    try:
        log(f'data: reading {config.source}')
        read_splits = sources.make_split_reader(config, folder.parent)

        def train_texts() -> Iterator[str]:
            return (chunk.text for split, chunk in read_splits() if split == 'train')

        if config.tokenizer.startswith('bpe:'):
            log(f'data: training {config.tokenizer} on the train split')
        text_tokenizer = tokenizer.make_tokenizer(config.tokenizer, train_texts)
        log(f'data: tokenizing {config.source} ({config.tokenizer}) into {folder}')
        text_bytes = sources.count_text_bytes(description['source'])
        token_cache.write_cache(unfinished, text_tokenizer, read_splits(), description, text_bytes)
        _check_splits(config, files.read_json(unfinished / token_cache.META_FILE))
        if _describe_config(config) != description:
            raise UserError(f'data.source: {config.source} changed while it was read; run again')
        if folder.exists():
            shutil.rmtree(folder)
        os.rename(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _check_splits(config: DataConfig, meta: dict[str, Any]) -> None:
    empty = [
        split
        for split in ('train', 'validation')
        if not meta['splits'].get(split, {'tokens': 0})['tokens']
    ]
    if len(empty) == 2:
        raise UserError(f'data.source: must contain text, got none in {config.source}')
    for split in empty:
        if config.validation_source:
            field = 'source' if split == 'train' else 'validation_source'
            raise UserError(f'data.{field}: must contain text, got none')
        raise UserError(
            f'data.holdout: leaves nothing for {split} (holdout {config.holdout!r}, fraction '
            f"{config.validation_fraction}); change data.validation_fraction, or use 'tail'"
        )


def _open_cache(folder: Path) -> TokenizedDataset:
    meta = files.read_json(folder / token_cache.META_FILE)
    splits = {
        split: token_cache.read_split(folder, split, meta)
        for split, counts in meta['splits'].items()
        if counts['tokens']
    }
    return TokenizedDataset(
        train=splits['train'],
        validation=splits['validation'],
        test=splits.get('test'),
        vocab_size=meta['vocab_size'],
        fingerprint=meta['fingerprint'],
        path=folder,
    )
