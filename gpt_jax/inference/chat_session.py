"""Multi-turn dialogues with a model, in the format that it was trained on."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpt_jax.core.errors import UserError
from gpt_jax.data.tokenizer import encode_special_tokens, find_prefix_ids
from gpt_jax.inference.batching import TokenizedPrompt
from gpt_jax.inference.language_model import STREAM_STEPS, LanguageModel
from gpt_jax.inference.options import DEFAULT_NEW_TOKENS, make_options
from gpt_jax.tasks import chat_template
from gpt_jax.tasks.chat_template import ASSISTANT, ChatTemplate, Turn
from gpt_jax.train import manifest
from gpt_jax.train.manifest import select_checkpoint_folder

USER_ROLE = 'user'


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
            self._stop = chat_template.find_end_of_answer(template)

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
        user_turn = {'role': USER_ROLE, 'content': line}
        turns, texts = self._start_answer([*self.turns, user_turn], option_values)
        answer = ''
        try:
            for text in texts:
                print((answer + text).lstrip()[len(answer.lstrip()) :], end='', flush=True)
                answer += text
        finally:
            if answer:
                print(end='' if answer.endswith('\n') else '\n', flush=True)
                self.turns = [*turns, {'role': ASSISTANT, 'content': answer.strip()}]

    def complete_row(self, row: dict[str, Any], option_values: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row with the model's answer at the end of its `messages`.

        Args:
          row: its messages are turns, the last of them the user's.
          option_values: generation options by name.

        Raises:
          UserError: as for `answer`.
        """
        _, texts = self._start_answer(row['messages'], option_values)
        answer = ''.join(texts).strip()
        return row | {'messages': [*row['messages'], {'role': ASSISTANT, 'content': answer}]}

    def _start_answer(
        self, turns: list[Turn], option_values: Mapping[str, Any]
    ) -> tuple[list[Turn], Iterator[str]]:
        """Return the turns that fit into the context, and the parts of their answer."""
        default_room = min(DEFAULT_NEW_TOKENS, self._model.config.context // 2)
        room = int(option_values.get('max_new_tokens') or default_room)
        stop = (self._stop,) if self._stop else ()
        options = make_options({'max_new_tokens': room, 'stop': stop} | dict(option_values))
        turns, prompt = self._make_prompt(turns, room)
        chunks = self._model.stream_chunks([prompt], options, block=STREAM_STEPS)
        return turns, (chunk.text for chunk in chunks)

    def _make_prompt(self, turns: list[Turn], room: int) -> tuple[list[Turn], TokenizedPrompt]:
        """Return the latest turns that leave room for an answer, and their prompt.

        A system turn at the beginning always stays.
        """
        system = [turn for turn in turns[:1] if turn['role'] == 'system']
        for first in range(len(turns)):
            if turns[first]['role'] == USER_ROLE:
                latest = [*system, *turns[first:]]
                prompt = self._encode(latest)
                if len(prompt.ids) + room <= self._model.config.context:
                    return latest, prompt
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
    template = chat_template.parse_chat_template(model.pretrained.template_files, checkpoint)
    checkpoints = select_checkpoint_folder(Path(checkpoint), None) / 'checkpoints'
    meta = manifest.read_newest_meta(checkpoints) if checkpoints.is_dir() else None
    task = {} if meta is None else meta['config'].get('task', {})
    return Dialogue(model, None if task.get('messages') and not task.get('chat') else template)
