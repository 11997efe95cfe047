"""The interactive session of `gpt-jax generate --interactive` and `gpt-jax chat`."""

import argparse
import io
import json
import signal
import subprocess
import sys

import pytest

from gpt_jax.cli import generate, terminal_session
from gpt_jax.core.errors import UserError
from gpt_jax.inference.options import OPTIONS
from tests import in_process, program, trained


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return trained.folder(tmp_path_factory.mktemp('runs') / 'run')


def command(name, model, *flags):
    return [sys.executable, '-m', 'gpt_jax', name, str(model), *flags]


@pytest.mark.usefixtures('hearing')
def test_ctrl_c_stops_a_text_and_the_session_continues(run):
    flags = command(
        'generate',
        run,
        '--interactive',
        '--context_overflow=sliding_window',
        '--max_new_tokens=10000000',
    )
    process = subprocess.Popen(
        flags,
        cwd=program.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b'Hello\n')
    process.stdin.flush()
    begun = process.stdout.read(300)
    assert begun.startswith(b'Hello')
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(
        b'/set temprature=1\ncaf\xe9 x\n/set max_new_tokens=5\nBye\n', timeout=120
    )
    assert process.returncode == 0, err
    assert 'byte 0xe9 after 3 characters is not utf-8; write the line again\n' in err.decode()
    assert 'temprature: no such option' in err.decode()
    last = (begun + out).split(b'\n')[-2]
    assert last.startswith(b'Bye')
    assert len(last.decode(errors='replace')) <= 8


def test_new_starts_another_dialogue(run, monkeypatch):
    said = 'hello\nmore\n/new\nhello\n/set temprature=1\n'
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(said.encode()), 'utf-8'))
    out, err = in_process.run(command('chat', run, '--max_new_tokens=8'))
    assert 'temprature: no such option' in err
    assert len(out) > 2


def test_dialogues_of_a_file_are_answered(run, tmp_path):
    turns = [{'role': 'user', 'content': 'hello'}]
    rows = [{'id': 1, 'messages': turns}, {'messages': [*turns, *turns]}]
    (tmp_path / 'in.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    flags = [f'--prompts={tmp_path}/in.jsonl', '--max_new_tokens=8']
    out, _ = in_process.run(command('chat', run, *flags))
    answered = [json.loads(line) for line in out.splitlines()]
    assert [row['messages'][:-1] for row in answered] == [row['messages'] for row in rows]
    assert all(row['messages'][-1]['role'] == 'assistant' for row in answered)
    assert answered[0]['id'] == 1
    in_process.run(command('chat', run, *flags, f'--output={tmp_path}/out.jsonl'))
    assert (tmp_path / 'out.jsonl').read_text() == out


@pytest.mark.parametrize(
    ('row', 'message'),
    [
        ({'messages': 'hello'}, 'in.jsonl:1: messages: must be a list'),
        ({'messages': []}, 'in.jsonl:1: messages: must be a list'),
        ({'messages': [{'role': 'assistant', 'content': 'x'}]}, 'ends with a user turn'),
        ({'prompt': 'x'}, 'in.jsonl:1: messages: must be a list'),
    ],
)
def test_bad_dialogues_are_one_line(tmp_path, row, message):
    (tmp_path / 'in.jsonl').write_text(json.dumps(row) + '\n')
    _, err = in_process.run(command('chat', 'nowhere', f'--prompts={tmp_path}/in.jsonl'), code=2)
    assert message in err
    assert err.count('\n') == 1


def test_stop_strings_are_unescaped_in_arguments_and_in_the_session():
    parser = argparse.ArgumentParser()
    generate.add_generation_arguments(parser)
    arguments = parser.parse_args([r'--stop=a\n', '--stop=b', r'--stop=\\n'])
    assert generate.parse_generation_arguments(arguments) == {'stop': ['a\n', 'b', '\\n']}
    options = terminal_session.run_line_command(r'/set stop=a\n', {}, print)
    assert options == {'stop': ('a\n',)}


def test_line_commands_change_options():
    said = []
    given = terminal_session.run_line_command('/set temperature=0.5', {'top_k': 3}, said.append)
    assert given == {'top_k': 3, 'temperature': 0.5}
    assert terminal_session.run_line_command('/set stop=a\\n', given, said.append)['stop'] == (
        'a\n',
    )
    assert terminal_session.run_line_command('/set top_k=', given, said.append) == {
        'temperature': 0.5
    }
    assert terminal_session.run_line_command('/help', given, said.append) == given
    assert '/set temperature=0.8' in said[-1]
    terminal_session.run_line_command('/set', given, said.append)
    assert '  temperature=0.5 ' in said[-len(OPTIONS) + 6]
    for bad in ('/st', '/set temperature', '/set top_k=-1', '/set x='):
        with pytest.raises(UserError):
            terminal_session.run_line_command(bad, given, said.append)
