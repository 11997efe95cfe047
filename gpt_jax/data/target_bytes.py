"""UTF-8 bytes of text behind each target, which turn a loss per token into one per byte.

For bytes and plain byte-level BPE, an id stands for the same bytes everywhere. Other tokenizers add
a space before a text, replace characters or drop some; there, the text is read and encoded again,
and a token has the bytes from the end of the previous token to its own end. The end of a document
has none.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.core.config import DataConfig
from gpt_jax.core.errors import UserError
from gpt_jax.core.progress import LogFn
from gpt_jax.data import sources, token_cache
from gpt_jax.data.loader import Batch, iterate_eval_batches
from gpt_jax.data.token_cache import TokenSplit
from gpt_jax.data.tokenized_dataset import TokenizedDataset
from gpt_jax.data.tokenizer import BYTES_CONTENT, BYTES_END_OF_DOCUMENT, Tokenizer

METASPACE = '▁'  # a space, in vocabularies of SentencePiece
BYTE_FALLBACK_LENGTH = len('<0x00>')
BYTES_PER_CHARACTER_ENDS = (0x80, 0x800, 0x10000)  # first code points that need 2, 3 and 4 bytes


class ByteTable(NamedTuple):
    """Bytes by id.

    Attributes:
      lengths_V: int32 [V]; 0 for special tokens, which encoding does not produce.
      is_exact: whether they hold in any text; otherwise a token may have others.
    """

    lengths_V: np.ndarray
    is_exact: bool


class TargetBytes:
    """Counts the bytes of scored targets of a dataset.

    Args:
      dataset: the tokens.
      config: the data section that they were made from.
      log: receives one line if bytes of held-out targets cannot be told.
    """

    def __init__(self, dataset: TokenizedDataset, config: DataConfig, log: LogFn) -> None:
        self._dataset, self._config, self._log = dataset, config, log
        self._tokenizer = dataset.load_tokenizer()
        self._table = make_byte_table(self._tokenizer)
        self._ratios: dict[tuple[str, int, int], float | None] = {}

    def average_batch(self, batch: Batch) -> float | None:
        """Return the mean bytes of a training batch's targets; None unless the table is exact."""
        if not self._table.is_exact:
            return None
        lengths_BL = self._table.lengths_V[batch['targets']]
        return float(np.average(lengths_BL, weights=batch.get('weights')))

    def average_split(
        self, split: str, *, context: int, max_tokens: int, note: Callable[[], None]
    ) -> float | None:
        """Return the mean bytes of the targets of `iterate_eval_batches`; None if unknown.

        Args:
          split: 'validation' or 'test'.
          context: length of the rows, in tokens.
          max_tokens: number of targets; 0 for all.
          note: called now and then while text is read again.
        """
        key = split, context, max_tokens
        if key not in self._ratios:
            tokens: TokenSplit = getattr(self._dataset, split)
            count = min(max_tokens + 1, len(tokens)) if max_tokens else len(tokens)
            lengths = self._measure_split(split, tokens.ids[:count], note)
            self._ratios[key] = (
                None
                if lengths is None
                else average_targets(
                    TokenSplit(lengths, tokens.document_starts, tokens.text_bytes),
                    context,
                    self._config.packing,
                )
            )
        return self._ratios[key]

    def _measure_split(
        self, split: str, ids: np.ndarray, note: Callable[[], None]
    ) -> np.ndarray | None:
        """Return the bytes of each of the first ids of a split."""
        if self._table.is_exact:
            return self._table.lengths_V[ids]
        folder = self._dataset.path
        try:
            chunks = sources.make_split_reader(self._config, folder.parent)()
            lengths = measure_again(self._tokenizer, self._table, chunks, split, ids, note)
        except (UserError, OSError):
            lengths = None
        if lengths is None:
            self._log(
                f'{split}: no bits per byte, since data.tokenizer changes text and '
                f'{self._config.source} no longer gives the tokens in {folder}'
            )
        return lengths


def average_targets(lengths: TokenSplit, context: int, packing: str) -> float:
    """Return the mean bytes of the targets that evaluation counts.

    Args:
      lengths: as a split, with the bytes of each token in place of its id.
    """
    total = count = 0.0
    batches = iterate_eval_batches(
        lengths, context=context, batch_size=1024, packing=packing, max_tokens=0
    )
    for batch in batches:
        total += float(np.sum(batch['targets'] * batch['weights'], dtype=np.float64))
        count += float(np.sum(batch['weights'], dtype=np.float64))
    return total / count


def make_byte_table(tokenizer: Tokenizer) -> ByteTable:
    """Count the bytes that each id of a tokenizer stands for."""
    if tokenizer.content == BYTES_CONTENT:
        lengths_V = np.ones(tokenizer.vocab_size, np.int32)
        lengths_V[BYTES_END_OF_DOCUMENT] = 0
        return ByteTable(lengths_V, is_exact=True)
    fields = json.loads(tokenizer.content)
    is_byte_level = any(part['type'] == 'ByteLevel' for part in _list_parts(fields))
    vocabulary = fields['model']['vocab']
    words = (
        ((word, id_) for id_, (word, _) in enumerate(vocabulary))
        if isinstance(vocabulary, list)  # a unigram model: pairs of a token and its score
        else vocabulary.items()
    )
    lengths_V = np.zeros(tokenizer.vocab_size, np.int32)
    for word, id_ in words:
        # Byte-level BPE writes each byte as one character.
        lengths_V[id_] = len(word) if is_byte_level else _count_word_bytes(word)
    for token in fields.get('added_tokens') or ():
        lengths_V[token['id']] = 0 if token['special'] else len(token['content'].encode())
    if tokenizer.end_of_document is not None:
        lengths_V[tokenizer.end_of_document] = 0
    return ByteTable(lengths_V, is_byte_level and _keeps_every_byte(fields))


