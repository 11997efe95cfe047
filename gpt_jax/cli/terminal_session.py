"""Interactive session in the terminal: prompts or dialogue turns, /set and other commands."""

import io
import sys
from collections.abc import Callable, Mapping
from typing import Any

from gpt_jax.cli import text_output
from gpt_jax.core import interruption
from gpt_jax.core.errors import UserError
from gpt_jax.inference.chat_session import Dialogue
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.inference.options import OPTIONS, make_options, parse_option

HELP = """Write a prompt and press Enter; the model continues it. In `generate --interactive` every
prompt is independent; in `chat` each line is your next turn.
  /new                    in chat: start another dialogue
  /set temperature=0.8    change an option; /set temperature= resets it
  /set                    show the options
  /help                   show this text
  /quit, Ctrl-D           exit
Ctrl-C stops a text."""


def run_session(
    model: LanguageModel,
    options: Mapping[str, Any],
    log: Callable[[str], None],
    dialogue: Dialogue | None = None,
) -> None:
    """Read lines from standard input to its end; print texts, and pass everything else to `log`.

    Args:
      model: generates the texts.
      options: initial generation options, by name.
      log: receives lines for the user.
      dialogue: receives the lines as turns; None: every line is an independent prompt.
    """
    options, count = dict(options), 0
    if isinstance(sys.stdin, io.TextIOWrapper):
        # An undecodable byte makes only its own line fail.
        sys.stdin.reconfigure(errors='surrogateescape')
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if is_terminal:
        import readline  # noqa: F401 - gives `input` editing and history

        log('/help lists the commands')
    while True:
        try:
            line = input('> ' if is_terminal else '')
        except EOFError:
            return
        except KeyboardInterrupt:
            interruption.acknowledge()
            log('')
            continue
        if line.strip() == '/quit':
            return
        try:
            _check_encoding(line)
            if line.strip() == '/new' and dialogue is not None:
                dialogue.turns = []
            elif line.startswith('/'):
                options = run_line_command(line, options, log)
            elif line.strip():
                seeded = {'seed': count} | options  # repeating a prompt gives another sample
                if dialogue is not None:
                    dialogue.answer(line.strip(), seeded)
                else:
                    text_output.print_texts(model, [line], make_options(seeded))
                count += 1
        except KeyboardInterrupt:
            interruption.acknowledge()
            print(flush=True)
        except UserError as error:
            log(str(error))


def _check_encoding(line: str) -> None:
    undecodable = next((c for c in line if '\ud800' <= c <= '\udfff'), None)
    if undecodable is not None:
        raise UserError(
            f'byte 0x{ord(undecodable) & 0xFF:02x} after {line.index(undecodable)} characters is '
            f'not {sys.stdin.encoding}; write the line again'
        )


def run_line_command(
    line: str, options: dict[str, Any], log: Callable[[str], None]
) -> dict[str, Any]:
    """Run a line that begins with a slash, and return the options after it.

    Raises:
      UserError: the command, option or value is unknown.
    """
    word, _, rest = line.strip().partition(' ')
    name, equals, value = (part.strip() for part in rest.partition('='))
    if word == '/help':
        log(HELP)
    elif word == '/set' and not rest:
        for key, (default, text) in OPTIONS.items():
            log(f'  {key}={options.get(key, default)}    {text}')
    elif word == '/set' and equals:
        changed = {key: old for key, old in options.items() if key != name}
        if value or name not in OPTIONS:
            changed[name] = parse_option(name, value)
        make_options(changed)
        return changed
    else:
        raise UserError(f'{line.strip()}: no such command; /help lists them')
    return options
