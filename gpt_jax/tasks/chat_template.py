r"""Chat templates: dialogues as text, split into the assistant's turns and everything else.

The template comes with the tokenizer and is rendered as in transformers' apply_chat_template. The
rendered text contains the tokenizer's special tokens, such as '<|im_end|>' or a beginning-of-text
token: encode it with special tokens enabled and without any prefix. Without a template, a turn is
'Role: content' and a line break, as in 'User: Why?\nAssistant: Because.\n'.
"""

import datetime
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax.core.errors import UserError

ASSISTANT = 'assistant'  # the role whose turns are trained on
TEMPLATE_FILE = 'chat_template.jinja'
CONFIG_FILE = 'tokenizer_config.json'
SPECIAL_TOKENS_FILE = 'special_tokens_map.json'
TEMPLATE_FILES = (TEMPLATE_FILE, CONFIG_FILE, SPECIAL_TOKENS_FILE)
SPECIAL_TOKEN_KEYS = tuple(
    f'{name}_token' for name in ('bos', 'eos', 'unk', 'sep', 'pad', 'cls', 'mask')
)

# Stands for a text whose place in a rendered template is looked for. Its characters are private
# ones, which neither a template nor a text has, and which no template's filter changes.
PROBE = '\ue0f0\ue0f1'

Turn = dict[str, Any]  # {'role': ..., 'content': ...}
DialogueParts = tuple[tuple[str, bool], ...]  # (text, whether it is the assistant's)


class ChatTemplate(NamedTuple):
    """A Jinja template, and the special tokens that it may refer to (bos_token, ...)."""

    template: str
    tokens: tuple[tuple[str, str], ...]

    def render(self, turns: list[Turn], add_generation_prompt: bool) -> str:
        """Render turns as text.

        Args:
          turns: the turns; keys with the value None are left out.
          add_generation_prompt: whether to add the template's start of an assistant's turn.

        Raises:
          UserError: the template is malformed or rejects these turns; the message names no row.
        """
        jinja2 = _import_jinja()
        values = {
            'messages': [
                {key: value for key, value in turn.items() if value is not None} for turn in turns
            ],
            'tools': None,
            'documents': None,
            'add_generation_prompt': add_generation_prompt,
        }
        try:
            return _compile_template(self.template).render(**values, **dict(self.tokens))
        except jinja2.TemplateSyntaxError as error:
            raise UserError(
                f'the chat template has a syntax error ({_error_line(error)} in line '
                f'{error.lineno})'
            ) from None
        except Exception as error:  # of any type, because it comes from the template's own code
            raise UserError(
                f'the chat template rejects these turns ({_error_line(error)})'
            ) from None


def read_template_files(folder: Path | None) -> dict[str, bytes]:
    """Return the contents of the TEMPLATE_FILES in a tokenizer's folder, by name."""
    if folder is None:
        return {}
    paths = [folder / name for name in TEMPLATE_FILES]
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


def find_end_of_answer(template: ChatTemplate) -> str:
    """Return the template's text after an answer, for example '<|im_end|>', without white space.

    If the text ends with the answer, this is what the template writes before the user's next turn.

    Raises:
      UserError: the template rejects a user's turn with an answer, also after a system turn.
    """
    user, answer = {'role': 'user', 'content': PROBE}, {'role': ASSISTANT, 'content': PROBE}
    turns = [user, answer]
    try:
        text = template.render(turns, False)
    except UserError:  # some templates require a system turn
        turns = [{'role': 'system', 'content': PROBE}, *turns]
        text = template.render(turns, False)
    end = text.split(PROBE)[-1].strip()
    return end or template.render([*turns, user], False).split(PROBE)[-2].strip()


