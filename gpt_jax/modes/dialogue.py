"""How does a person talk with a model? In turns, written as the dialogues were that it learned from (data/chat.py)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpt_jax import pretrained
from gpt_jax.data import chat, tokenizer
from gpt_jax.data.chat import LEARNED, Chat, Turn
from gpt_jax.errors import UserError
from gpt_jax.generate import options
from gpt_jax.generate.batching import Prompt
from gpt_jax.generate.options import NEW_TOKENS
from gpt_jax.language_model import STREAMED, LanguageModel
from gpt_jax.train import manifest

PERSON = 'user'  # the role of whoever writes at the terminal
PROBE = 'x'  # an answer whose end in the template is looked for


class Dialogue:
    """A model and the turns so far.

    Args:
      how: the chat template; None: each turn is 'Role: what is said' and an end of line.
    """

    def __init__(self, model: LanguageModel, how: Chat | None):
        self.turns: list[Turn] = []
        self._model, self._how = model, how
        self._tokenizer = model.tokenizer if how is None else tokenizer.spelled(model.tokenizer)
        self._end = f'\n{PERSON.capitalize()}:' if how is None else _end(how)

    def answer(self, line: str, given: Mapping[str, Any]) -> None:
        """Prints what the model says to a person's turn; both are remembered, what Ctrl-C stopped as far as it came.

        Args:
          given: options of generation by name.

        Raises:
          UserError: the turn is longer than the context, or an option makes no sense; nothing is remembered.
        """
        room = int(given.get('max_new_tokens') or min(NEW_TOKENS, self._model.config.context // 2))
        chosen = options.make({'max_new_tokens': room, 'stop': (self._end,) if self._end else ()} | dict(given))
        kept, prompt = self._asked([*self.turns, {'role': PERSON, 'content': line}], room)
        said = ''
        try:
            for update in self._model.write([prompt], chosen, block=STREAMED):
                print((said + update.piece).lstrip()[len(said.lstrip()) :], end='', flush=True)
                said += update.piece
        finally:
            if said:
                print(end='' if said.endswith('\n') else '\n', flush=True)
                self.turns = [*kept, {'role': LEARNED, 'content': said.strip()}]

    def _asked(self, turns: list[Turn], room: int) -> tuple[list[Turn], Prompt]:
        """The latest turns that leave room for an answer, from one of the person's on, and their text."""
        for first in range(len(turns)):
            if turns[first]['role'] == PERSON:
                text = self._text(turns[first:])
                ids = np.asarray(self._tokenizer.encode(text), np.int32)
                if self._how is None:
                    ids = np.concatenate([np.asarray(tokenizer.beginning(self._tokenizer), np.int32), ids])
                if len(ids) + room <= self._model.config.context:
                    return turns[first:], Prompt(text, ids)
        raise UserError(
            f'this turn has {len(ids)} tokens, and an answer up to {room}; the model reads {self._model.config.context}'
        )

    def _text(self, turns: list[Turn]) -> str:
        if self._how is not None:
            return self._how.render(turns, True)
        return chat.opened(turns)


def of(checkpoint: str, model: LanguageModel) -> Dialogue:
    """A dialogue as the model's run was taught it, or by the chat template that its tokenizer carries."""
    how = chat.load(tokenizer.folder(model.found.spec))
    checkpoints = pretrained.chosen(Path(checkpoint), None) / 'checkpoints'
    meta = manifest.newest_meta(checkpoints) if checkpoints.is_dir() else None
    task = {} if meta is None else meta['config'].get('task', {})
    return Dialogue(model, None if task.get('messages') and not task.get('chat') else how)


def _end(how: Chat) -> str:
    """What the template writes behind an answer, '<|im_end|>' say."""
    asked: Turn = {'role': PERSON, 'content': PROBE}
    text = how.render([asked, {'role': LEARNED, 'content': PROBE}], False)
    return text[text.rindex(PROBE) + len(PROBE) :].strip()
