"""Tokenizers: bytes, byte-level BPE trained on the data, or a pretrained tokenizer's files.

Beside tokenizer.json, or vocab.json and merges.txt, a folder may have files that change what they
mean. They are read as transformers 5 reads them (5.24; earlier versions differ):

tokenizer_config.json    eos_token ends a document; added_tokens_decoder, the special tokens
                         (bos_token to mask_token) and extra_special_tokens get the next free ids
                         if they have none; add_prefix_space and add_bos_token count for GPT-2's
                         class only, and the latter only without a tokenizer.json
special_tokens_map.json  without an added_tokens_decoder, its tokens replace those of
                         tokenizer_config.json
added_tokens.json        likewise, its tokens get the next free ids if they have none
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.core import files
from gpt_jax.core.errors import UserError

END_OF_DOCUMENT = '<|endoftext|>'
# Names of the end-of-document token in published tokenizers, the most specific first; used if no
# file names it.
END_OF_DOCUMENT_TOKENS = (
    END_OF_DOCUMENT,
    '<|end_of_text|>',
    '<｜end▁of▁sentence｜>',
    '</s>',
    '<eos>',
    '<|eos|>',
    '[EOS]',
)
END_OF_WORD_SUFFIX, UNKNOWN_TOKEN = '</w>', '<unk>'  # in GPT-1's vocabulary
SPACE_MARK = 'Ġ'  # marks the start of a word in GPT-2's vocabulary
BYTES_END_OF_DOCUMENT = 0xFF  # UTF-8 text never contains this byte
BYTES_CONTENT = b'{"gpt_jax": "bytes"}\n'
# Characters of the train split that BPE is trained on, which takes 40 s; with more, word counts
# hardly change.
MAX_TRAINING_CHARACTERS = 200_000_000
NO_ID_TOKEN = '<gpt_jax: no id>'  # longer than a character, so no character is encoded as it
CONTEXT_CHARACTERS = 20  # shown in a message before and after a character without an id

TOKENIZER_FILE, VOCABULARY_FILE, MERGES_FILE = 'tokenizer.json', 'vocab.json', 'merges.txt'
CONFIG_FILE = 'tokenizer_config.json'
# Other vocabularies, which transformers converts to a tokenizer.json.
OTHER_VOCABULARIES = ('tokenizer.model', 'spiece.model', 'sentencepiece.bpe.model', 'vocab.txt')
SIDE_FILES = (CONFIG_FILE, 'special_tokens_map.json', 'added_tokens.json')
# Special tokens in the order in which transformers gives them ids.
SPECIAL_KEYS = (
    'bos_token',
    'eos_token',
    'unk_token',
    'sep_token',
    'pad_token',
    'cls_token',
    'mask_token',
)
TOKEN_FLAGS = ('single_word', 'lstrip', 'rstrip', 'normalized', 'special')

TokenIds = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Encodes text as ids and decodes ids.

    Attributes:
      content: content of tokenizer.json.
      fingerprint: SHA-256 of `files`, 64 hex digits.
      vocab_size: exclusive upper bound of all ids.
      end_of_document: the id that ends a document, which encoding never produces; None if there is
        no such token.
      encode_batch: texts to ids, one array each, without `end_of_document`. Raises UserError for a
        character without an id, and names it.
      decode: ids to text, without `end_of_document`; invalid UTF-8 becomes U+FFFD.
      end_name: name of the end-of-document token, if END_OF_DOCUMENT_TOKENS would give another.
    """

    content: bytes
    fingerprint: str
    vocab_size: int
    end_of_document: int | None
    encode_batch: Callable[[list[str]], list[TokenIds]]
    decode: Callable[[Sequence[int] | TokenIds], str]
    end_name: str = ''

    @property
    def files(self) -> dict[str, bytes]:
        """The files that `load_tokenizer` reads, by name."""
        config = {CONFIG_FILE: _render_config(self.end_name)} if self.end_name else {}
        return {TOKENIZER_FILE: self.content, **config}

    def encode(self, text: str) -> TokenIds:
        return self.encode_batch([text])[0]


def make_tokenizer(spec: str, texts: Callable[[], Iterable[str]]) -> Tokenizer:
    """Make the tokenizer that `data.tokenizer` names.

    Args:
      spec: 'bytes', 'bpe:<vocabulary size>' or a path.
      texts: starts a pass over the training text; used only for 'bpe:'.

    Raises:
      UserError: the path does not exist or is not a tokenizer.
    """
    if spec == 'bytes':
        return _make_byte_tokenizer()
    if spec.startswith('bpe:'):
        return train_bpe(texts(), int(spec.removeprefix('bpe:')))
    return _load_pretrained(_find_path(spec))


