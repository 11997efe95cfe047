"""How does text become ids and come back? Bytes, trained byte-level BPE, or a tokenizer that is given."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpt_jax import files
from gpt_jax.data import lacking
from gpt_jax.errors import UserError

END_OF_DOCUMENT = '<|endoftext|>'
# What published tokenizers call the token that ends a document, the most specific first.
ENDS = (END_OF_DOCUMENT, '<|end_of_text|>', '<｜end▁of▁sentence｜>', '</s>', '<eos>', '<|eos|>', '[EOS]')
END_OF_WORD, UNKNOWN = '</w>', '<unk>'  # in GPT-1's vocabulary
SPACE = 'Ġ'  # begins words in GPT-2's
BYTES_END = 0xFF  # no UTF-8 text contains this byte
BYTES_CONTENT = b'{"gpt_jax": "bytes"}\n'
TRAINING_CHARACTERS = 200_000_000  # of the train split; word counts hardly move beyond, and training takes 40 s

Ids = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Text to ids and back.

    Attributes:
      content: what `save` writes and `load` reads.
      fingerprint: SHA-256 of `content`, 64 hex digits.
      vocab_size: every id is below it.
      end_of_document: the id that ends a document; encoding never gives it, whatever the text says. None: it has none.
      encode_batch: texts to their ids, one array each, without `end_of_document`. Raises UserError, which names the
        character, where there is no id for one of them.
      decode: ids to text; `end_of_document` and bytes that are no UTF-8 do not raise.
    """

    content: bytes
    fingerprint: str
    vocab_size: int
    end_of_document: int | None
    encode_batch: Callable[[list[str]], list[Ids]]
    decode: Callable[[Sequence[int] | Ids], str]

    def encode(self, text: str) -> Ids:
        return self.encode_batch([text])[0]


def make(spec: str, texts: Callable[[], Iterable[str]]) -> Tokenizer:
    """The tokenizer that `data.tokenizer` names.

    Args:
      spec: 'bytes', 'bpe:<vocabulary size>' or a path.
      texts: begins a reading of the training text; used for 'bpe:' alone.

    Raises:
      UserError: nothing at the path, or a file that is no tokenizer.
    """
    if spec == 'bytes':
        return _bytes()
    if spec.startswith('bpe:'):
        return train(texts(), int(spec.removeprefix('bpe:')))
    return _given(files.path(spec, 'config.data.tokenizer'))


def identity(spec: str) -> list[str]:
    """What identifies the tokenizer `spec` without loading it: the word, and the content of files it names.

    Raises:
      UserError: nothing at the path.
    """
    if spec == 'bytes' or spec.startswith('bpe:'):
        return [spec]
    return ['given', *(files.sha256_file(path) for path in _given_files(files.path(spec, 'config.data.tokenizer')))]


def folder(spec: str) -> Path | None:
    """The folder of a tokenizer that is given by its path: what else it carries lies there. None: it is made here."""
    if spec == 'bytes' or spec.startswith('bpe:'):
        return None
    path = files.path(spec, 'config.data.tokenizer')
    return path if path.is_dir() else path.parent


def save(tokenizer: Tokenizer, path: Path) -> None:
    files.write_bytes(path, tokenizer.content)


def load(path: Path) -> Tokenizer:
    """What `save` wrote, or any tokenizer.json.

    Raises:
      UserError: no such file, or no tokenizer.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f'data.tokenizer: {path} cannot be read ({error.strerror})') from None
    return _bytes() if content == BYTES_CONTENT else _from_content(content, str(path))


def spelled(tokenizer: Tokenizer) -> Tokenizer:
    """The same, but text that spells a special token ('<|im_end|>') is read as that token: for chat templates."""
    if tokenizer.content == BYTES_CONTENT:
        return tokenizer
    return _from_content(tokenizer.content, 'the tokenizer', spelled=True)


def beginning(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids that its own files put before every text, as Llama's do; `encode` never does."""
    if tokenizer.content == BYTES_CONTENT:
        return ()
    import tokenizers

    inner = tokenizers.Tokenizer.from_str(tokenizer.content.decode('utf-8'))
    for word in ('a', *inner.get_vocab(with_added_tokens=False)):
        try:
            whole, plain = (inner.encode(word, add_special_tokens=special).ids for special in (True, False))
        except Exception:  # what a model of words raises for another word
            continue
        places = [place for place in range(len(whole)) if whole[place : place + len(plain)] == plain]
        if plain and len(places) == 1:
            return tuple(whole[: places[0]])
    return ()


