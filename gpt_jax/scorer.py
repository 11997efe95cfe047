"""How likely are texts under a model that is loaded? Continuations of texts, and texts of any length."""

import math
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from gpt_jax import objective
from gpt_jax.errors import UserError
from gpt_jax.evaluate import pairs as parted
from gpt_jax.evaluate import rolling, scoring
from gpt_jax.evaluate.rolling import Perplexity
from gpt_jax.evaluate.scoring import Request, Scored
from gpt_jax.inference import Home
from gpt_jax.observe.progress import Progress
from gpt_jax.pretrained import Pretrained

MANY = 64  # requests, from which on it is shown how far they are

Pair = tuple[str, str] | Request


class Scorer:
    """Reads texts with a model's params on its devices, kept in whatever form.

    Attributes:
      before: the id that stands before a text that nothing stands before; None: the tokenizer has none.
    """

    def __init__(self, found: Pretrained, home: Home, params: Any):
        self._found, self._home, self._params = found, home, params
        self._read = jax.jit(objective.scoring(found.model, home.place))
        ids = found.beginning[-1:] or (found.tokenizer.end_of_document,)
        self.before: int | None = ids[0]

    def score(self, pairs: Sequence[Pair], batch: int = scoring.ROWS, context: int | None = None) -> list[Scored]:
        """The score of each continuation, in their order.

        Args:
          pairs: of context and continuation, as text (evaluate/pairs.py says where the one ends in tokens) or as ids.
          batch: rows that are read at once; it changes the speed alone.
          context: tokens that are read of a text at most; None: the model's.
        """
        most = self._found.model.context if context is None else context
        for name, value, limit in (('batch', batch, 1 << 20), ('context', most, self._found.model.context)):
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
                raise UserError(f'{name}: wants a whole number from 1 to {limit}, got {value!r}')
        made = self._requests(pairs)
        line = Progress(sys.stderr, trial=None, name='scoring', steps=len(made)) if len(made) >= MANY else None
        found = scoring.score(
            self._scores, made, context=most, rows=batch, ways=self._home.ways,
            note=None if line is None else lambda done, total: line.note(f'batch {done + 1}/{total}'),
        )  # fmt: skip
        if line is not None:
            line.close()
        return found

    def perplexity(
        self,
        text: str | Sequence[int],
        stride: int | None = None,
        batch: int = scoring.ROWS,
        context: int | None = None,
    ) -> Perplexity:
        """What a text costs, or its ids, in windows (evaluate/rolling.py) `stride` tokens apart; None: the context.

        Its first token is scored after `before`; where there is none, it is left out.
        """
        most = self._found.model.context if context is None else context
        ids = self._plain([_text(text, 'text')])[0] if isinstance(text, str) else text
        first = [] if self.before is None else [self.before]
        whole = np.array([*first, *ids], np.int32)
        if len(whole) < 2:
            raise UserError('text: has no token to score')
        found = self.score(rolling.requests(whole, most, most if stride is None else stride), batch, context)
        there = text if isinstance(text, str) and first else self._found.tokenizer.decode(whole[1:])
        return rolling.measured(-math.fsum(one.log_p for one in found), len(whole) - 1, there)

    def _requests(self, pairs: Sequence[Pair]) -> list[Request]:
        texts = [pair for pair in pairs if not isinstance(pair, Request)]
        for number, pair in enumerate(texts):
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise UserError(f'pair {number}: wants a context and a continuation, got {pair!r}')
            for part in pair:
                _text(part, f'pair {number}')
        made = iter(parted.requests(texts, self._whole, self._plain, self.before))
        return [pair if isinstance(pair, Request) else next(made) for pair in pairs]

    def _whole(self, texts: list[str]) -> list[np.ndarray]:
        beginning = np.array(self._found.beginning, np.int32)
        return [np.concatenate([beginning, ids]) for ids in self._plain(texts)]

    def _plain(self, texts: list[str]) -> list[np.ndarray]:
        return [np.asarray(ids, np.int32) for ids in self._found.tokenizer.encode_batch(texts)] if texts else []

    def _scores(self, batch: scoring.Batch) -> tuple[jax.Array, jax.Array]:
        return self._read(self._params, jax.device_put(batch, self._home.rows))


def _text(text: Any, which: str) -> str:
    if not isinstance(text, str):
        raise UserError(f'{which}: wants text, not {type(text).__name__}')
    try:
        text.encode('utf-8')
    except UnicodeEncodeError as error:
        raise UserError(f'{which}: character {error.start} is half a surrogate pair, and no text') from None
    return text