def identify_tokenizer(spec: str) -> list[str]:
    """Return what identifies the tokenizer without loading it: the spec, or checksums of its files.

    Raises:
      UserError: the path does not exist.
    """
    if spec == 'bytes' or spec.startswith('bpe:'):
        return [spec]
    paths = _tokenizer_files(_find_path(spec))
    beside = [paths[0].with_name(name) for name in SIDE_FILES]
    return ['given', *map(files.sha256_file, [*paths, *filter(Path.is_file, beside)])]


def tokenizer_folder(spec: str) -> Path | None:
    """Return the folder that holds a pretrained tokenizer's files; None for other specs."""
    if spec == 'bytes' or spec.startswith('bpe:'):
        return None
    path = _find_path(spec)
    return path if path.is_dir() else path.parent


def _find_path(spec: str) -> Path:
    field = 'config.data.tokenizer'
    return files.find_snapshot(files.check_path(spec, field), field)


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    for name, content in tokenizer.files.items():
        files.write_bytes(folder / name, content)


def load_tokenizer(path: Path) -> Tokenizer:
    """Load a tokenizer.json, with the files beside it.

    Raises:
      UserError: no such file, or not a tokenizer.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f'data.tokenizer: {path} cannot be read ({error.strerror})') from None
    if content == BYTES_CONTENT:
        return _make_byte_tokenizer()
    side = _read_side_files(path.parent)
    inner = _parse(content, str(path))
    before = inner.to_str()
    _apply_side_files(inner, side)
    if inner.to_str() != before:
        content = inner.to_str().encode()
    return parse_tokenizer_json(content, str(path), end_name=side.end_name)


class SideFiles(NamedTuple):
    """What the files beside a vocabulary say; see the module docstring.

    Attributes:
      end_name: the eos token; '' if no file names it.
      added: fields of `tokenizers.AddedToken` of added tokens, by increasing id.
      special: the same of special tokens, in the order in which they get ids.
      prefix_space: whether a text begins with a space; None if GPT-2's class does not decide it.
      start_name: token that begins every text, for a vocabulary without a tokenizer.json.
      default_name: token that GPT-2's class treats as special without being told; ''.
    """

    end_name: str
    added: tuple[dict[str, Any], ...]
    special: tuple[dict[str, Any], ...]
    prefix_space: bool | None
    start_name: str
    default_name: str


def _read_side_files(folder: Path) -> SideFiles:
    config, special, added = (
        _read_object(folder / name) if (folder / name).is_file() else {} for name in SIDE_FILES
    )
    decoder = config.get('added_tokens_decoder')
    if isinstance(decoder, dict):
        by_id = {int(id_): _token_fields(token) for id_, token in decoder.items()}
    else:
        config |= special
        by_id = {id_: {'content': name} for name, id_ in added.items()}
    named = [config.get(key) for key in SPECIAL_KEYS]
    for fields in by_id.values():
        if fields['content'] in map(_token_name, named):
            fields |= {'special': True} | ({} if decoder else {'normalized': False})
    extra = config.get('extra_special_tokens') or config.get('additional_special_tokens') or ()
    named += list(extra.values() if isinstance(extra, dict) else extra)
    has_json = (folder / TOKENIZER_FILE).is_file()
    is_gpt2 = str(config.get('tokenizer_class', '' if has_json else 'GPT2')).startswith('GPT2')
    has_start = not has_json and config.get('add_bos_token') is True
    prefix_space = config.get('add_prefix_space')
    return SideFiles(
        end_name=_token_name(config.get('eos_token')),
        added=tuple(by_id[id_] for id_ in sorted(by_id)),
        special=tuple(
            _token_fields(token) | {'special': True} for token in named if _token_name(token)
        ),
        prefix_space=prefix_space if is_gpt2 and isinstance(prefix_space, bool) else None,
        start_name=_token_name(config.get('bos_token', END_OF_DOCUMENT)) if has_start else '',
        default_name=END_OF_DOCUMENT if is_gpt2 else '',
    )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f'data.tokenizer: {path} cannot be read ({error})') from None
    return value if isinstance(value, dict) else {}


def _token_name(value: Any) -> str:
    """Return the name of a token in these files: a string, or an object with its content."""
    content = value.get('content') if isinstance(value, dict) else value
    return content if isinstance(content, str) else ''


def _token_fields(value: Any) -> dict[str, Any]:
    """Return the fields of `tokenizers.AddedToken` of a token in these files."""
    flags = value if isinstance(value, dict) else {}
    return {key: flags[key] for key in TOKEN_FLAGS if key in flags} | {
        'content': _token_name(value)
    }


def _apply_side_files(inner: Any, side: SideFiles) -> None:
    """Change a `tokenizers.Tokenizer` as the files beside it say."""
    import tokenizers

    known = inner.get_added_tokens_decoder().values()
    names, same = {token.content for token in known}, {repr(token) for token in known}
    tokens = [tokenizers.AddedToken(**fields) for fields in side.added]
    missing = [token for token in tokens if token.content and repr(token) not in same]
    names |= {token.content for token in missing}
    default = {'content': side.default_name, 'special': True}
    has_default = inner.token_to_id(side.default_name) is not None
    for fields in (*side.special, *([default] if has_default else [])):
        if fields['content'] not in names:
            names.add(fields['content'])
            missing.append(tokenizers.AddedToken(**fields))
    inner.add_tokens(missing)
    if side.prefix_space is not None and inner.pre_tokenizer is not None:
        state = json.loads(inner.to_str())
        for part in (state['pre_tokenizer'], *state['pre_tokenizer'].get('pretokenizers', ())):
            if part['type'] == 'ByteLevel' and part['add_prefix_space'] != side.prefix_space:
                part['add_prefix_space'] = side.prefix_space
                new = tokenizers.Tokenizer.from_str(json.dumps(state))
                inner.pre_tokenizer = new.pre_tokenizer
    if side.start_name and inner.token_to_id(side.start_name) is not None:
        inner.post_processor = tokenizers.processors.TemplateProcessing(
            single=f'{side.start_name} $A',
            special_tokens=[(side.start_name, inner.token_to_id(side.start_name))],
        )


def _render_config(end_name: str) -> bytes:
    return (json.dumps({'eos_token': end_name}, ensure_ascii=False) + '\n').encode()


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train byte-level BPE with END_OF_DOCUMENT among at most `vocab_size` ids.

    There are fewer ids if the text has fewer pairs to merge.
    """
    import tokenizers

    byte_level = tokenizers.pre_tokenizers.ByteLevel
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = byte_level(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=byte_level.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_limit_characters(texts, MAX_TRAINING_CHARACTERS), trainer)
    return parse_tokenizer_json(bpe.to_str().encode('utf-8'), f'bpe:{vocab_size}')


