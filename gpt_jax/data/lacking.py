"""Which character of a text has a tokenizer no id for? Asked where one refuses, for the libraries below say not which.

A BPE that has neither an id for what is unknown nor one for every byte leaves such characters out, and a text would
come back as another. `refuse` makes it raise instead, as word and unigram models do of themselves; what it can take
gets the ids it had, at no cost.
"""

import json
from typing import Any

NO_ID = '<gpt_jax: no id>'  # longer than a character, so that no text becomes it
SHOWN = 20  # characters before and after the one that is named


def refuse(inner: Any) -> None:
    """Makes a tokenizers.Tokenizer raise Exception for text that it would leave out."""
    import tokenizers

    model = inner.model
    if isinstance(model, tokenizers.models.BPE) and (
        model.unk_token is None or inner.token_to_id(model.unk_token) is None
    ):
        model.unk_token = NO_ID


def first(content: bytes, texts: list[str]) -> str | None:
    """A line about the first character that the tokenizer.json `content` has no id for; None: it has all.

    It is what a tokenizer made of the same content, and of one id more for what is unknown, gives that id.
    """
    import tokenizers

    about = json.loads(content)
    number = _with_unknown(about['model'])
    about |= {'post_processor': None, 'truncation': None, 'padding': None}  # which would move the places
    inner = tokenizers.Tokenizer.from_str(json.dumps(about))
    inner.encode_special_tokens = True
    for text in texts:
        encoded = inner.encode(text, add_special_tokens=False)
        if number in encoded.ids:
            start, end = encoded.offsets[encoded.ids.index(number)]
            near = text[max(0, start - SHOWN) : end + SHOWN]
            return f'the tokenizer has no id for {text[start:end]!r}, at character {start} of the text (in {near!r})'
    return None


def _with_unknown(model: dict[str, Any]) -> int:
    """Adds an id for what is unknown to the section of a model; returns it."""
    words = model['vocab']
    if isinstance(words, list):  # of a unigram model: pairs of a word and its score
        model['byte_fallback'] = False  # of what is unknown; without an id for that, it is refused before
        words.append([NO_ID, min((score for _, score in words), default=0.0)])
        model['unk_id'] = len(words) - 1
        return len(words) - 1
    words[NO_ID] = max(words.values(), default=-1) + 1
    model |= {'unk_token': NO_ID, 'fuse_unk': False} if model['type'] == 'BPE' else {'unk_token': NO_ID}
    return int(words[NO_ID])
