"""`gpt-jax generate`: text on standard output, records in a file, one-line errors."""

import json
import sys

import pytest

import gpt_jax
from gpt_jax.cli import generate
from gpt_jax.core.errors import UserError
from tests import in_process, program, trained


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return trained.folder(tmp_path_factory.mktemp('runs') / 'run')


@pytest.fixture(scope='module')
def model(run):
    return gpt_jax.load(run)


def command(model, *flags):
    return [sys.executable, '-m', 'gpt_jax', 'generate', str(model), *flags]


def test_prints_the_text_and_nothing_else(run, model):
    out, err = program.run(
        command(run, '--prompt=The weather today is', '--max_length=50', '--num_return_sequences=1')
    )
    assert out == model.generate('The weather today is', max_length=50)[0].text + '\n'
    assert err == ''


def test_records_are_written_in_order(run, tmp_path):
    (tmp_path / 'prompts.txt').write_text('one\n\nand two\n')
    flags = [
        f'--prompts={tmp_path}/prompts.txt',
        f'--output={tmp_path}/out.jsonl',
        '--max_new_tokens=9',
        '--top_p=0.9',
        '--num_return_sequences=2',
        '--draft=lookup',
    ]
    out, err = in_process.run(command(run, *flags))
    assert out == ''
    assert 'tokens proposed' in err
    records = [json.loads(line) for line in (tmp_path / 'out.jsonl').read_text().splitlines()]
    assert [record['prompt'] for record in records] == ['one', 'one', 'and two', 'and two']
    for record in records:
        assert set(record) == {
            'prompt',
            'text',
            'continuation',
            'tokens',
            'log_probabilities',
            'finish_reason',
            'seed',
        }
        assert len(record['tokens']) == len(record['log_probabilities'])
        assert record['text'] == record['prompt'] + record['continuation']


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        ([], 'one of the arguments --prompt --prompts --interactive is required'),
        (['--prompt=x', '--interactive'], 'not allowed with argument --prompt'),
        (['--interactive', '--output=x.jsonl'], '--output: not with --interactive'),
        (['--prompts=x.dat'], '--prompts=x.dat: name must end in .txt, .md, '),
        (['--prompts=missing.txt'], 'missing.txt: cannot be read (No such file or directory)'),
        (['--prompt=x', '--devices=3x'], 'must be DATA[xFSDP[xTENSOR]], such as 2x4'),
        (['--prompt=x', '--output=no/such/folder.jsonl'], '--output=no/such/folder.jsonl: no such'),
        (['--prompt=x', '--draft=lookup', '--num_beams=2'], 'num_beams: '),
        (['--prompt=x', '--top_k=some'], 'top_k: '),
        (['--prompt=x', '--top_q=1'], 'unrecognized arguments: --top_q=1'),
        (['--prompt=x', '--weight_dtype=int5'], "invalid choice: 'int5'"),
        (['--prompt=x'], 'nowhere: no such folder, and the download from the hub failed'),
    ],
    ids=str,
)
def test_bad_arguments_are_one_line(flags, message):
    out, err = in_process.run(command('nowhere', *flags), code=2)
    assert out == ''
    assert err.startswith('gpt-jax generate: ')
    assert message in err
    assert err.count('\n') == 1


def test_control_characters_in_a_name_are_escaped():
    _, err = in_process.run(command('a\n\x1b[2J', '--prompt=x'), code=2)
    assert r'a\n\x1b[2J: ' in err


def test_dashes_and_underscores_are_the_same(run, model):
    out, _ = in_process.run(command(run, '--prompt=Once', '--max-new-tokens=5'))
    assert out == model.generate('Once', max_new_tokens=5)[0].text + '\n'


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('a.jsonl', '{"text": "x"}\n', 'a.jsonl:1: must have text in the column "prompt"'),
        ('a.jsonl', 'x\n{}\n', r'a.jsonl:1: not JSON'),
        ('a.txt', '\n \n', 'contains no prompt'),
        ('a.txt', b'\xff', 'not UTF-8 at byte 0'),
    ],
)
def test_a_bad_file_of_prompts_is_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        generate.read_prompts(tmp_path / name)


def test_prompts_are_read_from_files(tmp_path):
    (tmp_path / 'a.jsonl').write_text('{"prompt": "one\\ntwo", "more": 1}\n{"prompt": "x"}\n')
    assert generate.read_prompts(tmp_path / 'a.jsonl') == ['one\ntwo', 'x']
    (tmp_path / 'a.txt').write_bytes('one\u2028two\x0cthree\rfour\r\n\r\n five \n\x85six'.encode())
    assert generate.read_prompts(tmp_path / 'a.txt') == [
        'one\u2028two\x0cthree\rfour',
        ' five ',
        '\x85six',
    ]
    (tmp_path / 'b.txt').write_text('one\ntwo', 'utf-8-sig')
    assert generate.read_prompts(tmp_path / 'b.txt') == ['one', 'two']
    (tmp_path / 'a.csv').write_text('number,prompt\n1,"a\nb"\n', 'utf-16')
    assert generate.read_prompts(tmp_path / 'a.csv') == ['a\nb']