def _list_parts(fields: dict[str, Any]) -> list[dict[str, Any]]:
    """List the pre-tokenizers of a tokenizer.json."""
    first = fields.get('pre_tokenizer') or {'type': 'Sequence', 'pretokenizers': []}
    return list(first['pretokenizers']) if first['type'] == 'Sequence' else [first]


def _count_word_bytes(word: str) -> int:
    if len(word) == BYTE_FALLBACK_LENGTH and word.startswith('<0x') and word.endswith('>'):
        return 1
    return len(word.replace(METASPACE, ' ').encode())


def _keeps_every_byte(fields: dict[str, Any]) -> bool:
    """Whether a tokenizer.json with ByteLevel splits the bytes of any text among its tokens."""
    import tokenizers

    model = fields['model']
    return (
        model['type'] == 'BPE'
        and set(tokenizers.pre_tokenizers.ByteLevel.alphabet()) <= model['vocab'].keys()
        and not any(model.get(f'{end}') for end in ('continuing_subword_prefix', 'dropout'))
        and not model.get('end_of_word_suffix')
        and fields.get('normalizer') is None
        and all(
            part['type'] in ('ByteLevel', 'Split', 'Digits')
            and not part.get('add_prefix_space')
            and part.get('behavior') != 'Removed'
            for part in _list_parts(fields)
        )
        # These take the white space around them.
        and not any(
            token['lstrip'] or token['rstrip']
            for token in fields.get('added_tokens') or ()
            if not token['special']
        )
    )


def measure_again(
    tokenizer: Tokenizer,
    table: ByteTable,
    chunks: sources.SplitChunks,
    split: str,
    ids: np.ndarray,
    note: Callable[[], None],
) -> np.ndarray | None:
    """Return the bytes of each of the first ids of a split, from its text.

    Args:
      chunks: the text that was tokenized.
      split: name of the split.
      ids: its first ids.
      note: called now and then.

    Returns:
      int32, as many as there are ids; None if the text does not give these ids.
    """
    parts: list[np.ndarray] = []
    end = 0
    for part_ids, part_lengths in _encode_again(tokenizer, table, chunks, split, note):
        part_ids, part_lengths = part_ids[: len(ids) - end], part_lengths[: len(ids) - end]
        if not np.array_equal(part_ids, ids[end : end + len(part_ids)]):
            return None
        parts.append(part_lengths)
        end += len(part_ids)
        if end == len(ids):
            return np.concatenate(parts)
    return None


def _encode_again(
    tokenizer: Tokenizer,
    table: ByteTable,
    chunks: sources.SplitChunks,
    split: str,
    note: Callable[[], None],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the ids of a split, as token_cache writes them, with their bytes."""
    measure = make_measure(tokenizer, table)
    in_document = False
    for batch in token_cache.iterate_text_batches(chunks):
        note()
        own = [chunk for name, chunk in batch if name == split]
        for chunk, (ids, lengths) in zip(own, measure([c.text for c in own]), strict=True):
            in_document |= len(ids) > 0
            yield ids, lengths
            if chunk.is_last and in_document:
                if tokenizer.end_of_document is not None:
                    yield np.array([tokenizer.end_of_document]), np.zeros(1, np.int32)
                in_document = False


def make_measure(
    tokenizer: Tokenizer, table: ByteTable
) -> Callable[[list[str]], list[tuple[np.ndarray, np.ndarray]]]:
    """Make a function from texts to the ids and bytes of each text's tokens."""
    import tokenizers

    # A post-processor would shift the offsets.
    fields = json.loads(tokenizer.content)
    fields |= {'post_processor': None, 'truncation': None, 'padding': None}
    inner = tokenizers.Tokenizer.from_str(json.dumps(fields))
    inner.encode_special_tokens = True
    if tokenizer.end_name:
        inner.add_special_tokens([tokenizer.end_name])

    def measure(texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        encodings = inner.encode_batch(texts, add_special_tokens=False)
        return [
            (np.array(encoding.ids, np.int64), _measure_encoding(encoding, text, table))
            for text, encoding in zip(texts, encodings, strict=True)
        ]

    return measure


def _measure_encoding(encoding: Any, text: str, table: ByteTable) -> np.ndarray:
    """Return the bytes of each token of a text, int32 [T]; their sum is that of the text."""
    if not encoding.ids:
        return np.zeros(0, np.int32)
    code_points = np.frombuffer(text.encode('utf-32-le'), np.uint32)
    sizes = 1 + sum((code_points >= end).astype(np.int64) for end in BYTES_PER_CHARACTER_ENDS)
    bytes_before = np.concatenate([[0], np.cumsum(sizes)])
    offsets_T2 = np.array(encoding.offsets, np.int64)
    ends_T = np.maximum.accumulate(offsets_T2[:, 1])
    ends_T[-1] = len(text)
    lengths_T = np.diff(bytes_before[ends_T], prepend=0)
    # Tokens that share a character: the table tells its bytes apart, if they are as many.
    continues_T = np.concatenate([[False], offsets_T2[1:, 0] < ends_T[:-1]])
    group_T = np.cumsum(~continues_T) - 1
    table_T = table.lengths_V[encoding.ids]
    excess = np.bincount(group_T, table_T) - np.bincount(group_T, lengths_T)
    if excess[0] == 1:  # the space that was added before the text
        table_T[0] -= 1
        excess[0] = 0
    return np.where(excess[group_T] == 0, table_T, lengths_T).astype(np.int32)