def encode_special_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer that encodes the names of special tokens in text as these tokens.

    Chat templates need this, since their text contains such names ('<|im_end|>').
    """
    if tokenizer.content == BYTES_CONTENT:
        return tokenizer
    return parse_tokenizer_json(
        tokenizer.content, 'the tokenizer', special_tokens=True, end_name=tokenizer.end_name
    )


def find_prefix_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the ids that a tokenizer's files prepend to every text, such as Llama's <s>.

    `Tokenizer.encode` leaves them out.
    """
    if tokenizer.content == BYTES_CONTENT:
        return ()
    import tokenizers

    inner = tokenizers.Tokenizer.from_str(tokenizer.content.decode('utf-8'))
    for word in ('a', *inner.get_vocab(with_added_tokens=False)):
        try:
            processed, plain = (
                inner.encode(word, add_special_tokens=special).ids for special in (True, False)
            )
        except Exception:  # a word-level model raises this for a word outside its vocabulary
            continue
        starts = [
            start
            for start in range(len(processed))
            if processed[start : start + len(plain)] == plain
        ]
        if plain and len(starts) == 1:
            return tuple(processed[: starts[0]])
    return ()


def find_added_tokens(tokenizer: Tokenizer, size: int) -> list[str] | None:
    """Return the names of the added tokens whose ids are `size` or more, by increasing id.

    Returns:
      None if other tokens have such ids, too; ordinary text may give those.
    """
    if tokenizer.content == BYTES_CONTENT:
        return None if size < tokenizer.vocab_size else []
    import tokenizers

    inner = tokenizers.Tokenizer.from_str(tokenizer.content.decode('utf-8'))
    beyond = {
        id_: name for name, id_ in inner.get_vocab(with_added_tokens=True).items() if id_ >= size
    }
    added = inner.get_added_tokens_decoder()
    return [beyond[id_] for id_ in sorted(beyond)] if beyond.keys() <= added.keys() else None


