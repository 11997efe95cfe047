"""How does a configuration become a corpus? By tokenizing once, whoever asks first; then by opening the cache."""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gpt_jax import files
from gpt_jax.data import sources, tokenizer, tokens
from gpt_jax.data.config import DataConfig, cache_folder
from gpt_jax.data.tokens import Tokens
from gpt_jax.errors import UserError

CACHE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Tokenized text, opened.

    Attributes:
      train, validation: never empty.
      test: only of a source that has such a split.
      vocab_size: every id is below it.
      fingerprint: 64 hex digits, decided by all ids, document starts and the tokenizer, and by nothing else.
      path: the cache's folder.
    """

    train: Tokens
    validation: Tokens
    test: Tokens | None
    vocab_size: int
    fingerprint: str
    path: Path

    def tokenizer(self) -> tokenizer.Tokenizer:
        """The tokenizer that made the ids, loaded now."""
        return tokenizer.load(self.path / tokens.TOKENIZER)


def prepare(config: DataConfig, announce: Callable[[str], None] = print) -> Corpus:
    """Opens the configuration's tokens, making them first where they are not there whole.

    Any number of processes may ask at once: one makes them, the others wait. A process killed meanwhile leaves nothing
    that is used.

    Args:
      announce: is told, in one line, of what takes time or was found broken.

    Raises:
      UserError: bad input, or a cache folder that cannot be written.
    """
    about = _about(config)
    folder = _folder(config, about)
    cache = folder.parent
    if tokens.fault(folder):
        try:
            with files.lock(cache / f'{folder.name}.lock', wait=True):
                if trouble := tokens.fault(folder):  # still: nobody made it while we waited
                    if folder.exists():
                        announce(f'{folder}: {trouble}; making it again')
                    _make(config, about, cache, folder, announce)
        except OSError as error:
            if error.errno in CACHE_ERRORS:
                raise UserError(f'data.cache: {error.filename or cache}: {error.strerror}') from None
            raise
    return _open(folder)


def cached_tokenizer(config: DataConfig) -> tokenizer.Tokenizer | None:
    """The tokenizer that the configuration's tokens were made with; None where they are not in the cache whole."""
    folder = _folder(config, _about(config))
    return None if tokens.fault(folder) else tokenizer.load(folder / tokens.TOKENIZER)


def _folder(config: DataConfig, about: dict[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    return Path(cache_folder(config.cache)) / digest[:24]


def _about(config: DataConfig) -> dict[str, Any]:
    """What decides the tokens, found quickly."""
    about: dict[str, Any] = {
        'format': tokens.FORMAT,
        'source': sources.describe('source', config.source),
        'text_field': config.text_field,
        'tokenizer': tokenizer.identity(config.tokenizer),
    }
    if config.validation_source:
        return about | {'validation_source': sources.describe('validation_source', config.validation_source)}
    return about | {'validation_fraction': config.validation_fraction, 'holdout': config.holdout}


def _make(
    config: DataConfig, about: dict[str, Any], cache: Path, folder: Path, announce: Callable[[str], None]
) -> None:
    """Writes the cache beside its place and moves it there; the lock is held, so what lies beside is nobody's."""
    unfinished = cache / f'.{folder.name}.unfinished'
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir()
    try:
        announce(f'data: reading {config.source}')
        reading = sources.labelled(config, cache)

        def train_texts() -> Iterator[str]:
            return (piece.text for split, piece in reading() if split == 'train')

        if config.tokenizer.startswith('bpe:'):
            announce(f'data: training {config.tokenizer} on its train split')
        made = tokenizer.make(config.tokenizer, train_texts)
        announce(f'data: tokenizing {config.source} ({config.tokenizer}) into {folder}')
        tokens.write(unfinished, made, reading(), about, sources.size(about['source']))
        _check_splits(config, files.read_json(unfinished / tokens.META))
        if _about(config) != about:
            raise UserError(f'data.source: {config.source} changed while it was read; run again')
        if folder.exists():
            shutil.rmtree(folder)
        os.rename(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _check_splits(config: DataConfig, meta: dict[str, Any]) -> None:
    counts = {split: meta['splits'].get(split, {'tokens': 0})['tokens'] for split in ('train', 'validation')}
    if not any(counts.values()):
        raise UserError(f'data.source: {config.source} holds no text')
    for split, count in counts.items():
        if not count and config.validation_source:
            raise UserError(f'data.{"source" if split == "train" else "validation_source"}: holds no text')
        if not count:
            raise UserError(
                f'data.holdout: nothing is left for {split} (holdout {config.holdout!r}, fraction '
                f"{config.validation_fraction}); change data.validation_fraction, or take 'tail'"
            )


def _open(folder: Path) -> Corpus:
    meta = files.read_json(folder / tokens.META)
    splits = {
        split: tokens.read_split(folder, split, meta) for split, counts in meta['splits'].items() if counts['tokens']
    }
    return Corpus(
        train=splits['train'],
        validation=splits['validation'],
        test=splits.get('test'),
        vocab_size=meta['vocab_size'],
        fingerprint=meta['fingerprint'],
        path=folder,
    )
