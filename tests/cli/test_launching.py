"""`run.py --launch`: the command is passed on unchanged; local processes and workers."""

import json
import subprocess
import sys

import pytest

from gpt_jax.cli import launch
from gpt_jax.core import files
from tests import program

SWEEP = """
from configs import gpt_tiny

def get_config():
    config = gpt_tiny.get_config()
    config.name = 'four'
    config.sweep.trials = tuple({'name': f's{seed}', 'seed': seed} for seed in range(4))
    return config
"""


def quick(workdir, *more, **fields):
    return [*program.command(workdir, **fields), *more]


def test_other_arguments_are_passed_on_unchanged():
    rest = ['--config=a b.py', '--config.train.steps=5', '--trial', 'x', '--nodata']
    own = [
        '--launch=slurm',
        '--nodes',
        '4',
        '-processes=2',
        '--minutes=3',
        '--launch_option=a=b',
        '--launch_option',
        'mem=$x',
        '--dry_run',
        '--dry-run',
        '--workdir',
        '/w',
        '--job',
        'start',
        '--nodry_run',
    ]
    mixed = [
        word for pair in zip(own, [*rest, *[None] * len(own)], strict=False) for word in pair[:1]
    ]
    assert launch.remove_launch_flags([*mixed, *rest]) == rest
    assert launch.remove_launch_flags([*rest, *own]) == rest


def test_dry_run_prints_everything_and_does_nothing(tmp_path):
    nasty = 'files:it\'s "$HOME"; `id`.txt'
    workdir = tmp_path / 'a "run"; $x'
    out, _ = program.run(
        quick(
            workdir,
            '--launch=slurm',
            '--nodes=2',
            '--minutes=90',
            '--dry-run',
            **{'config.data.source': nasty},
        )
    )
    assert not workdir.exists()
    script = out.partition('#!/bin/bash')[2].partition('\n# /')[0]
    assert '#SBATCH --time=90' in script
    line = next(line for line in script.splitlines() if 'step.sh' in line)
    shown = ['bash', '-c', f'show() {{ printf "%s\\0" "$@"; }}; show {line.removesuffix("&")}']
    words = subprocess.run(shown, capture_output=True, text=True).stdout.split('\0')
    assert f'--config.data.source={nasty}' in words
    assert f'--workdir={workdir}' in words
    assert '--distributed=auto' in words
    assert not any('launch' in word and word.startswith('--') for word in words)


@pytest.mark.parametrize(
    ('more', 'words'),
    [
        (['--nodes=2'], '--nodes: needs --launch='),
        (['--launch=slurm', '--distributed=auto'], '--distributed: not with --launch'),
        (['--launch=slurm', '--processes=0'], '--processes: must be 1 or more, got 0'),
        (['--launch=slurm', '--launch_option=parition=x'], "the nearest is 'partition'"),
        (['--launch=slurm', '--nodes=a,b'], '--nodes: must be a number'),
        (['--launch=slurm', '--job=status'], 'no job was started from here'),
        (['--launch=local', '--nodes=2'], '--launch=ssh'),
        (['--launch=gke', '--workdir='], '--workdir=: must not be empty'),
        (['--launch=slurm', '--config.model.heads=3'], 'config.model.'),
        (['--launch=slurm', '--trial=nope'], '--trial=nope: no such trial'),
        (
            ['--launch=slurm', '--mode=preflight', '--topology=v5e:2x2'],
            '--launch: not with --mode=preflight',
        ),
        (['--trials=a'], '--trials: must be used with a sweep'),
    ],
)
def test_invalid_flags_are_one_line(tmp_path, more, words):
    _, err = program.run(quick(tmp_path / 'run', *more), code=2)
    assert words in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.slow  # tests/trainer/test_trainer.py has two processes too
def test_two_local_processes_train_one_model(tmp_path, source):
    fields = {'config.data.source': source, 'config.mesh.cpu_devices': 1, 'config.train.steps': 10}
    program.run(quick(tmp_path / 'run', '--launch=local', '--processes=2', **fields))
    assert program.summary(tmp_path / 'run')['processes'] == 2
    assert 'step 10/10' in (tmp_path / 'run/launch/process-1.log').read_text()


@pytest.mark.slow
def test_two_local_workers_share_a_sweep(tmp_path, source):
    (tmp_path / 'four.py').write_text(SWEEP)
    fields = {'config': tmp_path / 'four.py', 'config.data.source': source, 'config.train.steps': 5}
    fields |= {'config.train.eval_every': 0, 'config.mesh.cpu_devices': 1}
    program.run(quick(tmp_path / 'run', '--launch=local', '--processes=2', **fields))
    records = files.read_jsonl(tmp_path / 'run/records.jsonl')
    assert [one['status'] for one in records] == ['done'] * 4
    begun = [
        line['trial']
        for line in files.read_jsonl(tmp_path / 'run/ledger.jsonl')
        if line['event'] == 'begun'
    ]
    assert sorted(begun) == ['s0', 's1', 's2', 's3']
    assert len(list((tmp_path / 'run/ledger').iterdir())) == 2


def test_a_trunk_and_its_branches_are_one_group():
    above = {
        'trunk': '',
        'alone': '',
        'b1': 'trunk',
        'b2': 'trunk',
        'bb': 'b1',
        'far': '/elsewhere/run',
    }
    trials = {name: {'train': {'branch_from': one}} for name, one in above.items()}
    parts = launch._group_trials({'sweep': {'trials_per_process': 1}}, trials)
    assert parts == ('trunk,b1,b2,bb', 'alone', 'far')
    assert json.dumps(parts)


def test_help_lists_the_launch_flags():
    out, _ = program.run([sys.executable, 'run.py', '--help'])
    assert '--launch' in out
    assert '--job' in out