def parse_tokenizer_json(
    content: bytes, where: str, special_tokens: bool = False, end_name: str = ''
) -> Tokenizer:
    """Make a tokenizer from the content of a tokenizer.json.

    Args:
      content: JSON.
      where: names the content in error messages.
      special_tokens: whether text that contains a special token is encoded as that token.
      end_name: name of the token that ends a document; '': the first of END_OF_DOCUMENT_TOKENS.

    Raises:
      UserError: not a tokenizer, an empty vocabulary, or no such token.
    """
    inner = _parse(content, where)
    inner.no_truncation()
    inner.no_padding()
    inner.encode_special_tokens = not special_tokens  # True: a special token in text stays text
    require_full_coverage(inner)
    vocabulary = inner.get_vocab(with_added_tokens=True)
    if not vocabulary:
        raise UserError(f'data.tokenizer: {where} must have tokens in its vocabulary, got none')
    usual = next((name for name in END_OF_DOCUMENT_TOKENS if name in vocabulary), '')
    if end_name not in ('', usual):
        if end_name not in vocabulary:
            raise UserError(f'data.tokenizer: {where}: eos_token {end_name!r} has no id')
        inner.add_special_tokens([end_name])  # it has an id, but may not be marked as special
    end = vocabulary.get(end_name or usual)

    def encode(texts: list[str]) -> list[TokenIds]:
        try:
            encodings = inner.encode_batch_fast(texts, add_special_tokens=False)
        except Exception as error:  # the tokenizers library raises plain Exception
            message = first_unencodable(content, texts) or (
                f'the tokenizer rejects the text ({_error_line(error)})'
            )
            raise UserError(f'{message}; change the text, or use another tokenizer') from None
        return [np.array(encoding.ids, np.uint32) for encoding in encodings]

    def decode(ids: Sequence[int] | TokenIds) -> str:
        return inner.decode([int(i) for i in ids if i != end], skip_special_tokens=False)

    # Ids may have gaps, so the upper bound is not the number of tokens.
    vocab_size = max(vocabulary.values()) + 1
    own_end_name = '' if end_name == usual else end_name
    config = _render_config(own_end_name) if own_end_name else b''
    fingerprint = hashlib.sha256(content + config).hexdigest()
    return Tokenizer(content, fingerprint, vocab_size, end, encode, decode, own_end_name)


def _parse(content: bytes, where: str) -> Any:
    import tokenizers

    try:
        return tokenizers.Tokenizer.from_str(content.decode('utf-8'))
    except Exception as error:  # the tokenizers library raises plain Exception
        message = _error_line(error)
        raise UserError(f'data.tokenizer: {where} is not a tokenizer.json ({message})') from None


def require_full_coverage(inner: Any) -> None:
    """Make a `tokenizers.Tokenizer` raise Exception for text that it would drop.

    A BPE model with neither an unknown token nor a token for every byte drops characters that it
    cannot encode, so decoding gives a different text. Word-level and unigram models raise on their
    own. Text that can be encoded gets the same ids, at no extra cost.
    """
    import tokenizers

    model = inner.model
    if isinstance(model, tokenizers.models.BPE) and (
        model.unk_token is None or inner.token_to_id(model.unk_token) is None
    ):
        model.unk_token = NO_ID_TOKEN


def first_unencodable(content: bytes, texts: list[str]) -> str | None:
    """Describe the first character without an id, as a message; None if there is none.

    The tokenizers library does not say which character it rejects. So an unknown token is added to
    a copy of the tokenizer, and the first character that it encodes as this token is the culprit.

    Args:
      content: the content of the tokenizer.json.
      texts: the texts to encode.
    """
    import tokenizers

    fields = json.loads(content)
    unknown_id = _add_unknown_token(fields['model'])
    # These would shift the offsets.
    fields |= {'post_processor': None, 'truncation': None, 'padding': None}
    inner = tokenizers.Tokenizer.from_str(json.dumps(fields))
    inner.encode_special_tokens = True
    for text in texts:
        encoding = inner.encode(text, add_special_tokens=False)
        if unknown_id in encoding.ids:
            start, end = encoding.offsets[encoding.ids.index(unknown_id)]
            context = text[max(0, start - CONTEXT_CHARACTERS) : end + CONTEXT_CHARACTERS]
            return (
                f'the tokenizer has no id for {text[start:end]!r}, at character {start} of the '
                f'text (in {context!r})'
            )
    return None


def _add_unknown_token(model: dict[str, Any]) -> int:
    """Add NO_ID_TOKEN to the model section of a tokenizer.json; return its id."""
    vocabulary = model['vocab']
    if isinstance(vocabulary, list):  # a unigram model: pairs of a token and its score
        # With byte fallback but without all bytes, the unknown token would not be used.
        model['byte_fallback'] = False
        vocabulary.append([NO_ID_TOKEN, min((score for _, score in vocabulary), default=0.0)])
        model['unk_id'] = len(vocabulary) - 1
        return len(vocabulary) - 1
    unknown_id = int(max(vocabulary.values(), default=-1)) + 1
    vocabulary[NO_ID_TOKEN] = unknown_id
    model['unk_token'] = NO_ID_TOKEN
    if model['type'] == 'BPE':
        model['fuse_unk'] = False
    return unknown_id