def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE of at most `vocab_size` ids, END_OF_DOCUMENT among them; less where the text has fewer pairs."""
    import tokenizers

    level = tokenizers.pre_tokenizers.ByteLevel
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = level(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=level.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_at_most(texts, TRAINING_CHARACTERS), trainer)
    return _from_content(bpe.to_str().encode('utf-8'), f'bpe:{vocab_size}')


def _at_most(texts: Iterable[str], characters: int) -> Iterator[str]:
    for text in texts:
        yield text[:characters]
        characters -= len(text)
        if characters <= 0:
            return


def _bytes() -> Tokenizer:
    def encode(texts: list[str]) -> list[Ids]:
        return [np.frombuffer(text.encode('utf-8'), np.uint8) for text in texts]

    def decode(ids: Sequence[int] | Ids) -> str:
        return bytes(int(i) for i in ids if i != BYTES_END).decode('utf-8', errors='replace')

    return Tokenizer(BYTES_CONTENT, hashlib.sha256(BYTES_CONTENT).hexdigest(), 256, BYTES_END, encode, decode)


def _given_files(path: Path) -> list[Path]:
    if path.is_dir():
        for names in (['tokenizer.json'], ['vocab.json', 'merges.txt']):
            if all((path / name).is_file() for name in names):
                return [path / name for name in names]
        raise UserError(f'data.tokenizer: {path} holds neither tokenizer.json nor vocab.json and merges.txt')
    if not path.is_file():
        raise UserError(
            f"data.tokenizer: {path} is no file or folder; write 'bytes', 'bpe:<vocabulary size>' or a path"
        )
    return [path]


def _given(path: Path) -> Tokenizer:
    found = _given_files(path)
    if len(found) == 1:
        return load(found[0])
    (vocabulary, merges), words = map(str, found), files.read_json(found[0])
    whole = isinstance(words, dict) and any(word.endswith(END_OF_WORD) for word in words)
    spaced = isinstance(words, dict) and any(word.startswith(SPACE) for word in words)
    try:
        kind = _words_in_lower_case if whole and not spaced else _byte_level
        bpe = kind(vocabulary, merges, words)
    except Exception as error:  # tokenizers raises Exception itself
        raise UserError(f'data.tokenizer: {path} holds no BPE ({_line(error)})') from None
    return _from_content(bpe.to_str().encode('utf-8'), str(path))


def _byte_level(vocabulary: str, merges: str, words: Any) -> Any:
    """GPT-2's (Radford et al. 2019): of bytes, whatever the text."""
    import tokenizers

    del words
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(vocabulary, merges))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    return bpe


def _words_in_lower_case(vocabulary: str, merges: str, words: Any) -> Any:
    """GPT-1's (Radford et al. 2018): of words without case and accents, cut at spaces and punctuation."""
    import tokenizers

    unknown = UNKNOWN if UNKNOWN in words else None
    bpe = tokenizers.Tokenizer(
        tokenizers.models.BPE.from_file(vocabulary, merges, end_of_word_suffix=END_OF_WORD, unk_token=unknown)
    )
    bpe.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    bpe.decoder = tokenizers.decoders.BPEDecoder(suffix=END_OF_WORD)
    return bpe


def _from_content(content: bytes, where: str, spelled: bool = False) -> Tokenizer:
    import tokenizers

    try:
        inner = tokenizers.Tokenizer.from_str(content.decode('utf-8'))
    except Exception as error:  # tokenizers raises Exception itself
        raise UserError(f'data.tokenizer: {where} is no tokenizer.json ({_line(error)})') from None
    inner.no_truncation()
    inner.no_padding()
    inner.encode_special_tokens = not spelled  # text that spells a special token stays text
    lacking.refuse(inner)
    vocabulary = inner.get_vocab(with_added_tokens=True)
    if not vocabulary:
        raise UserError(f'data.tokenizer: {where} has no token in its vocabulary')
    end = next((vocabulary[name] for name in ENDS if name in vocabulary), None)

    def encode(texts: list[str]) -> list[Ids]:
        try:
            encoded = inner.encode_batch_fast(texts, add_special_tokens=False)
        except Exception as error:  # tokenizers raises Exception itself
            line = lacking.first(content, texts) or f'the tokenizer does not take the text ({_line(error)})'
            raise UserError(f'{line}; mend the text, or take another tokenizer') from None
        return [np.array(one.ids, np.uint32) for one in encoded]

    def decode(ids: Sequence[int] | Ids) -> str:
        return inner.decode([int(i) for i in ids if i != end], skip_special_tokens=False)

    # Ids may have gaps, so the count of tokens is not the bound.
    return Tokenizer(content, hashlib.sha256(content).hexdigest(), max(vocabulary.values()) + 1, end, encode, decode)


def _line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
