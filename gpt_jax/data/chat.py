"""How is a dialogue written as one text, and which stretches of it are the assistant's?

By the chat template that a tokenizer carries, as transformers' apply_chat_template renders it. Or, without one,
plainly: each turn is 'Role: what is said' and an end of line, as in 'User: Why?\\nAssistant: Because.\\n'.

The text of a chat template spells the tokenizer's special tokens ('<|im_end|>', the beginning of a text): it is to be
encoded with these read as tokens, and nothing put before it.
"""

import datetime
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax.errors import UserError

LEARNED = 'assistant'  # the role whose turns are learned
TEMPLATE, ABOUT, SPECIAL = 'chat_template.jinja', 'tokenizer_config.json', 'special_tokens_map.json'
FILES = (TEMPLATE, ABOUT, SPECIAL)
NAMED = ('bos_token', 'eos_token', 'unk_token', 'sep_token', 'pad_token', 'cls_token', 'mask_token')

Turn = dict[str, Any]
Parts = tuple[tuple[str, bool], ...]


class Chat(NamedTuple):
    """A tokenizer's chat template, and the special tokens that it may name (bos_token, ...)."""

    template: str
    tokens: tuple[tuple[str, str], ...]

    def render(self, turns: list[Turn], opened: bool) -> str:
        """The text of the turns. opened: with what the template puts before an answer that is yet to come.

        Raises:
          UserError: the template refuses these turns, or is none; without a place.
        """
        jinja2 = _jinja()
        known = [{key: value for key, value in turn.items() if value is not None} for turn in turns]
        values = {'messages': known, 'tools': None, 'documents': None, 'add_generation_prompt': opened}
        try:
            return _compiled(self.template).render(**values, **dict(self.tokens))
        except jinja2.TemplateSyntaxError as error:
            raise UserError(f'the chat template cannot be read ({_line(error)} in its line {error.lineno})') from None
        except Exception as error:  # what a template's own code comes to, raise_exception among it
            raise UserError(f'the chat template does not take these turns ({_line(error)})') from None


def carried(folder: Path | None) -> dict[str, bytes]:
    """The files of a tokenizer's folder that say how a dialogue is written, by name."""
    return {name: (folder / name).read_bytes() for name in FILES if folder and (folder / name).is_file()}


def load(folder: Path | None) -> Chat | None:
    """The chat template among a tokenizer's files: chat_template.jinja, else tokenizer_config.json's; None: none there.

    Raises:
      UserError: files that are not what they should be, several templates of which none is called 'default', or no
        jinja2 to render it with.
    """
    return of(carried(folder), str(folder))


def of(found: Mapping[str, bytes], where: str) -> Chat | None:
    """What `load` gives, of contents by the files' names. where: begins messages."""
    about = _object(found, ABOUT, where)
    template = found[TEMPLATE] if TEMPLATE in found else about.get('chat_template')
    if isinstance(template, list):  # several by name
        named = {str(one.get('name')): one.get('template') for one in template if isinstance(one, dict)}
        if 'default' not in named:
            raise UserError(f"{where}/{ABOUT}: chat_template: none is called 'default' (there are {', '.join(named)})")
        template = named['default']
    if template is None:
        return None
    _jinja()
    try:
        text = template.decode('utf-8') if isinstance(template, bytes) else template
    except UnicodeDecodeError as error:
        raise UserError(f'{where}/{TEMPLATE}: not UTF-8 at byte {error.start}') from None
    if not isinstance(text, str):
        raise UserError(f'{where}/{ABOUT}: chat_template: wants a text, got {type(text).__name__}')
    return Chat(text, tuple(sorted(special_tokens(found, where).items())))


def special_tokens(found: Mapping[str, bytes], where: str) -> dict[str, str]:
    """The special tokens that a tokenizer's files name, as 'bos_token': '<s>'."""
    about, special = (_object(found, name, where) for name in (ABOUT, SPECIAL))
    return {key: _token(source[key]) for source in (special, about) for key in NAMED if source.get(key)}


def _object(found: Mapping[str, bytes], name: str, where: str) -> dict[str, Any]:
    try:
        held = json.loads(found[name]) if name in found else {}
    except ValueError as error:
        raise UserError(f'{where}/{name}: not JSON ({error})') from None
    if not isinstance(held, dict):
        raise UserError(f'{where}/{name}: expected an object, got {type(held).__name__}')
    return held


def _token(said: Any) -> str:
    return str(said['content'] if isinstance(said, dict) else said)


