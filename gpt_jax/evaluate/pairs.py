"""Where does a continuation begin, in tokens? As lm-evaluation-harness tells context and continuation apart.

The two are encoded as one text, for a tokenizer may join what stands at the boundary; the continuation is what the
whole has beyond as many tokens as the context has by itself. Spaces at the context's end go to the continuation, since
words begin with their space in most vocabularies. An empty context is the token that begins a text.
"""

from collections.abc import Callable, Sequence

import numpy as np

from gpt_jax.errors import UserError
from gpt_jax.evaluate.scoring import Request

Encode = Callable[[list[str]], Sequence[np.ndarray]]


def requests(pairs: Sequence[tuple[str, str]], whole: Encode, plain: Encode, first: int | None) -> list[Request]:
    """The pairs of (context, continuation) in ids.

    Args:
      whole: texts to ids, with what goes before a text.
      plain: without it.
      first: the id that stands for an empty context; None: the tokenizer has none.

    Raises:
      UserError: a context is empty and there is no `first`, or a text is not text.
    """
    parted = [_parted(*pair) for pair in pairs]
    begun = [pair for pair in parted if pair[0]]
    wholes = iter(whole([context + continuation for context, continuation in begun]))
    contexts = iter(whole([context for context, _ in begun]))
    alone = iter(plain([continuation for context, continuation in parted if not context]))
    made = []
    for number, (context, _) in enumerate(parted):
        if context:
            given, both = next(contexts), next(wholes)
            made.append(Request(_ids(given), _ids(both)[len(given) :]))
        else:
            made.append(_begun(_ids(next(alone)), first, number))
    return made


def _parted(context: str, continuation: str) -> tuple[str, str]:
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


def _begun(ids: np.ndarray, first: int | None, number: int) -> Request:
    if first is None:
        raise UserError(
            f'pair {number}: an empty context, and the tokenizer has no token to begin with; give a context'
        )
    if len(ids) and ids[0] == first:  # the text begins with it
        return Request(ids[:1], ids[1:])
    return Request(np.array([first], np.int32), ids)


def _ids(ids: np.ndarray) -> np.ndarray:
    return np.asarray(ids, np.int32)
