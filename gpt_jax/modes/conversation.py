"""How does a person at the terminal try prompts on a model? Line by line, with options that change between them."""

import io
import sys
from collections.abc import Callable, Mapping
from typing import Any

from gpt_jax.errors import UserError
from gpt_jax.generate import options
from gpt_jax.generate.options import OPTIONS
from gpt_jax.language_model import LanguageModel
from gpt_jax.modes import texts
from gpt_jax.modes.dialogue import Dialogue

HELP = """Write a prompt and press Enter; the model goes on from it. Each prompt stands for itself; with --chat it is
your turn in a dialogue, which the model answers.
  /new                    with --chat: begin another dialogue
  /set temperature=0.8    change an option; /set temperature= takes it back
  /set                    show the options
  /help                   this
  /quit, Ctrl-D           leave
Ctrl-C stops a text."""


def converse(
    model: LanguageModel, given: Mapping[str, Any], say: Callable[[str], None], dialogue: Dialogue | None = None
) -> None:
    """Reads lines from standard input to its end. Texts go to standard output, all else to `say`.

    Args:
      dialogue: whose turns the lines are; None: each line is a prompt that stands for itself.
    """
    given, asked = dict(given), 0
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors='surrogateescape')  # bytes that are no text are refused with their line alone
    person = sys.stdin.isatty() and sys.stdout.isatty()
    if person:
        import readline  # noqa: F401 - gives `input` its editing and its history

        say('/help tells what can be done here')
    while True:
        try:
            line = input('> ' if person else '')
        except EOFError:
            return
        except KeyboardInterrupt:
            say('')
            continue
        if line.strip() == '/quit':
            return
        try:
            _check_text(line)
            if line.strip() == '/new' and dialogue is not None:
                dialogue.turns = []
            elif line.startswith('/'):
                given = command(line, given, say)
            elif line.strip() and dialogue is not None:
                dialogue.answer(line.strip(), {'seed': asked} | given)
                asked += 1
            elif line.strip():
                texts.show(model, [line], options.make({'seed': asked} | given))  # asked again, it writes another
                asked += 1
        except KeyboardInterrupt:
            print(flush=True)
        except UserError as error:
            say(str(error))


def _check_text(line: str) -> None:
    strange = next((c for c in line if '\ud800' <= c <= '\udfff'), None)
    if strange is not None:
        raise UserError(
            f'byte 0x{ord(strange) & 0xFF:02x}, after {line.index(strange)} characters, is not {sys.stdin.encoding}; '
            'write the line again'
        )


def command(line: str, given: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """The options after a line that begins with a slash.

    Raises:
      UserError: no such command, option or value.
    """
    word, _, rest = line.strip().partition(' ')
    name, equals, value = (part.strip() for part in rest.partition('='))
    if word == '/help':
        say(HELP)
    elif word == '/set' and not rest:
        for key, (default, text) in OPTIONS.items():
            say(f'  {key}={given.get(key, default)}    {text}')
    elif word == '/set' and equals:
        changed = {key: one for key, one in given.items() if key != name}
        if value or name not in OPTIONS:
            changed[name] = options.parsed(name, value)
        options.make(changed)
        return changed
    else:
        raise UserError(f'{line.strip()}: no such command; /help lists them')
    return given
