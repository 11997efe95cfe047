"""Are dialogues written as transformers writes them, and are the assistant's words found in them?"""

import json
import sys

import pytest

from gpt_jax.data import chat
from gpt_jax.data.chat import Chat
from gpt_jax.errors import UserError

CHATML = """{%- if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}{% endif -%}
{% for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""
LLAMA = """{% set loop_messages = messages %}{% for message in loop_messages %}
{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim %}
{% set content = content + '<|eot_id|>' %}
{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}
{{ content }}{% endfor %}
{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""
MISTRAL = """{{ bos_token }}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- '[INST] ' + message['content'] + ' [/INST]' }}
    {%- else %}
        {{- ' ' + message['content'] + eos_token }}
    {%- endif %}
{%- endfor %}"""
MARKED = """{% for message in messages %}
{% if message.role == 'system' %}{% continue %}{% endif %}
{% if message.role == 'assistant' %}
<bot>{% generation %}{{ message.content }}</bot>{% endgeneration %}
{% else %}
<{{ message.role }}>{{ message | tojson }}{{ tools is none }}{{ pad_token }}
{{ message.name is defined }}{{ strftime_now('%Y') }}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}
<bot>{% endif %}"""
TEMPLATES = {'chatml': CHATML, 'llama': LLAMA, 'mistral': MISTRAL, 'marked': MARKED}
TOKENS = {'bos_token': '<s>', 'eos_token': '</s>'}

DIALOGUE = [
    {'role': 'user', 'content': ' Why <"é">?\n'}, {'role': 'assistant', 'content': 'Because.'},
    {'role': 'user', 'content': '{{ so }}'}, {'role': 'assistant', 'content': 'Yes.\nAnd no.'},
]  # fmt: skip


def of(template, **about):
    return chat.of({'chat_template.jinja': template.encode(), 'tokenizer_config.json': json.dumps(about).encode()}, 'x')


@pytest.fixture(scope='module')
def theirs():
    """A tokenizer of transformers with the same special tokens."""
    transformers = pytest.importorskip('transformers', reason='renders the same templates')
    tokenizers = pytest.importorskip('tokenizers')
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({'a': 0, '<s>': 1, '</s>': 2}, unk_token='a'))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **TOKENS)


@pytest.mark.parametrize('name', TEMPLATES)
@pytest.mark.parametrize('turns', [1, 2, 3, 4])
@pytest.mark.parametrize('opened', [False, True])
def test_as_transformers_renders(theirs, name, turns, opened):
    dialogue = [{'name': None, **turn} for turn in DIALOGUE[:turns]]
    expected = theirs.apply_chat_template(
        dialogue, chat_template=TEMPLATES[name], tokenize=False, add_generation_prompt=opened
    )
    assert of(TEMPLATES[name], **TOKENS).render(dialogue, opened) == expected


@pytest.mark.parametrize(
    ('name', 'learned'),
    [
        ('chatml', ['Because.<|im_end|>\n', 'Yes.\nAnd no.<|im_end|>\n']),
        ('llama', ['Because.<|eot_id|>', 'Yes.\nAnd no.<|eot_id|>']),
        ('mistral', [' Because.</s>', ' Yes.\nAnd no.</s>']),
        ('marked', ['Because.</bot>', 'Yes.\nAnd no.</bot>']),
    ],
)
def test_what_the_assistant_says_is_found(name, learned):
    how = of(TEMPLATES[name], **TOKENS)
    parts = chat.parts(DIALOGUE, how, 'train[0]')
    assert ''.join(text for text, _ in parts) == how.render(DIALOGUE, False)
    assert [mark for _, mark in parts] == [False, True, False, True]
    assert [text for text, mark in parts if mark] == learned
    # A turn of the user's behind the last answer teaches nothing, and is left out.
    assert chat.parts([*DIALOGUE, {'role': 'user', 'content': 'Thanks'}], how, 'train[0]') == parts


