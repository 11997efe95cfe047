"""Dialogues: format of the turns, context limit, interruption."""

from types import SimpleNamespace

import pytest
import tokenizers

from gpt_jax.core.errors import UserError
from gpt_jax.data import tokenizer
from gpt_jax.inference.chat_session import Dialogue
from gpt_jax.inference.text_stream import TokenChunk
from gpt_jax.tasks import chat_template
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


@pytest.mark.parametrize(
    ('template', 'expected'),
    [
        (TEMPLATE, '<end>'),
        # The name of the end has the letters of any short placeholder.
        ("{% for m in messages %}{{ m['content'] }}<|endoftext|>{% endfor %}", '<|endoftext|>'),
        ("{% for m in messages %}x{{ m['content'] | trim }}x{% endfor %}", 'x'),
        # Nothing follows the last answer: it ends where the user's next turn begins.
        (
            "{% for m in messages %}\n### {{ m['role'] }}: {{ m['content'] }}{% endfor %}",
            '### user:',
        ),
    ],
)
def test_end_of_an_answer(template, expected):
    assert chat_template.find_end_of_answer(ChatTemplate(template, ())) == expected


def test_a_template_may_require_a_system_turn():
    rule = "{% if messages[0]['role'] != 'system' %}{{ raise_exception('need system') }}{% endif %}"
    template = ChatTemplate(rule + TEMPLATE, ())
    assert chat_template.find_end_of_answer(template) == '<end>'
    with pytest.raises(UserError, match='need system'):
        chat_template.find_end_of_answer(ChatTemplate(rule.replace("!= 'system'", "!= 'tool'"), ()))


@pytest.mark.parametrize('content', ['x', 'The end', ' two  ', 'a<end>', 'a\nb \n'])
@pytest.mark.parametrize('trim', ['', ' | trim'])
def test_an_open_turn_is_that_of_transformers(content, trim):
    text = TEMPLATE.replace("m['content']", f"m['content']{trim}")
    turns = [{'role': 'user', 'content': 'x'}, {'role': 'assistant', 'content': content}]
    found = chat_template.render_open_turn(ChatTemplate(text, ()), turns)
    assert found == '<user>x<end><assistant>' + (content.strip() if trim else content)
    transformers = pytest.importorskip('transformers')
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(tokenizers.models.BPE())
    )
    theirs = fast.apply_chat_template(
        turns, chat_template=text, tokenize=False, continue_final_message=True
    )
    assert found.rstrip() == theirs.rstrip()  # their treatment of white space varies by version


def test_a_template_without_the_last_turn_cannot_be_continued():
    template = ChatTemplate("{{ messages[0]['content'] }}", ())
    turns = [{'role': 'user', 'content': 'x'}, {'role': 'assistant', 'content': 'y'}]
    with pytest.raises(UserError, match='does not show the last turn'):
        chat_template.render_open_turn(template, turns)


def test_a_system_turn_stays():
    model = FakeModel('So.', context=80)
    dialogue = Dialogue(model, ChatTemplate(TEMPLATE, ()))
    system, user = {'role': 'system', 'content': 'Hm'}, {'role': 'user', 'content': 'Why?' * 4}
    answered = dialogue.complete_row(
        {'messages': [system, user, user, user]}, {'max_new_tokens': 9}
    )
    assert model.prompts == [f'<system>Hm<end><user>{"Why?" * 4}<end><assistant>']
    assert answered['messages'] == [
        system,
        user,
        user,
        user,
        {'role': 'assistant', 'content': 'So.'},
    ]
