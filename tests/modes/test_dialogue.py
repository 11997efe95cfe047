"""Is a dialogue at the terminal written as those that a model was taught, and kept within its context?"""

from types import SimpleNamespace

import pytest

from gpt_jax.data import tokenizer
from gpt_jax.data.chat import Chat
from gpt_jax.errors import UserError
from gpt_jax.generate.writer import Update
from gpt_jax.modes.dialogue import Dialogue

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<end>{% endfor %}"
    '{% if add_generation_prompt %}<assistant>{% endif %}'
)


class Model:
    """Says what it is told to, in pieces, and keeps what it was asked."""

    def __init__(self, *pieces, context=64):
        self.pieces, self.asked, self.chosen = pieces, [], None
        self.tokenizer = tokenizer.make('bytes', lambda: ())
        self.config = SimpleNamespace(context=context)

    def write(self, prompts, chosen, **_):
        self.asked.append(prompts[0].text)
        self.chosen = chosen
        for piece in self.pieces:
            if isinstance(piece, BaseException):
                raise piece
            yield Update(0, piece, None)


def test_turns_are_remembered_in_plain_words(capsys):
    model = Model(' ', 'Be', 'cause.\n', context=200)
    dialogue = Dialogue(model, None)
    dialogue.answer('Why?', {})
    dialogue.answer('Really?', {'max_new_tokens': 7})
    assert model.asked == ['User: Why?\nAssistant:', 'User: Why?\nAssistant: Because.\nUser: Really?\nAssistant:']
    assert (model.chosen.stop, model.chosen.max_new_tokens) == (('\nUser:',), 7)
    assert capsys.readouterr().out == 'Because.\nBecause.\n'


def test_a_template_says_how_turns_are_written_and_end(capsys):
    model = Model('So.', context=200)
    dialogue = Dialogue(model, Chat(TEMPLATE, ()))
    dialogue.answer('Why?', {})
    dialogue.answer('And?', {})
    assert model.asked[1] == '<user>Why?<end><assistant>So.<end><user>And?<end><assistant>'
    assert model.chosen.stop == ('<end>',)
    assert capsys.readouterr().out == 'So.\nSo.\n'


def test_the_first_turns_are_forgotten_where_the_context_is_full():
    model = Model(' No.\n', context=64)
    dialogue = Dialogue(model, None)
    for question in ('one?', 'two?', 'three?'):
        dialogue.answer(question, {'max_new_tokens': 10})
    assert model.asked[2] == 'User: two?\nAssistant: No.\nUser: three?\nAssistant:'
    before = list(dialogue.turns)
    with pytest.raises(UserError, match='an answer up to 10; the model reads 64'):
        dialogue.answer('x' * 60, {'max_new_tokens': 10})
    assert dialogue.turns == before


def test_an_answer_that_is_stopped_is_remembered_as_far_as_it_came(capsys):
    dialogue = Dialogue(Model(' Be', KeyboardInterrupt()), None)
    with pytest.raises(KeyboardInterrupt):
        dialogue.answer('Why?', {'max_new_tokens': 5})
    assert [turn['content'] for turn in dialogue.turns] == ['Why?', 'Be']
    assert capsys.readouterr().out == 'Be\n'
