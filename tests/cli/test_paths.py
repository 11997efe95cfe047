"""Paths in flags and config fields: `~`, spaces, and what a launcher passes on."""

import argparse
import importlib
import json
import shlex
import subprocess

import pytest

from gpt_jax.cli import main as cli
from gpt_jax.cli.arguments import parse_path
from tests import in_process, program
from tests.scaling import synthetic

PATH_WORDS = {'MODEL', 'DATA', 'RUN', 'OUTPUT', 'PATH', 'FILE', 'FOLDER', 'LEDGER', 'A', 'B'}
# SOURCE of `eval --corpus` is 'files:GLOB', whose ~ is that of its globs.
SOURCES = {('import', 'SOURCE')}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path / 'a home'))
    (tmp_path / 'a home').mkdir()
    return tmp_path / 'a home'


@pytest.mark.parametrize('name', [name for name in cli.COMMANDS if name != 'lm-eval'])
def test_every_path_of_a_command_is_parsed_as_one(name):
    parser = argparse.ArgumentParser()
    importlib.import_module(f'gpt_jax.cli.{cli.COMMANDS[name][0]}').add_arguments(parser)
    for action in parser._actions:
        is_path = action.metavar in PATH_WORDS or (name, action.metavar) in SOURCES
        assert (action.type is parse_path) == is_path, action


def test_commands_read_and_write_in_the_home_folder(home, capsys):
    synthetic.write_csv(home / 'the runs.csv', synthetic.rows(synthetic.isoflop()))
    flags = ['--draws=0', '--starts=4', '--json=~/numbers.json']
    cli.main(['fit', '~/the runs.csv', *flags])
    assert json.loads((home / 'numbers.json').read_text())['data']
    capsys.readouterr()
    for word, message in (
        (
            '--json=~nobody_of_this_name/x',
            'path=~nobody_of_this_name/x: must start with an existing',
        ),
        ('--json=', "argument --json: must be a path, got ''"),
    ):
        with pytest.raises(SystemExit):
            cli.main(['fit', '~/the runs.csv', word])
        assert message in capsys.readouterr().err


def test_a_run_in_the_home_folder(home):
    (home / 'texts').mkdir()
    (home / 'texts/a b.txt').write_text('some words and more of them. ' * 400)
    (home / 'config.py').write_text('from configs.gpt_tiny import get_config\n')
    fields = {
        'config': '~/config.py',
        'config.data.source': 'files:~/texts/a b.txt',
        'config.data.holdout': 'tail',
        'config.data.tokenizer': 'bytes',
        'config.data.cache': '~/the cache',
        'config.train.steps': 2,
        'config.train.checkpoint_every': 0,
        'config.train.eval_every': 0,
    }
    in_process.run(in_process.command('~/runs/a run', **fields))
    run = home / 'runs/a run'
    assert (run / 'summary.json').exists()
    assert (home / 'the cache').is_dir()
    assert json.loads((run / 'config.json').read_text())['data']['cache'] == '~/the cache'
    more = fields | {'config.init_from': '~/runs/a run', 'config.train.steps': 1}
    _, err = in_process.run(in_process.command('~/runs/more', **more))
    assert f'begins with the weights of {run}' in err
    assert not (program.ROOT / '~').exists()


def test_another_machine_expands_the_home_folder_itself(home):
    options = [f'--launch_option={key}=~/my {key}' for key in ('folder', 'python', 'config')]
    words = program.command('~/runs/x', **{'config.data.cache': '~/cache'})
    out, _ = in_process.run([*words, '--launch=ssh', '--nodes=alpha', '--dry_run', *options])
    command = shlex.split(out)
    assert command[command.index('-F') + 1] == f'{home}/my config'
    script = shlex.split(command[-1])[-1]
    assert "cd ~/'my folder' || exit" in script
    assert "~/'my python' run.py" in script
    assert '--workdir=~/runs/x' in script
    assert '--config.data.cache=~/cache' in script
    (home / 'my folder').mkdir()
    line = script.partition('\n')[0]
    shown = subprocess.run(['sh', '-c', f'{line}\npwd'], capture_output=True, text=True)
    assert shown.stdout == f'{home}/my folder\n'
