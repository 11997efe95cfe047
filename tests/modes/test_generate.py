"""Does --mode=generate write text and nothing but text, records in order, and talk with a person?"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import gpt_jax
from gpt_jax.errors import UserError
from gpt_jax.generate import options
from gpt_jax.generate.writer import Text, Update
from gpt_jax.modes import conversation, generate, texts
from tests import program, trained


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return trained.folder(tmp_path_factory.mktemp('runs') / 'run')


@pytest.fixture(scope='module')
def model(run):
    return gpt_jax.load(run)


def command(run, *flags):
    return [sys.executable, 'run.py', '--mode=generate', f'--checkpoint={run}', *flags]


def test_text_and_nothing_but_text(run, model):
    out, err = program.run(command(run, '--prompt=The weather today is', '--max_length=50', '--num_return_sequences=1'))
    assert out == model.generate('The weather today is', max_length=50)[0].text + '\n'
    assert err == ''


def test_records_of_a_file(run, tmp_path):
    (tmp_path / 'prompts.txt').write_text('one\n\nand two\n')
    flags = [f'--prompts={tmp_path}/prompts.txt', f'--output={tmp_path}/out.jsonl', '--max_new_tokens=9', '--top_p=0.9',
             '--num_return_sequences=2', '--draft=lookup']  # fmt: skip
    out, err = program.run(command(run, *flags))
    assert out == ''
    assert 'tokens proposed' in err
    records = [json.loads(line) for line in (tmp_path / 'out.jsonl').read_text().splitlines()]
    assert [record['prompt'] for record in records] == ['one', 'one', 'and two', 'and two']
    for record in records:
        assert set(record) == {'prompt', 'text', 'continuation', 'tokens', 'log_probabilities', 'finish_reason', 'seed'}
        assert len(record['tokens']) == len(record['log_probabilities'])
        assert record['text'] == record['prompt'] + record['continuation']


@pytest.mark.usefixtures('hearing')
def test_a_person_asks_stops_a_text_and_goes_on(run):
    flags = command(run, '--interactive', '--overflow=slide', '--max_new_tokens=10000000')
    process = subprocess.Popen(
        flags, cwd=program.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b'Hello\n')
    process.stdin.flush()
    begun = process.stdout.read(300)
    assert begun.startswith(b'Hello')
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(b'/set temprature=1\ncaf\xe9 x\n/set max_new_tokens=5\nBye\n', timeout=120)
    assert process.returncode == 0, err
    assert 'byte 0xe9, after 3 characters, is not utf-8; write the line again\n' in err.decode()
    assert 'temprature: no such option' in err.decode()
    last = (begun + out).split(b'\n')[-2]
    assert last.startswith(b'Bye')
    assert len(last.decode(errors='replace')) <= 8


def test_a_dialogue_goes_on_until_another_begins(run):
    flags = command(run, '--chat', '--max_new_tokens=8')
    said = 'hello\nmore\n/new\nhello\n/set temprature=1\n'
    found = subprocess.run(flags, cwd=program.ROOT, input=said, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    assert 'temprature: no such option' in found.stderr
    assert len(found.stdout) > 2


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        ([], '--mode=generate: no prompt; give one of'),
        (['--prompt=x', '--interactive'], '--mode=generate: --prompt and --interactive; give one of'),
        (['--prompt=x', '--chat'], '--mode=generate: --prompt and --chat; give one of'),
        (['--interactive', '--output=x.jsonl'], '--output: what is written at the terminal stays there'),
        (['--prompts=x.csv'], '--prompts=x.csv: write .txt'),
        (['--prompts=missing.txt'], 'missing.txt: No such file or directory'),
        (['--prompt=x', '--devices=3x'], '--devices=3x: wants a number'),
        (['--prompt=x', '--output=no/such/folder.jsonl'], '--output=no/such/folder.jsonl: there is no such folder'),
        (['--prompt=x', '--draft=lookup', '--num_beams=2'], 'num_beams: beams take no draft'),
        (['--prompt=x', '--top_k=some'], "top_k: cannot be 'some'"),
        (['--prompt=x', '--top_q=1'], "--top_q: no such flag; the nearest is 'top_p'"),
        (['--prompt=x', '--dtype=float16'], '--dtype: belongs to --mode=export, not to --mode=generate'),
        (['--prompt=x'], 'checkpoint=nowhere: no such folder, and the hub does not give it'),
        (['--prompt=x', '--checkpoint='], '--checkpoint=: is empty; '),
        (['--prompt=x', '--checkpoint=a\n\x1b[2J'], r'a\n\x1b[2J: holds no checkpoint'),
    ],
    ids=str,
)
def test_bad_flags_are_one_line(flags, message):
    out, err = program.run(command('nowhere', *flags), code=2)
    assert out == ''
    assert err.startswith(f'run.py: {message}')
    assert err.count('\n') == 1


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('a.jsonl', '{"text": "x"}\n', 'record 1 has no string "prompt"'),
        ('a.jsonl', 'x\n{}\n', r'a.jsonl:1: not a JSON object'),
        ('a.txt', '\n \n', 'holds no prompt'),
        ('a.txt', b'\xff', 'byte 0 is not UTF-8'),
    ],
)
def test_bad_files_are_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        generate._read(tmp_path / name)


def test_prompts_of_files(tmp_path):
    (tmp_path / 'a.jsonl').write_text('{"prompt": "one\\ntwo", "more": 1}\n{"prompt": "x"}\n')
    assert generate._read(tmp_path / 'a.jsonl') == ['one\ntwo', 'x']
    (tmp_path / 'a.txt').write_bytes('one\u2028two\x0cthree\rfour\r\n\r\n five \n\x85six'.encode())
    assert generate._read(tmp_path / 'a.txt') == ['one\u2028two\x0cthree\rfour', ' five ', '\x85six']


def update(number, piece, last=False):
    return Update(number, piece, Text('', '', '', (), (), 'length', 0) if last else None)


def test_texts_come_one_after_the_other():
    updates = [update(1, 'b1'), update(0, 'a1'), update(2, 'c', True), update(0, 'a2'), update(0, '', True),
               update(1, 'b2'), update(1, 'b3', True)]  # fmt: skip
    pieces = list(texts.in_turn(updates, ['A', 'B', 'C']))
    assert ''.join(pieces) == 'Aa1a2\n\nBb1b2b3\n\nCc\n'
    assert pieces.index('a1') < pieces.index('a2')  # as it came, not at its end


class Deserted:
    """Writes two texts; the pipe `reader` is closed between them."""

    def __init__(self, reader):
        self.reader = reader

    def write(self, *_, **__):
        yield update(0, 'a', True)
        os.close(self.reader)
        yield update(1, 'b', True)


def test_where_nobody_reads_on_it_ends_quietly(monkeypatch):
    for show in (True, False):
        reader, writer = os.pipe()
        with open(writer, 'w') as into, monkeypatch.context() as patched:
            patched.setattr('sys.stdout', into)
            if show:
                texts.show(Deserted(reader), ['A', 'B'], options.make({}))
                print('this goes nowhere', flush=True)
            else:
                assert not texts.record(Deserted(reader), ['A', 'B'], options.make({}), Path(f'/dev/fd/{writer}'))


def test_a_full_disk_is_one_line(model, monkeypatch):
    chosen = options.make({'max_new_tokens': 5})
    with pytest.raises(UserError, match=r'^--output=/dev/full: No space left on device'):
        texts.record(model, ['a'], chosen, Path('/dev/full'))
    with open('/dev/full', 'w') as into, monkeypatch.context() as patched:
        patched.setattr('sys.stdout', into)
        with pytest.raises(UserError, match=r'^standard output: No space left on device'):
            texts.show(model, ['a'], chosen)


def test_a_flags_stop_strings_are_read_as_a_persons(monkeypatch):
    values = dict.fromkeys(options.OPTIONS) | {'stop': [r'a\n', 'b', r'\\n']}
    monkeypatch.setattr(generate.flags, 'FLAGS', {name: SimpleNamespace(value=value) for name, value in values.items()})
    assert generate.given_options() == {'stop': ['a\n', 'b', '\\n']}
    said = conversation.command(r'/set stop=a\n', {}, print)
    assert said == {'stop': ('a\n',)}


def test_commands_of_a_person():
    said = []
    given = conversation.command('/set temperature=0.5', {'top_k': 3}, said.append)
    assert given == {'top_k': 3, 'temperature': 0.5}
    assert conversation.command('/set stop=a\\n', given, said.append)['stop'] == ('a\n',)
    assert conversation.command('/set top_k=', given, said.append) == {'temperature': 0.5}
    assert conversation.command('/help', given, said.append) == given
    assert '/set temperature=0.8' in said[-1]
    conversation.command('/set', given, said.append)
    assert '  temperature=0.5 ' in said[-len(options.OPTIONS) + 6]
    for bad in ('/st', '/set temperature', '/set top_k=-1', '/set x='):
        with pytest.raises(UserError):
            conversation.command(bad, given, said.append)
