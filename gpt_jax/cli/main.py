"""Entry point of `gpt-jax COMMAND`, which finds and runs the file of the command.

Each command is one file in this folder with `add_arguments(parser)` and `run(arguments)`; its
module docstring is its help. Only the file of the given command is imported, so that commands
without JAX start at once.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

import gpt_jax
from gpt_jax.cli.arguments import CommandParser
from gpt_jax.core import command, config_fields, errors, interruption

# Command: (its module in this folder, what it does in a few words).
COMMANDS = {
    'generate': ('generate', 'write text with a model'),
    'chat': ('chat', 'chat with a model in the terminal'),
    'import': ('import_', 'turn Hugging Face weights into a run folder'),
    'export': ('export', 'write a run as a Hugging Face or PEFT folder'),
    'eval': ('eval', 'score a model on tasks, text, bias, repetition and memorization'),
    'lm-eval': ('lm_eval', "run lm-evaluation-harness's own command on a model"),
    'fit': ('fit', 'fit a scaling law to runs'),
    'plan': ('plan', 'plan a model, an isoFLOP sweep or a trunk with cooldowns'),
    'forecast': ('forecast', 'predict the loss of a run in advance and record it in a ledger'),
    'backtest': ('backtest', 'measure how good forecasts would have been on your own runs'),
    'verify': ('verify', 'score the forecasts of a ledger against finished runs'),
    'compare': ('compare', 'measure how much compute one recipe saves over another'),
    'report': ('report', 'write one HTML file with the law, the figures and every run'),
}

# What run.py does, by the words that are tried here.
RUN_COMMANDS = {
    'train': '',
    'evaluate': '--mode=evaluate',
    'benchmark': '--mode=benchmark',
    'coord_check': '--mode=coord_check',
    'preflight': '--mode=preflight',
    'launch': '--launch=LAUNCHER',
}
SCALING_COMMANDS = ('fit', 'plan', 'forecast', 'backtest', 'verify', 'compare', 'report')


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; errors become one line and an exit code (core/command.py)."""
    if argv is None:  # this is the process's own command
        interruption.install('gpt-jax')
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ('-h', '--help', 'help'):
        print(describe_commands())
        sys.exit(0 if words else errors.EXIT_BAD_INPUT)
    if words[0] == '--version':
        print(gpt_jax.__version__)
        return
    name = words[0]
    if name not in COMMANDS:
        hint = config_fields.nearest(name, COMMANDS)
        if name in RUN_COMMANDS:
            hint = f'; use python run.py --config=FILE {RUN_COMMANDS[name]}'
        command.log(f'gpt-jax: {name!r}: no such command{hint}; gpt-jax --help lists them')
        sys.exit(errors.EXIT_BAD_INPUT)
    if name in SCALING_COMMANDS:
        # Before NumPy is imported: the fits are many small products, which BLAS threads slow down.
        os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
    module = importlib.import_module(f'gpt_jax.cli.{COMMANDS[name][0]}')
    if name == 'lm-eval':  # its arguments are parsed by lm_eval itself
        command.run_command('gpt-jax lm-eval', lambda: module.run(words[1:]))
        return
    parser = CommandParser(
        prog=f'gpt-jax {name}',
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    arguments = parser.parse_args(words[1:])
    command.run_command(parser.prog, lambda: module.run(arguments))


def describe_commands() -> str:
    """Return the text of `gpt-jax --help`."""
    lines = [f'  {name:10s} {text}' for name, (_, text) in COMMANDS.items()]
    return '\n'.join(
        [
            'usage: gpt-jax COMMAND [ARGUMENTS]',
            '',
            'For checkpoints, records and plans; `python run.py --config=...` trains.',
            '',
            *lines,
            '',
            'gpt-jax COMMAND --help lists its arguments, with examples. Exit codes: 0 done;',
            '2 bad input; 3 a check failed; 4 out of memory; 5 disk full; 75 interrupted, run it',
            'again; 141 the output pipe was closed.',
        ]
    )