def turns(held: Any, where: str) -> list[Turn]:
    """The turns that a column holds, as {'role': ..., 'content': ...}.

    They stand there so; or as TFDS gives a Sequence of such, {'role': [...], 'content': [...]}; or as a list of texts,
    the user's and the assistant's in turn.

    Raises:
      UserError: they do not, or none is the assistant's.
    """
    if isinstance(held, dict) and len({len(one) if isinstance(one, list) else None for one in held.values()}) == 1:
        held = [dict(zip(held, values, strict=True)) for values in zip(*held.values(), strict=True)]
    if not isinstance(held, list) or not held:
        raise UserError(f'{where}: config.task.messages: wants a list of turns that is not empty')
    if all(isinstance(one, str) for one in held):
        held = [{'role': ('user', LEARNED)[number % 2], 'content': text} for number, text in enumerate(held)]
    for number, turn in enumerate(held):
        good = isinstance(turn, dict) and all(isinstance(turn.get(key), str) for key in ('role', 'content'))
        if not good:
            raise UserError(f"{where}: config.task.messages: turn {number} is not {{'role': TEXT, 'content': TEXT}}")
    if all(turn['role'] != LEARNED for turn in held):
        raise UserError(f'{where}: config.task.messages: no turn is of the role {LEARNED!r}, so nothing is learned')
    return held


def parts(given: list[Turn], how: Chat | None, where: str) -> Parts:
    """The dialogue's text in (text, whether it is the assistant's) that alternate, up to the last answer's end.

    Raises:
      UserError: the chat template does not take it, or writes a turn in another way once there are more.
    """
    last = max(number for number, turn in enumerate(given) if turn['role'] == LEARNED)
    pairs = _plain(given[: last + 1]) if how is None else _templated(given[: last + 1], how, where)
    return tuple((text, learned) for text, learned in pairs if text)


def opened(given: list[Turn]) -> str:
    """The text of the turns without a template, with what stands before an answer that is yet to come."""
    return ''.join(text for text, _ in _plain([*given, {'role': LEARNED, 'content': ''}])[:-1])


def _plain(given: list[Turn]) -> list[tuple[str, bool]]:
    pairs, before = [], ''
    for turn in given:
        name, said = f'{turn["role"].capitalize()}:', f' {turn["content"]}\n'
        if turn['role'] == LEARNED:
            pairs += [(before + name, False), (said, True)]
            before = ''
        else:
            before += name + said
    return pairs


def _templated(given: list[Turn], how: Chat, where: str) -> list[tuple[str, bool]]:
    """An answer begins where the text of what is before it ends, opened, and ends where that of it and these does."""
    try:
        whole = how.render(given, False)
        pairs, at = [], 0
        for number, turn in enumerate(given):
            if turn['role'] != LEARNED:
                continue
            before, with_it = how.render(given[:number], True), how.render(given[: number + 1], False)
            if not (whole.startswith(with_it) and with_it.startswith(before) and len(before) >= at):
                raise UserError(
                    f'the chat template writes turn {number} differently once it is answered or gone on from, so what '
                    f'is learned of it cannot be told; set config.task.chat=False, or give one answer a row'
                )
            pairs += [(whole[at : len(before)], False), (whole[len(before) : len(with_it)], True)]
            at = len(with_it)
    except UserError as error:
        raise UserError(f'{where}: {error}') from None
    return pairs


@functools.cache
def _compiled(template: str) -> Any:
    """The template in the environment that transformers gives it: blocks leave no spaces, and no code reaches out."""
    return _environment().from_string(template)


def _jinja() -> Any:
    """The library that renders.

    Raises:
      UserError: it is not there.
    """
    try:
        import jinja2.ext
        import jinja2.sandbox
    except ImportError:
        raise UserError("config.task.chat: chat templates are rendered by jinja2; pip install -e '.[chat]'") from None
    return jinja2


def _environment() -> Any:
    jinja2 = _jinja()
    extension: Any = jinja2.ext.Extension

    class Generation(extension):
        """{% generation %}...{% endgeneration %}, which marks an answer for transformers, gives what stands inside."""

        tags = {'generation'}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(('name:endgeneration',), drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    made.filters['tojson'] = _tojson
    made.globals |= {'raise_exception': _raise, 'strftime_now': lambda form: datetime.datetime.now().strftime(form)}
    return made


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Jinja's own would write '<' as an escape, as HTML wants it."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise _jinja().TemplateError(message)


def _line(error: BaseException) -> str:
    return ' '.join(str(error).split()) or type(error).__name__
