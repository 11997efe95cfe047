"""Dialogues: format of the turns, context limit, interruption."""

from types import SimpleNamespace

import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.data import tokenizer
from gpt_jax.inference.chat_session import Dialogue
from gpt_jax.inference.text_stream import TokenChunk
from gpt_jax.tasks.chat_template import ChatTemplate

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<end>{% endfor %}"
    '{% if add_generation_prompt %}<assistant>{% endif %}'
)


class FakeModel:
    """Answers with fixed pieces and records its prompts."""

    def __init__(self, *pieces, context=64):
        self.pieces, self.prompts, self.options = pieces, [], None
        self.tokenizer = tokenizer.make_tokenizer('bytes', lambda: ())
        self.config = SimpleNamespace(context=context)

    def stream_chunks(self, prompts, options, **_):
        self.prompts.append(prompts[0].text)
        self.options = options
        for piece in self.pieces:
            if isinstance(piece, BaseException):
                raise piece
            yield TokenChunk(0, piece, None)


def test_turns_without_a_template(capsys):
    model = FakeModel(' ', 'Be', 'cause.\n', context=200)
    dialogue = Dialogue(model, None)
    dialogue.answer('Why?', {})
    dialogue.answer('Really?', {'max_new_tokens': 7})
    assert model.prompts == [
        'User: Why?\nAssistant:',
        'User: Why?\nAssistant: Because.\nUser: Really?\nAssistant:',
    ]
    assert (model.options.stop, model.options.max_new_tokens) == (('\nUser:',), 7)
    assert capsys.readouterr().out == 'Because.\nBecause.\n'


def test_turns_with_a_template(capsys):
    model = FakeModel('So.', context=200)
    dialogue = Dialogue(model, ChatTemplate(TEMPLATE, ()))
    dialogue.answer('Why?', {})
    dialogue.answer('And?', {})
    assert model.prompts[1] == '<user>Why?<end><assistant>So.<end><user>And?<end><assistant>'
    assert model.options.stop == ('<end>',)
    assert capsys.readouterr().out == 'So.\nSo.\n'


def test_oldest_turns_are_dropped_when_the_context_is_full():
    model = FakeModel(' No.\n', context=64)
    dialogue = Dialogue(model, None)
    for question in ('one?', 'two?', 'three?'):
        dialogue.answer(question, {'max_new_tokens': 10})
    assert model.prompts[2] == 'User: two?\nAssistant: No.\nUser: three?\nAssistant:'
    before = list(dialogue.turns)
    with pytest.raises(UserError, match="an answer of 10 must fit into the model's context of 64"):
        dialogue.answer('x' * 60, {'max_new_tokens': 10})
    assert dialogue.turns == before


def test_interrupted_answer_is_added_as_far_as_it_was_generated(capsys):
    dialogue = Dialogue(FakeModel(' Be', KeyboardInterrupt()), None)
    with pytest.raises(KeyboardInterrupt):
        dialogue.answer('Why?', {'max_new_tokens': 5})
    assert [turn['content'] for turn in dialogue.turns] == ['Why?', 'Be']
    assert capsys.readouterr().out == 'Be\n'
