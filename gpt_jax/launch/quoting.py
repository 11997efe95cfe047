"""Script templates, and quoting of arguments for shells, Slurm, Kubernetes and YAML."""

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gpt_jax.core.errors import UserError

# Keys that YAML reads as text without quotes; shorter ones may have a meaning, such as yes or null.
UNQUOTED_KEY = '[A-Za-z][A-Za-z0-9]{5,}|env|kind|name|spec'
ENV_NAME = r'[A-Za-z_][A-Za-z0-9_]*'


def render_script(name: str, /, **values: object) -> str:
    """Render the template templates/NAME.j2. Values are inserted unquoted."""
    import jinja2  # here, because only commands that launch need it

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader('gpt_jax.launch'),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        autoescape=False,
    )
    return environment.get_template(f'{name}.j2').render(values)


def join_words(argv: Iterable[str]) -> str:
    """Join arguments into one line that every POSIX shell splits back into the same arguments.

    Raises:
      UserError: an argument contains NUL or is not valid Unicode.
    """
    return shlex.join([check_argument(word) for word in argv])


def join_remote_command(argv: Sequence[str]) -> str:
    """Join a command for a shell on another machine, where ~ of the program is the home folder.

    Raises:
      UserError: an argument contains NUL or is not valid Unicode.
    """
    return f'{quote_remote_path(argv[0])} {join_words(argv[1:])}'


def quote_remote_path(path: str) -> str:
    """Quote a path on another machine, except for a leading ~ or ~USER, which its shell expands.

    Raises:
      UserError: the path contains NUL or is not valid Unicode.
    """
    home = re.match(r'~[A-Za-z0-9_.-]*(/|$)', check_argument(path))
    start = home[0] if home else ''
    rest = path.removeprefix(start)
    return start + (shlex.quote(rest) if rest else '')


def check_argument(word: str) -> str:
    """Return the argument unchanged.

    Raises:
      UserError: a command line cannot contain it.
    """
    if '\0' in word:
        raise UserError(f'{word!r}: contains a NUL character, which no command line can contain')
    try:
        word.encode()
    except UnicodeEncodeError:
        raise UserError(f'{word!r}: is not valid Unicode; rename it') from None
    return word


def export_lines(env: Mapping[str, str]) -> list[str]:
    """Return shell lines that set environment variables.

    Raises:
      UserError: a name is not valid for an environment variable.
    """
    check_env_names(env)
    return [f'export {name}={shlex.quote(check_argument(value))}' for name, value in env.items()]


def check_env_names(names: Iterable[str]) -> None:
    """Raise UserError for a name that is not valid for an environment variable."""
    for name in names:
        if not re.fullmatch(ENV_NAME, name):
            raise UserError(
                f'--launch_option=env.{name}: is not a valid name for an environment variable; '
                'use letters, digits and _'
            )


def check_plain(value: str, option: str) -> str:
    """Return the value if it needs no quoting; for formats with rules of their own (#SBATCH lines).

    Raises:
      UserError: the value contains other characters.
    """
    if not re.fullmatch(r'[A-Za-z0-9._:,/=+@*\[\]&|-]+', value):
        raise UserError(
            f'--launch_option={option}: must contain only letters, digits and '
            f'. _ : , / = + @ * [ ] & | -, got {value!r}'
        )
    return value


def escape_kubernetes(word: str) -> str:
    """Escape a word of a container's command, where $(NAME) is replaced and $$ means $."""
    return check_argument(word).replace('$', '$$')


def to_yaml(value: Any, indent: int = 0) -> str:
    """Render nested dicts and lists as YAML, with every string in double quotes."""
    pad = ' ' * indent
    if isinstance(value, Mapping) and value:
        return ''.join(
            f'{pad}{_yaml_key(key)}:{_yaml_item(item, indent + 2)}' for key, item in value.items()
        )
    if isinstance(value, list | tuple) and value:
        blocks = [to_yaml(item, indent + 2) for item in value]
        # The first line of a block follows its dash instead of the indentation.
        nested = pad + '  '
        return ''.join(f'{pad}- {block.removeprefix(nested)}' for block in blocks)
    return f'{_yaml_scalar(value)}\n'


def _yaml_key(key: str) -> str:
    return key if re.fullmatch(UNQUOTED_KEY, key) else _yaml_scalar(key)


def _yaml_item(value: Any, indent: int) -> str:
    text = to_yaml(value, indent)
    return f'\n{text}' if isinstance(value, Mapping | list | tuple) and value else f' {text}'


def _yaml_scalar(value: Any) -> str:
    if not isinstance(value, str):
        return json.dumps(value)
    # Everything but printable ASCII is escaped: YAML has line breaks that JSON does not have.
    return '"' + ''.join(_yaml_character(c) for c in check_argument(value)) + '"'


def _yaml_character(c: str) -> str:
    if ' ' <= c <= '~':
        return f'\\{c}' if c in '"\\' else c
    return f'\\u{ord(c):04x}' if ord(c) <= 0xFFFF else f'\\U{ord(c):08x}'
