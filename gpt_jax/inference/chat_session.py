"""Multi-turn dialogues with a model, in the format that it was trained on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpt_jax.core.errors import UserError
from gpt_jax.data.tokenizer import encode_special_tokens, find_prefix_ids, tokenizer_folder
from gpt_jax.inference.batching import TokenizedPrompt
from gpt_jax.inference.language_model import STREAM_STEPS, LanguageModel
from gpt_jax.inference.options import DEFAULT_NEW_TOKENS, make_options
from gpt_jax.tasks import chat_template
from gpt_jax.tasks.chat_template import ASSISTANT, ChatTemplate, Turn
from gpt_jax.train import manifest
from gpt_jax.train.manifest import select_checkpoint_folder

USER_ROLE = 'user'
PROBE = 'x'  # placeholder for an answer, used to find the template's text after it


class Dialogue:
    """A dialogue with a model: the model and the turns so far.

    Attributes:
      turns: the turns of the dialogue; may be reassigned, for example to [] to start over.

    Args:
      model: gives the answers.
      template: the chat template; None: each turn is 'Role: text' on a line of its own.
    """

    def __init__(self, model: LanguageModel, template: ChatTemplate | None):
        self.turns: list[Turn] = []
        self._model, self._template = model, template
        if template is None:
            self._tokenizer = model.tokenizer
            self._stop = f'\n{USER_ROLE.capitalize()}:'
        else:
            self._tokenizer = encode_special_tokens(model.tokenizer)
            self._stop = _find_end_of_answer(template)

    def answer(self, line: str, option_values: Mapping[str, Any]) -> None:
        """Print the model's answer to a user turn, and add both turns to the dialogue.

        If Ctrl-C interrupts an answer, the part generated so far is added.

        Args:
          line: the user's turn.
          option_values: generation options by name.

        Raises:
          UserError: the turn and an answer do not fit into the context, or an option is invalid;
            the dialogue is unchanged.
        """
        default_room = min(DEFAULT_NEW_TOKENS, self._model.config.context // 2)
        room = int(option_values.get('max_new_tokens') or default_room)
        stop = (self._stop,) if self._stop else ()
        options = make_options({'max_new_tokens': room, 'stop': stop} | dict(option_values))
        turns, prompt = self._make_prompt([*self.turns, {'role': USER_ROLE, 'content': line}], room)
        answer = ''
        try:
            for chunk in self._model.stream_chunks([prompt], options, block=STREAM_STEPS):
                print((answer + chunk.text).lstrip()[len(answer.lstrip()) :], end='', flush=True)
                answer += chunk.text
        finally:
            if answer:
                print(end='' if answer.endswith('\n') else '\n', flush=True)
                self.turns = [*turns, {'role': ASSISTANT, 'content': answer.strip()}]

    def _make_prompt(self, turns: list[Turn], room: int) -> tuple[list[Turn], TokenizedPrompt]:
        """Return the latest turns that leave room for an answer, and their prompt."""
        for first in range(len(turns)):
            if turns[first]['role'] == USER_ROLE:
                prompt = self._encode(turns[first:])
                if len(prompt.ids) + room <= self._model.config.context:
                    return turns[first:], prompt
        raise UserError(
            f"the turn's {len(prompt.ids)} tokens and an answer of {room} must fit into the "
            f"model's context of {self._model.config.context}; shorten the turn or lower "
            'max_new_tokens'
        )

    def _encode(self, turns: list[Turn]) -> TokenizedPrompt:
        if self._template is not None:
            text = self._template.render(turns, True)
            return TokenizedPrompt(text, np.asarray(self._tokenizer.encode(text), np.int32))
        text = chat_template.format_prompt(turns)
        prefix_ids = find_prefix_ids(self._tokenizer)
        return TokenizedPrompt(
            text, np.array([*prefix_ids, *self._tokenizer.encode(text)], np.int32)
        )


def load_dialogue(checkpoint: str, model: LanguageModel) -> Dialogue:
    """Start a dialogue in the format of the model's finetuning data.

    This is the tokenizer's chat template, unless the run was trained on dialogues without one.
    """
    folder = tokenizer_folder(model.pretrained.tokenizer_spec)
    template = chat_template.load_chat_template(folder)
    checkpoints = select_checkpoint_folder(Path(checkpoint), None) / 'checkpoints'
    meta = manifest.read_newest_meta(checkpoints) if checkpoints.is_dir() else None
    task = {} if meta is None else meta['config'].get('task', {})
    return Dialogue(model, None if task.get('messages') and not task.get('chat') else template)


def _find_end_of_answer(template: ChatTemplate) -> str:
    """Return the template's text after an answer, for example '<|im_end|>'."""
    turns: list[Turn] = [
        {'role': USER_ROLE, 'content': PROBE},
        {'role': ASSISTANT, 'content': PROBE},
    ]
    text = template.render(turns, False)
    return text[text.rindex(PROBE) + len(PROBE) :].strip()