def _limit_characters(texts: Iterable[str], characters: int) -> Iterator[str]:
    for text in texts:
        yield text[:characters]
        characters -= len(text)
        if characters <= 0:
            return


def _make_byte_tokenizer() -> Tokenizer:
    def encode(texts: list[str]) -> list[TokenIds]:
        return [np.frombuffer(text.encode('utf-8'), np.uint8) for text in texts]

    def decode(ids: Sequence[int] | TokenIds) -> str:
        content = bytes(int(i) for i in ids if i != BYTES_END_OF_DOCUMENT)
        return content.decode('utf-8', errors='replace')

    fingerprint = hashlib.sha256(BYTES_CONTENT).hexdigest()
    return Tokenizer(BYTES_CONTENT, fingerprint, 256, BYTES_END_OF_DOCUMENT, encode, decode)


def _tokenizer_files(path: Path) -> list[Path]:
    if path.is_dir():
        for names in ([TOKENIZER_FILE], [VOCABULARY_FILE, MERGES_FILE]):
            if all((path / name).is_file() for name in names):
                return [path / name for name in names]
        raise UserError(f'data.tokenizer: {path} {describe_missing_files(path)}')
    if not path.is_file():
        raise UserError(
            f"data.tokenizer: must be 'bytes', 'bpe:<vocabulary size>' or the path of a file or "
            f'folder, got {path}'
        )
    if path.name in OTHER_VOCABULARIES:
        raise UserError(f'data.tokenizer: {path.parent} {describe_missing_files(path.parent)}')
    return [path]


def describe_missing_files(folder: Path, output: Path | None = None) -> str:
    """Say what to do about a folder without a tokenizer that we read, in words that follow it.

    Args:
      output: the folder where the tokenizer must be; None: the same folder.
    """
    name = next((name for name in OTHER_VOCABULARIES if (folder / name).is_file()), None)
    if name is None:
        return 'must contain tokenizer.json, or vocab.json and merges.txt'
    return (
        f'holds {name}, but no {TOKENIZER_FILE}; to make it, pip install transformers '
        'sentencepiece, and python -c "from transformers import AutoTokenizer as T; '
        f"T.from_pretrained('{folder}').save_pretrained('{output or folder}')\""
    )


def _load_pretrained(path: Path) -> Tokenizer:
    paths = _tokenizer_files(path)
    if len(paths) == 1:
        return load_tokenizer(paths[0])
    vocabulary_path, merges_path = map(str, paths)
    vocabulary = files.read_json(paths[0])
    words = list(vocabulary) if isinstance(vocabulary, dict) else []
    is_gpt1 = any(word.endswith(END_OF_WORD_SUFFIX) for word in words) and not any(
        word.startswith(SPACE_MARK) for word in words
    )
    try:
        if is_gpt1:
            unknown = UNKNOWN_TOKEN if UNKNOWN_TOKEN in vocabulary else None
            bpe = _gpt1_bpe(vocabulary_path, merges_path, unknown)
        else:
            bpe = _gpt2_bpe(vocabulary_path, merges_path)
    except Exception as error:  # the tokenizers library raises plain Exception
        raise UserError(
            f'data.tokenizer: {path} is not a BPE tokenizer ({_error_line(error)})'
        ) from None
    side = _read_side_files(path)
    _apply_side_files(bpe, side)
    return parse_tokenizer_json(bpe.to_str().encode('utf-8'), str(path), end_name=side.end_name)


def _gpt2_bpe(vocabulary: str, merges: str) -> Any:
    """Make GPT-2's byte-level BPE (Radford et al. 2019)."""
    import tokenizers

    bpe = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(vocabulary, merges))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    return bpe


def _gpt1_bpe(vocabulary: str, merges: str, unknown: str | None) -> Any:
    """Make GPT-1's BPE (Radford et al. 2018).

    Text is lower-cased, stripped of accents, and split at spaces and punctuation.
    """
    import tokenizers

    model = tokenizers.models.BPE.from_file(
        vocabulary, merges, end_of_word_suffix=END_OF_WORD_SUFFIX, unk_token=unknown
    )
    bpe = tokenizers.Tokenizer(model)
    bpe.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    bpe.decoder = tokenizers.decoders.BPEDecoder(suffix=END_OF_WORD_SUFFIX)
    return bpe


def _error_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
