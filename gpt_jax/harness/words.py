"""How does lm-evaluation-harness read text? As transformers' tokenizers do, special tokens that it spells included."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.data import chat, tokenizer
from gpt_jax.data.chat import Chat
from gpt_jax.data.tokenizer import BYTES_CONTENT
from gpt_jax.errors import UserError
from gpt_jax.pretrained import Pretrained


class Words(NamedTuple):
    """Text to ids and back.

    inner: of the library; None: the tokenizer is of bytes, and no text spells its special token.
    found: the model that reads them. first: the id before a text that nothing is before, and how it is spelt ('': not).
    end: how the token is spelt that ends a text. chat: the tokenizer's template, or None.
    """

    inner: Any
    found: Pretrained
    first: int | None
    begins: str
    end: str
    chat: Chat | None

    def plain(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The texts' ids, and nothing before them."""
        if self.inner is None:
            return [np.asarray(ids, np.int32) for ids in self.found.tokenizer.encode_batch(list(texts))]
        encoded = self.inner.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(one.ids, np.int32) for one in encoded]

    def whole(self, texts: Sequence[str]) -> list[np.ndarray]:
        """With what the tokenizer puts before a text, unless it is spelt there already."""
        before = np.array(self.found.beginning, np.int32)
        begun = [bool(self.begins) and text.startswith(self.begins) for text in texts]
        each = zip(begun, self.plain(texts), strict=True)
        return [ids if there else np.concatenate([before, ids]) for there, ids in each]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids, special tokens left out."""
        if self.inner is None:
            return self.found.tokenizer.decode(list(ids))
        return str(self.inner.decode(list(ids), skip_special_tokens=True))


def of(found: Pretrained, first: int | None = None) -> Words:
    """What the tokenizer's own files say. first: another id to begin with.

    Raises:
      UserError: no such id, or files that are damaged.
    """
    made, folder = found.tokenizer, tokenizer.folder(found.spec)
    if first is not None and not 0 <= first < made.vocab_size:
        raise UserError(f'prefix_token_id: {first} is no id of this tokenizer; there are {made.vocab_size}')
    if made.content == BYTES_CONTENT:
        return Words(None, found, made.end_of_document if first is None else first, '', '', None)
    import tokenizers

    inner = tokenizers.Tokenizer.from_str(made.content.decode('utf-8'))
    inner.no_truncation()
    inner.no_padding()
    named = chat.special_tokens(chat.carried(folder), str(folder))
    ends = None if made.end_of_document is None else inner.id_to_token(made.end_of_document)
    if first is None:
        ids = [inner.token_to_id(named[key]) for key in ('bos_token', 'eos_token') if key in named]
        first = next((id_ for id_ in (*ids, *found.beginning[-1:], made.end_of_document) if id_ is not None), None)
    begins = '' if first is None else inner.decode([first], skip_special_tokens=False)
    return Words(inner, found, first, begins, named.get('eos_token', ends or ''), chat.load(folder))
