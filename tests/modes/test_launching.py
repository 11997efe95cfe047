"""Does --launch hand over the command as it was given, and do local processes and workers do the work?"""

import json
import subprocess
import sys

import pytest

from gpt_jax import jsonl
from gpt_jax.modes import launching
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


def test_the_rest_of_the_command_is_as_it_was():
    rest = ['--config=a b.py', '--config.train.steps=5', '--trial', 'x', '--nodata']
    own = ['--launch=slurm', '--nodes', '4', '-processes=2', '--minutes=3', '--launch_option=a=b', '--launch_option',
           'mem=$x', '--dry_run', '--dry-run', '--workdir', '/w', '--job', 'start', '--nodry_run']  # fmt: skip
    mixed = [word for pair in zip(own, [*rest, *[None] * len(own)], strict=False) for word in pair[:1]]
    assert launching.rest([*mixed, *rest]) == rest
    assert launching.rest([*rest, *own]) == rest


def test_dry_run_shows_all_and_does_nothing(tmp_path):
    nasty = 'files:it\'s "$HOME"; `id`.txt'
    workdir = tmp_path / 'a "run"; $x'
    out, _ = program.run(
        quick(workdir, '--launch=slurm', '--nodes=2', '--minutes=90', '--dry-run', **{'config.data.source': nasty})
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
        (['--nodes=2'], '--nodes: belongs to --launch='),
        (['--launch=slurm', '--distributed=auto'], '--launch sets it'),
        (['--launch=slurm', '--processes=0'], '--processes=0: must be 1 or more'),
        (['--launch=slurm', '--launch_option=parition=x'], "the nearest is 'partition'"),
        (['--launch=slurm', '--nodes=a,b'], 'wants a number'),
        (['--launch=slurm', '--job=status'], 'nothing was started from here'),
        (['--launch=local', '--nodes=2'], '--launch=ssh'),
        (['--launch=gke', '--workdir='], 'wants --workdir=FOLDER'),
        (['--launch=slurm', '--config.model.heads=3'], 'config.model.'),
        (['--launch=slurm', '--trial=nope'], '--trial=nope: no such trial'),
        (['--launch=slurm', '--mode=preflight', '--topology=v5e:2x2'], '--mode=preflight needs no machine'),
        (['--only=a'], '--only: chooses trials of a sweep'),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(tmp_path, more, words):
    _, err = program.run(quick(tmp_path / 'run', *more), code=2)
    assert words in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.slow  # tests/modes/test_train.py has two processes too
def test_two_local_processes_train_one_model(tmp_path, source):
    fields = {'config.data.source': source, 'config.mesh.cpu_devices': 1, 'config.train.steps': 10}
    program.run(quick(tmp_path / 'run', '--launch=local', '--processes=2', **fields))
    assert program.summary(tmp_path / 'run')['processes'] == 2
    assert 'step 10/10' in (tmp_path / 'run/launch/process-1.log').read_text()


@pytest.mark.slow
def test_two_local_workers_share_a_sweep(tmp_path, source):
    (tmp_path / 'four.py').write_text(SWEEP)
    fields = {'config': tmp_path / 'four.py', 'config.data.source': source, 'config.train.steps': 5}
    fields |= {'config.train.evaluate_every': 0, 'config.mesh.cpu_devices': 1}
    program.run(quick(tmp_path / 'run', '--launch=local', '--processes=2', **fields))
    records = jsonl.read(tmp_path / 'run/records.jsonl')
    assert [one['status'] for one in records] == ['done'] * 4
    begun = [line['trial'] for line in jsonl.read(tmp_path / 'run/ledger.jsonl') if line['event'] == 'begun']
    assert sorted(begun) == ['s0', 's1', 's2', 's3']
    assert len(list((tmp_path / 'run/ledger').iterdir())) == 2


def test_trunks_and_their_branches_are_one_task():
    above = {'trunk': '', 'alone': '', 'b1': 'trunk', 'b2': 'trunk', 'bb': 'b1', 'far': '/elsewhere/run'}
    trials = {name: {'train': {'branch_from': one}} for name, one in above.items()}
    parts = launching._parts({'sweep': {'together': 1}}, trials)
    assert parts == ('trunk,b1,b2,bb', 'alone', 'far')
    assert json.dumps(parts)


def test_help_tells_of_launching():
    out, _ = program.run([sys.executable, 'run.py', '--help'])
    assert '--launch' in out
    assert '--job' in out
