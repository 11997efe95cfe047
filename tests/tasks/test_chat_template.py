"""Tests of chat templates: rendering equals transformers, and the assistant's parts are located."""

import json

import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.tasks import chat_template
from gpt_jax.tasks.chat_template import ChatTemplate

CHATML = """{%- if messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\nBe brief.<|im_end|>\n' }}{% endif -%}
{% for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""
LLAMA = """{% set loop_messages = messages %}{% for message in loop_messages %}
{% set header = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' %}
{% set content = header + message['content'] | trim + '<|eot_id|>' %}
{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}
{{ content }}{% endfor %}
{% if add_generation_prompt %}
{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""
MISTRAL = """{{ bos_token }}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/...') }}
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
    {'role': 'user', 'content': ' Why <"é">?\n'},
    {'role': 'assistant', 'content': 'Because.'},
    {'role': 'user', 'content': '{{ so }}'},
    {'role': 'assistant', 'content': 'Yes.\nAnd no.'},
]


def make_template(template, **config):
    return chat_template.parse_chat_template(
        {
            'chat_template.jinja': template.encode(),
            'tokenizer_config.json': json.dumps(config).encode(),
        },
        'x',
    )


@pytest.fixture(scope='module')
def theirs():
    """A tokenizer of transformers with the same special tokens."""
    transformers = pytest.importorskip('transformers', reason='renders the same templates')
    tokenizers = pytest.importorskip('tokenizers')
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({'a': 0, '<s>': 1, '</s>': 2}, unk_token='a')
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **TOKENS)


@pytest.mark.parametrize('name', TEMPLATES)
@pytest.mark.parametrize('turns', [1, 2, 3, 4])
@pytest.mark.parametrize('add_generation_prompt', [False, True])
def test_rendering_equals_transformers(theirs, name, turns, add_generation_prompt):
    dialogue = [{'name': None, **turn} for turn in DIALOGUE[:turns]]
    expected = theirs.apply_chat_template(
        dialogue,
        chat_template=TEMPLATES[name],
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
    )
    template = make_template(TEMPLATES[name], **TOKENS)
    assert template.render(dialogue, add_generation_prompt) == expected


@pytest.mark.parametrize(
    ('name', 'answers'),
    [
        ('chatml', ['Because.<|im_end|>\n', 'Yes.\nAnd no.<|im_end|>\n']),
        ('llama', ['Because.<|eot_id|>', 'Yes.\nAnd no.<|eot_id|>']),
        ('mistral', [' Because.</s>', ' Yes.\nAnd no.</s>']),
        ('marked', ['Because.</bot>', 'Yes.\nAnd no.</bot>']),
    ],
)
def test_answers_are_located(name, answers):
    template = make_template(TEMPLATES[name], **TOKENS)
    parts = chat_template.split_dialogue(DIALOGUE, template, 'train[0]')
    assert ''.join(text for text, _ in parts) == template.render(DIALOGUE, False)
    assert [is_target for _, is_target in parts] == [False, True, False, True]
    assert [text for text, is_target in parts if is_target] == answers
    # A user's turn after the last answer is left out, because nothing is learned from it.
    longer = [*DIALOGUE, {'role': 'user', 'content': 'Thanks'}]
    assert chat_template.split_dialogue(longer, template, 'train[0]') == parts


def test_template_that_rewrites_earlier_answers_is_rejected():
    """Some templates drop the reasoning from all answers but the last."""
    template = make_template(
        '{% for m in messages %}<{{ m.role }}>'
        "{{ m.content if loop.last else m.content.split('.')[0] }}{% endfor %}"
    )
    with pytest.raises(
        UserError,
        match=r'^train\[0\]: the chat template renders turn 1 differently once .*task\.chat=False',
    ):
        chat_template.split_dialogue(DIALOGUE, template, 'train[0]')


@pytest.mark.parametrize(
    ('template', 'message'),
    [
        (MISTRAL, r'rejects these turns \(Conversation roles must alternate user/assistant'),
        ('{% for', r'has a syntax error \(.* in line 1\)'),
        ("{{ ''.__class__.__mro__ }}", r'rejects these turns \(access to attribute'),
        ('{{ messages.append(1) }}', r'rejects these turns \('),
        ('{{ 1 + messages }}', r'rejects these turns \('),
    ],
)
def test_rejections_of_a_template(template, message):
    with pytest.raises(UserError, match=rf'^train\[0\]: the chat template {message}') as raised:
        chat_template.split_dialogue([DIALOGUE[1]], make_template(template, **TOKENS), 'train[0]')
    assert '\n' not in str(raised.value)


def test_template_files(tmp_path):
    assert chat_template.load_chat_template(tmp_path) is None
    config = {
        'chat_template': 'old',
        'bos_token': {'content': '<s>', 'lstrip': False},
        'eos_token': None,
    }
    (tmp_path / 'tokenizer_config.json').write_text(json.dumps(config))
    assert chat_template.load_chat_template(tmp_path) == ChatTemplate(
        'old', (('bos_token', '<s>'),)
    )
    (tmp_path / 'special_tokens_map.json').write_text(
        '{"eos_token": "</s>", "bos_token": "<other>"}'
    )
    (tmp_path / 'chat_template.jinja').write_text('new')
    assert chat_template.load_chat_template(tmp_path) == ChatTemplate(
        'new', (('bos_token', '<s>'), ('eos_token', '</s>'))
    )


def test_templates_by_name():
    named = [{'name': 'tool_use', 'template': 'a'}, {'name': 'default', 'template': 'b'}]

    def parse(template):
        return chat_template.parse_chat_template(
            {'tokenizer_config.json': json.dumps({'chat_template': template}).encode()}, 'folder'
        )

    assert parse(named).template == 'b'
    with pytest.raises(
        UserError,
        match=r"folder/tokenizer_config\.json: chat_template: must have a 'default', got tool_use",
    ):
        parse(named[:1])
    with pytest.raises(UserError, match='must be text, got int'):
        parse(3)


def test_plain_format():
    parts = chat_template.split_dialogue(
        [{'role': 'system', 'content': 'Be brief.'}, *DIALOGUE], None, 'x'
    )
    assert parts == (
        ('System: Be brief.\nUser:  Why <"é">?\n\nAssistant:', False),
        (' Because.\n', True),
        ('User: {{ so }}\nAssistant:', False),
        (' Yes.\nAnd no.\n', True),
    )


@pytest.mark.parametrize(
    'value',
    [
        DIALOGUE[:2],
        {'role': ['user', 'assistant'], 'content': [' Why <"é">?\n', 'Because.']},
        [' Why <"é">?\n', 'Because.'],
    ],
)
def test_turns_in_every_form(value):
    assert chat_template.parse_turns(value, 'x') == DIALOGUE[:2]


@pytest.mark.parametrize(
    ('value', 'message'),
    [
        ([], 'must name a non-empty list of turns'),
        ('Hello', 'must name a non-empty list of turns'),
        ({'role': ['user'], 'content': []}, 'must name a non-empty list of turns'),
        ([{'role': 'user', 'content': None}], r"turn 0 must be \{'role': TEXT, 'content': TEXT\}"),
        ([{'from': 'human', 'value': 'x'}], r'turn 0 must be'),
        ([{'role': 'user', 'content': 'x'}], "must have a turn with the role 'assistant'"),
        (['Hello'], "must have a turn with the role 'assistant'"),
    ],
)
def test_invalid_turns_are_rejected(value, message):
    with pytest.raises(UserError, match=rf'^train\[3\]: config\.task\.messages: {message}'):
        chat_template.parse_turns(value, 'train[3]')
