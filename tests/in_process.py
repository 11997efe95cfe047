"""run.py and gpt-jax in this process, for tests of what they do and not of their process.

The modules are imported already, so a small run takes about a quarter of the time that it takes in
a process of its own.
"""

import contextlib
import io
import itertools
import runpy
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from absl import flags

from gpt_jax.cli import main as cli
from gpt_jax.core import command as command_module
from gpt_jax.core import config_cli, errors, jax_setup
from gpt_jax.train.multihost import Preemption
from tests import program

# The first of the tests' eight devices. A process that is started with the same fields compiles the
# same programs, and continues such a run bitwise.
ONE_DEVICE = {'config.mesh.cpu_devices': 8, 'config.mesh.data': 1}


def command(workdir: Path | None, **fields: Any) -> list[str]:
    """`program.command` on the first of the tests' devices."""
    return program.command(workdir, **ONE_DEVICE | fields)


def run(arguments: list[str], code: int = 0) -> tuple[str, str]:
    """Run a command as `program.run` does, in this process.

    Assert its exit code, and return (standard output, standard error).
    """
    words = arguments[1:]  # without the interpreter
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(jax_setup, 'start_jax'),  # the tests have started it
    ):
        if words[0] == 'run.py':
            exit_code = _find_exit_code(lambda: _run_script(words))
        else:
            assert words[:2] == ['-m', 'gpt_jax']
            exit_code = _find_exit_code(lambda: cli.main(words[2:]))
    assert exit_code == code, f'exit code {exit_code}\n{out.getvalue()}\n{err.getvalue()}'
    return out.getvalue(), err.getvalue()


def run_until(arguments: list[str], step: int) -> None:
    """Run a training command as if a signal arrived during this update: it saves and ends."""
    answers = itertools.chain(itertools.repeat(False, step - 1), itertools.repeat(True))
    with mock.patch.object(Preemption, 'requested_on_any_process', side_effect=answers):
        run(arguments, errors.EXIT_RESUMABLE)


def _find_exit_code(action: Callable[[], None]) -> int:
    try:
        action()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def _run_script(argv: list[str]) -> None:
    with (
        contextlib.chdir(program.ROOT),
        mock.patch.object(sys, 'argv', argv),
        mock.patch.object(sys, 'path', sys.path.copy()),
        warnings.catch_warnings(),
    ):
        # From ml_collections, which loads the config file.
        warnings.filterwarnings('ignore', r'the load_module\(\) method', DeprecationWarning)
        before = set(flags.FLAGS)
        main = runpy.run_path('run.py', run_name='run')['main']
        own = set(flags.FLAGS) - before
        try:
            command_module.run_command('run.py', lambda: main(config_cli.parse_flags(argv)))
        finally:
            for name in list(flags.FLAGS):
                if name in own or name.startswith('config.'):
                    delattr(flags.FLAGS, name)
            flags.FLAGS.unparse_flags()
