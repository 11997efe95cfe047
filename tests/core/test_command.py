"""The frame of every command: one line and an exit code."""

import os
import subprocess
import sys

import pytest

from gpt_jax.core import command, errors


@pytest.mark.parametrize(
    ('error', 'code'),
    [
        (errors.UserError('config.model.width: must be positive'), 2),
        (errors.Diverged('10 steps'), 3),
        (errors.OutOfMemory('full'), 4),
        (errors.DiskFull('/x: no space'), 5),
        (OSError(28, 'No space left on device', '/x'), 5),
        (errors.Preempted('saved'), 75),
        (FileNotFoundError(2, 'No such file or directory', 'x.csv'), 2),
    ],
)
def test_errors_become_a_line_and_a_code(error, code, capsys):
    def fail():
        raise error

    with pytest.raises(SystemExit) as stop:
        command.run_command('gpt-jax fit', fail)
    assert stop.value.code == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith('gpt-jax fit: ')


def test_other_errors_keep_their_traceback():
    def fail():
        raise KeyError('a bug')

    with pytest.raises(KeyError):
        command.run_command('gpt-jax fit', fail)


@pytest.mark.parametrize(
    ('arguments', 'code', 'words'),
    [
        (['--help'], 0, 'usage: gpt-jax COMMAND'),
        ([], 2, 'usage: gpt-jax COMMAND'),
        (['--version'], 0, '.'),
        (['fitt'], 2, "'fitt': no such command; the nearest is 'fit'"),
        (['fit'], 2, 'the following arguments are required: DATA; see --help'),
        (['plan', '--help'], 0, '--isoflop'),
    ],
)
def test_the_program_finds_its_commands(arguments, code, words):
    result = subprocess.run(
        [sys.executable, '-m', 'gpt_jax', *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {'COLUMNS': '100'},
    )
    assert result.returncode == code
    assert words in result.stdout + result.stderr


@pytest.mark.parametrize(
    ('line', 'code'),
    [
        ('pass', 0),
        ('sys.exit(None)', 0),
        ('raise errors.Diverged("10 steps")', 3),
        ('sys.exit("a text")', 1),
        ('1 / 0', 1),
    ],
)
def test_a_process_ends_after_its_exit_callbacks_with_its_code(line, code):
    """It does not take Python's modules apart, but loses nothing of what they print."""
    script = (
        'import atexit, sys, threading, time\n'
        'from gpt_jax.core import command, errors, interruption\n'
        'interruption.install("x")\n'
        'atexit.register(lambda: print("callback", end=""))\n'
        'def act():\n'
        '    threading.Thread(target=lambda: (time.sleep(.1), print("thread"))).start()\n'
        f'    {line}\n'
        'command.run_command("x", act)\n'
    )
    result = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
    assert result.returncode == code
    assert result.stdout == 'thread\ncallback'