def render_open_turn(template: ChatTemplate, turns: list[Turn]) -> str:
    """Render turns without the end of the last one, which is to be continued.

    As in transformers, white space at the end of the last turn stays unless the template trims it.

    Raises:
      UserError: the template rejects the turns, or does not show the content of the last one.
    """
    last = turns[-1] | {'content': turns[-1]['content'] + PROBE}
    before, probe, _ = template.render([*turns[:-1], last], False).rpartition(PROBE)
    if not probe:
        raise UserError('the chat template does not show the last turn, so it cannot be continued')
    plain = template.render(turns, False)
    return before if plain.startswith(before) else before.rstrip()


def load_chat_template(folder: Path | None) -> ChatTemplate | None:
    """Load the chat template of a tokenizer's folder, or return None if it has none.

    chat_template.jinja takes precedence over the entry in tokenizer_config.json.

    Raises:
      UserError: malformed files, several templates without a 'default', or jinja2 is missing.
    """
    return parse_chat_template(read_template_files(folder), str(folder))


def parse_chat_template(contents: Mapping[str, bytes], where: str) -> ChatTemplate | None:
    """Parse the chat template as `load_chat_template` does.

    Args:
      contents: contents of TEMPLATE_FILES, by name.
      where: start of error messages.
    """
    config = _parse_object(contents, CONFIG_FILE, where)
    template = contents.get(TEMPLATE_FILE, config.get('chat_template'))
    if isinstance(template, list):  # several templates with names
        entries = [entry for entry in template if isinstance(entry, dict)]
        by_name = {str(entry.get('name')): entry.get('template') for entry in entries}
        if 'default' not in by_name:
            raise UserError(
                f"{where}/{CONFIG_FILE}: chat_template: must have a 'default', got "
                f'{", ".join(by_name)}'
            )
        template = by_name['default']
    if template is None:
        return None
    _import_jinja()
    try:
        text = template.decode('utf-8') if isinstance(template, bytes) else template
    except UnicodeDecodeError as error:
        raise UserError(f'{where}/{TEMPLATE_FILE}: not UTF-8 at byte {error.start}') from None
    if not isinstance(text, str):
        kind = type(text).__name__
        raise UserError(f'{where}/{CONFIG_FILE}: chat_template: must be text, got {kind}')
    return ChatTemplate(text, tuple(sorted(parse_special_tokens(contents, where).items())))


def parse_special_tokens(contents: Mapping[str, bytes], where: str) -> dict[str, str]:
    """Return the special tokens that a tokenizer's files name, such as 'bos_token': '<s>'.

    Args:
      contents: contents of TEMPLATE_FILES, by name; tokenizer_config.json takes precedence.
      where: start of error messages.
    """
    tokens: dict[str, str] = {}
    for name in (SPECIAL_TOKENS_FILE, CONFIG_FILE):
        fields = _parse_object(contents, name, where)
        for key in SPECIAL_TOKEN_KEYS:
            if value := fields.get(key):
                tokens[key] = str(value['content'] if isinstance(value, dict) else value)
    return tokens


