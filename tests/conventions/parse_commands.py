"""Parses commands of the documentation without running them; one JSON line per command.

Reads a JSON list of argument lists from standard input: ['run.py', ...] or ['gpt-jax', ...]. Each
is parsed in a forked process, since absl's flags are global.
"""

import argparse
import importlib
import io
import json
import os
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout

import run
from gpt_jax.cli.arguments import CommandParser
from gpt_jax.cli.main import COMMANDS
from gpt_jax.core import config_cli
from gpt_jax.core.config import parse_config, to_raw


def parse_run(words: list[str]) -> None:
    argv = ['run.py', *words]
    sys.argv = argv
    config_cli.parse_flags(argv)
    run._check_mode_flags()
    raw_config = to_raw(run._CONFIG.value)
    trials = config_cli.expand_trials(raw_config)
    for config in trials.values() if trials else (raw_config,):
        parse_config(config, vocab_size=1)


def parse_command(words: list[str]) -> None:
    module = importlib.import_module(f'gpt_jax.cli.{COMMANDS[words[0]][0]}')
    if words[0] != 'lm-eval':
        parser = CommandParser(prog=words[0], formatter_class=argparse.RawDescriptionHelpFormatter)
        module.add_arguments(parser)
        parser.parse_args(words[1:])


def parse(words: list[str]) -> str:
    """Returns '' or the error."""
    errors = io.StringIO()
    try:
        with redirect_stderr(errors), redirect_stdout(io.StringIO()):
            (parse_run if words[0] == 'run.py' else parse_command)(words[1:])
    except SystemExit as stop:
        return errors.getvalue() if stop.code else ''
    except Exception:
        return traceback.format_exc(limit=1)
    return ''


def main() -> None:
    for words in json.load(sys.stdin):
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.write(writer, json.dumps([words, parse(words)]).encode())
            os._exit(0)
        os.close(writer)
        with open(reader) as file:
            print(file.read())
        os.wait()


if __name__ == '__main__':
    main()