def test_a_template_that_rewrites_what_was_said_is_refused():
    """As some leave out of all answers but the last what was thought before them."""
    how = of(
        "{% for m in messages %}<{{ m.role }}>{{ m.content if loop.last else m.content.split('.')[0] }}{% endfor %}"
    )
    with pytest.raises(
        UserError, match=r'^train\[0\]: the chat template writes turn 1 differently once .*task\.chat=False'
    ):
        chat.parts(DIALOGUE, how, 'train[0]')


@pytest.mark.parametrize(
    ('template', 'message'),
    [
        (MISTRAL, r'does not take these turns \(Conversation roles must alternate user/assistant'),
        ('{% for', r'cannot be read \(.* in its line 1\)'),
        ("{{ ''.__class__.__mro__ }}", r'does not take these turns \(access to attribute'),
        ('{{ messages.append(1) }}', r'does not take these turns \('),
        ('{{ 1 + messages }}', r'does not take these turns \('),
    ],
)
def test_what_a_template_refuses(template, message):
    with pytest.raises(UserError, match=rf'^train\[0\]: the chat template {message}') as caught:
        chat.parts([DIALOGUE[1]], of(template, **TOKENS), 'train[0]')
    assert '\n' not in str(caught.value)


def test_where_a_template_is_carried(tmp_path):
    assert chat.load(tmp_path) is None
    about = {'chat_template': 'old', 'bos_token': {'content': '<s>', 'lstrip': False}, 'eos_token': None}
    (tmp_path / 'tokenizer_config.json').write_text(json.dumps(about))
    assert chat.load(tmp_path) == Chat('old', (('bos_token', '<s>'),))
    (tmp_path / 'special_tokens_map.json').write_text('{"eos_token": "</s>", "bos_token": "<other>"}')
    (tmp_path / 'chat_template.jinja').write_text('new')
    assert chat.load(tmp_path) == Chat('new', (('bos_token', '<s>'), ('eos_token', '</s>')))


def test_templates_by_name():
    named = [{'name': 'tool_use', 'template': 'a'}, {'name': 'default', 'template': 'b'}]

    def carried(template):
        return chat.of({'tokenizer_config.json': json.dumps({'chat_template': template}).encode()}, 'folder')

    assert carried(named).template == 'b'
    with pytest.raises(UserError, match=r"folder/tokenizer_config\.json: chat_template: none is called 'default'"):
        carried(named[:1])
    with pytest.raises(UserError, match='wants a text, got int'):
        carried(3)


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, 'jinja2', None)
    monkeypatch.setitem(sys.modules, 'jinja2.ext', None)
    with pytest.raises(UserError, match=r"config\.task\.chat: .*pip install -e '\.\[chat\]'"):
        of(CHATML)


def test_plain_format():
    parts = chat.parts([{'role': 'system', 'content': 'Be brief.'}, *DIALOGUE], None, 'x')
    assert parts == (
        ('System: Be brief.\nUser:  Why <"é">?\n\nAssistant:', False), (' Because.\n', True),
        ('User: {{ so }}\nAssistant:', False), (' Yes.\nAnd no.\n', True),
    )  # fmt: skip


@pytest.mark.parametrize(
    'held',
    [
        DIALOGUE[:2],
        {'role': ['user', 'assistant'], 'content': [' Why <"é">?\n', 'Because.']},
        [' Why <"é">?\n', 'Because.'],
    ],
)
def test_turns_in_every_layout(held):
    assert chat.turns(held, 'x') == DIALOGUE[:2]


@pytest.mark.parametrize(
    ('held', 'message'),
    [
        ([], 'wants a list of turns that is not empty'),
        ('Hello', 'wants a list of turns'),
        ({'role': ['user'], 'content': []}, 'wants a list of turns'),
        ([{'role': 'user', 'content': None}], r"turn 0 is not \{'role': TEXT, 'content': TEXT\}"),
        ([{'from': 'human', 'value': 'x'}], r'turn 0 is not'),
        ([{'role': 'user', 'content': 'x'}], "no turn is of the role 'assistant'"),
        (['Hello'], "no turn is of the role 'assistant'"),
    ],
)
def test_turns_that_are_none(held, message):
    with pytest.raises(UserError, match=rf'^train\[3\]: config\.task\.messages: {message}'):
        chat.turns(held, 'train[3]')