def _parse_object(contents: Mapping[str, bytes], name: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(contents[name]) if name in contents else {}
    except ValueError as error:
        raise UserError(f'{where}/{name}: not JSON ({error})') from None
    if not isinstance(value, dict):
        raise UserError(f'{where}/{name}: must be an object, got {type(value).__name__}')
    return value


def parse_turns(value: Any, where: str) -> list[Turn]:
    """Return the turns of a column as a list of {'role': ..., 'content': ...}.

    Args:
      value: such a list; or {'role': [...], 'content': [...]}, the form of a TFDS Sequence; or a
        list of texts, by the user and the assistant alternately.
      where: start of error messages.

    Raises:
      UserError: the value has another form, or no turn by the assistant.
    """
    if isinstance(value, dict):
        lengths = {len(items) if isinstance(items, list) else None for items in value.values()}
        if len(lengths) == 1:
            rows = zip(*value.values(), strict=True)
            value = [dict(zip(value, row, strict=True)) for row in rows]
    if not isinstance(value, list) or not value:
        raise UserError(f'{where}: config.task.messages: must name a non-empty list of turns')
    if all(isinstance(item, str) for item in value):
        roles = ('user', ASSISTANT)
        value = [{'role': roles[number % 2], 'content': text} for number, text in enumerate(value)]
    for number, turn in enumerate(value):
        is_valid = isinstance(turn, dict) and all(
            isinstance(turn.get(key), str) for key in ('role', 'content')
        )
        if not is_valid:
            raise UserError(
                f"{where}: config.task.messages: turn {number} must be {{'role': TEXT, "
                f"'content': TEXT}}"
            )
    if all(turn['role'] != ASSISTANT for turn in value):
        raise UserError(
            f'{where}: config.task.messages: must have a turn with the role {ASSISTANT!r} to train '
            'on'
        )
    return value


def split_dialogue(turns: list[Turn], template: ChatTemplate | None, where: str) -> DialogueParts:
    """Split the text of a dialogue into the assistant's and other parts, up to the last answer.

    Args:
      turns: at least one is the assistant's.
      template: None for the plain format.
      where: start of error messages.

    Raises:
      UserError: the template rejects the turns, or renders a turn differently when more turns
        follow.
    """
    last = max(number for number, turn in enumerate(turns) if turn['role'] == ASSISTANT)
    turns = turns[: last + 1]
    parts = _split_plain(turns) if template is None else _split_rendered(turns, template, where)
    return tuple((text, is_target) for text, is_target in parts if text)


def format_prompt(turns: list[Turn]) -> str:
    """Format turns without a template, up to the start of the assistant's next answer."""
    parts = _split_plain([*turns, {'role': ASSISTANT, 'content': ''}])
    return ''.join(text for text, _ in parts[:-1])


def _split_plain(turns: list[Turn]) -> list[tuple[str, bool]]:
    parts, prompt = [], ''
    for turn in turns:
        name, content = f'{turn["role"].capitalize()}:', f' {turn["content"]}\n'
        if turn['role'] == ASSISTANT:
            parts += [(prompt + name, False), (content, True)]
            prompt = ''
        else:
            prompt += name + content
    return parts


def _split_rendered(
    turns: list[Turn], template: ChatTemplate, where: str
) -> list[tuple[str, bool]]:
    """Locate each answer by two renderings: of the turns before it, and of those up to it."""
    try:
        text = template.render(turns, False)
        parts, end = [], 0
        for number, turn in enumerate(turns):
            if turn['role'] != ASSISTANT:
                continue
            prompt = template.render(turns[:number], True)
            answered = template.render(turns[: number + 1], False)
            is_prefix = text.startswith(answered) and answered.startswith(prompt)
            if not (is_prefix and len(prompt) >= end):
                raise UserError(
                    f'the chat template renders turn {number} differently once it is complete or '
                    'followed by more turns, so it cannot be located; set config.task.chat=False, '
                    'or give one answer per row'
                )
            parts += [(text[end : len(prompt)], False), (text[len(prompt) : len(answered)], True)]
            end = len(answered)
    except UserError as error:
        raise UserError(f'{where}: {error}') from None
    return parts


def _import_jinja() -> Any:
    """Import jinja2 at first use, to keep start-up fast."""
    import jinja2.ext
    import jinja2.sandbox

    return jinja2


@functools.cache
def _compile_template(template: str) -> Any:
    return _make_environment().from_string(template)


def _make_environment() -> Any:
    """Make a sandboxed environment like the one that transformers uses."""
    jinja2 = _import_jinja()
    extension: Any = jinja2.ext.Extension

    class Generation(extension):
        """Extension that renders the content of {% generation %}...{% endgeneration %} unchanged.

        In transformers, this block marks answers.
        """

        tags = {'generation'}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(('name:endgeneration',), drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters['tojson'] = _tojson
    environment.globals |= {
        'raise_exception': _raise,
        'strftime_now': lambda form: datetime.datetime.now().strftime(form),
    }
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """Convert to JSON; replaces Jinja's filter, which escapes '<' for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> None:
    raise _import_jinja().TemplateError(message)


def _error_line(error: BaseException) -> str:
    return ' '.join(str(error).split()) or type(error).__name__
