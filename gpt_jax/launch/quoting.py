"""How does an argument arrive as it was? Quoted for the one reader that stands between, or refused."""

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from gpt_jax.errors import UserError

PLAIN_KEY = '[A-Za-z][A-Za-z0-9]{5,}|env|kind|name|spec'  # shorter ones may mean something: yes, null
ENV_NAME = r'[A-Za-z_][A-Za-z0-9_]*'


def words(argv: Iterable[str]) -> str:
    """The words as one line of text that bash, dash, zsh and every POSIX shell read back as these words.

    Raises:
      UserError: a word holds what no argument can: a NUL, or what is not Unicode.
    """
    return shlex.join([checked(word) for word in argv])


def checked(word: str) -> str:
    """The word itself.

    Raises:
      UserError: no command line can carry it.
    """
    if '\0' in word:
        raise UserError(f'{word!r}: holds a NUL character, which no command line can carry')
    try:
        word.encode()
    except UnicodeEncodeError:
        raise UserError(f'{word!r}: is not Unicode text; rename it') from None
    return word


def exports(env: Mapping[str, str]) -> list[str]:
    """Lines of shell that set environment variables.

    Raises:
      UserError: a name that is none.
    """
    for name in env:
        if not re.fullmatch(ENV_NAME, name):
            raise UserError(
                f'--launch_option=env.{name}: no name of an environment variable; use letters, digits and _'
            )
    return [f'export {name}={shlex.quote(checked(value))}' for name, value in env.items()]


def plain(value: str, option: str) -> str:
    """The value, where it needs no quoting at all: for readers whose rules of quoting are their own (#SBATCH lines).

    Raises:
      UserError: it would need it.
    """
    if not re.fullmatch(r'[A-Za-z0-9._:,/=+@*\[\]&|-]+', value):
        raise UserError(f'--launch_option={option}={value}: use letters, digits and . _ : , / = + @ * [ ] & | - only')
    return value


def kubernetes(word: str) -> str:
    """A word of a container's command: Kubernetes replaces $(NAME) there, and reads $$ as $."""
    return checked(word).replace('$', '$$')


def yaml(value: Any, indent: int = 0) -> str:
    """Nested dicts and lists as YAML; every text in double quotes."""
    pad = ' ' * indent
    if isinstance(value, Mapping) and value:
        return ''.join(
            f'{pad}{key if re.fullmatch(PLAIN_KEY, key) else _text(key)}:{_beside(item, indent + 2)}'
            for key, item in value.items()
        )  # fmt: skip
    if isinstance(value, list | tuple) and value:
        items = [yaml(item, indent + 2) for item in value]
        return ''.join(f'{pad}- {item[indent + 2 :] if item.startswith(pad + "  ") else item}' for item in items)
    return f'{_text(value)}\n'


def _beside(value: Any, indent: int) -> str:
    text = yaml(value, indent)
    return f'\n{text}' if isinstance(value, Mapping | list | tuple) and value else f' {text}'


def _text(value: Any) -> str:
    if not isinstance(value, str):
        return json.dumps(value)
    # Beyond ASCII everything is escaped: YAML takes some characters for ends of line that JSON does not.
    return '"' + ''.join(_character(c) for c in checked(value)) + '"'


def _character(c: str) -> str:
    if ' ' <= c <= '~':
        return f'\\{c}' if c in '"\\' else c
    return f'\\u{ord(c):04x}' if ord(c) <= 0xFFFF else f'\\U{ord(c):08x}'
