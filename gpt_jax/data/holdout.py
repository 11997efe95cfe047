"""Which text is kept for validation, where the source brings none of its own?"""

import hashlib
from collections.abc import Callable, Iterator

from gpt_jax.data.text_files import Piece

Reading = Callable[[], Iterator[Piece]]
Labelled = Iterator[tuple[str, Piece]]  # ('train' | 'validation' | 'test', piece)


def by_documents(reading: Reading, fraction: float) -> Labelled:
    """Each document to validation with probability `fraction`, by a hash of its text: copies stay on one side."""
    side, begins = '', True
    for piece in reading():
        if begins:
            digest = hashlib.blake2b(piece.text.encode('utf-8'), digest_size=8).digest()
            side = 'validation' if int.from_bytes(digest) < fraction * 2**64 else 'train'
        begins = piece.last
        yield side, piece


def by_tail(reading: Reading, fraction: float) -> Labelled:
    """The last `fraction` of the characters to validation; reads twice. One document may end in train, go on here."""
    cut = int(sum(len(piece.text) for piece in reading()) * (1 - fraction))
    seen = 0
    for text, last in reading():
        left = cut - seen
        seen += len(text)
        if left >= len(text):
            yield 'train', Piece(text, last or left == len(text))
        elif left <= 0:
            yield 'validation', Piece(text, last)
        else:
            yield 'train', Piece(text[:left], True)
            yield 'validation', Piece(text[left:], last)


HOLDOUTS = {'documents': by_documents, 'tail': by_tail}
