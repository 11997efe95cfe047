"""Are the files and commands of every launcher what was agreed, readable by those who read them, and safe?

The files in golden/ are what is expected; `python -m tests.launch.test_launchers` writes them anew.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gpt_jax.errors import UserError
from gpt_jax.launch import gke, job, local, slurm, ssh, tpu
from gpt_jax.launch.job import Job
from gpt_jax.launch.launchers import LAUNCHERS

GOLDEN = Path(__file__).with_name('golden')
SCHEMA = Path(__file__).with_name('jobset_schema.json')
NASTY = ['--config.data.source=files:it\'s $(touch HERE) `id` "x"; a\nb.txt', '--config.name=%j']


def make(**fields):
    plain = {
        'name': 'gpt_350m', 'command': ('python3', 'run.py', '--config=configs/gpt_350m.py', '--workdir=/data/run'),
        'cwd': Path('/home/me/gpt_jax'), 'folder': Path('/data/run/launch'), 'nodes': 1, 'hosts': (), 'processes': 1,
        'minutes': 0, 'parts': (), 'options': {},
    }  # fmt: skip
    return Job(**plain | fields)


TPU = {'zone': 'us-east5-a', 'type': 'v5p-32', 'version': 'v2-alpha-tpuv5', 'spot': 'yes', 'setup': 'bring it.sh'}
GKE = {'image': 'europe-docker.pkg.dev/p/i/gpt_jax:1', 'accelerator': 'tpu-v5p-slice', 'topology': '2x2x4',
       'slices': '2', 'claim': 'data', 'spot': 'yes', 'queue': 'tpus', 'env.LEVEL': '$(A) "1"'}  # fmt: skip
XPK = {'via': 'xpk', 'image': 'i', 'cluster': 'c', 'type': 'v5p-32', 'zone': 'us-east5-a', 'project': 'p'}
JOBS = {  # one of each kind
    'slurm_model': (slurm, make(nodes=4, processes=8, minutes=1440, options={'partition': 'gpu', 'mem': '0'})),
    'slurm_sweep': (slurm, make(nodes=2, parts=('a', 'b,c'), options={'at_once': '1', 'env.LEVEL': "it's"})),
    'slurm_nasty': (slurm, make(command=('python3', 'run.py', *NASTY), cwd=Path("/home/o'neil & co/$x"))),
    'local': (local, make(processes=2, parts=('a', 'b'), options={'env.LEVEL': '1'})),
    'ssh': (ssh, make(nodes=2, hosts=('alpha', 'me@beta'), processes=1, options={'folder': '/srv/gpt jax'})),
    'tpu': (tpu, make(options=TPU)),
    'tpu_nasty': (tpu, make(command=('python3', 'run.py', *NASTY), options=TPU)),
    'gke': (gke, make(options=GKE, minutes=90)),
    'gke_nasty': (gke, make(command=('python3', 'run.py', *NASTY), options=GKE)),
    'xpk': (gke, make(options=XPK)),
}  # fmt: skip


def shown(name):
    """All of a job in one text."""
    room, one = JOBS[name]
    texts = [f'=== {file}\n{text}' for file, text in room.files(one).items()]
    verbs = {verb: getattr(room, verb)(one, '123\n') for verb in ('status', 'logs', 'cancel')}
    commands = {'start': room.start(one), **verbs}
    return (
        '\n'.join([*texts, *(f'--- {verb}: {json.dumps(argv)}' for verb, all_ in commands.items() for argv in all_)])
        + '\n'
    )


@pytest.mark.parametrize('name', JOBS)
def test_files_and_commands_are_the_agreed_ones(name):
    assert shown(name) == (GOLDEN / f'{name}.txt').read_text()


def scripts():
    made = []
    for name, (room, one) in JOBS.items():
        for file, text in room.files(one).items():
            if text.startswith('#!/bin/bash'):
                made.append(pytest.param(text, id=f'{name}-{file}'))
    return made


@pytest.mark.parametrize('text', scripts())
def test_bash_can_read_the_scripts(text):
    done = subprocess.run(['bash', '-n'], input=text, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which('shellcheck') is None, reason='shellcheck is not installed')
@pytest.mark.parametrize('text', scripts())
def test_shellcheck_finds_nothing(text):
    # SC1091: sourced files are not here. SC2086 and the like stay on: they are about quoting.
    done = subprocess.run(
        ['shellcheck', '--severity=warning', '--exclude=SC1091', '-'], input=text, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stdout


def argv_of(text, line_with, folder):
    """The arguments that a program gets in the script's line, when bash really runs it."""
    fake = folder / 'bin'
    fake.mkdir()
    for program in ('srun', 'gcloud', 'python3'):
        (fake / program).write_text(
            f'#!{sys.executable}\nimport json, sys\nprint("ACTIVE")\n'
            f'open({str(folder / "argv")!r}, "a").write(json.dumps([{program!r}, *sys.argv[1:]]) + "\\n")\n'
        )
        (fake / program).chmod(0o755)
    environment = {
        'PATH': f'{fake}:/usr/bin:/bin',
        'SLURM_JOB_ID': '7',
        'SLURM_ARRAY_TASK_ID': '1',
        'HOME': str(folder),
    }
    # Standard input stays open, as a connection's does.
    with subprocess.Popen(
        ['bash', '-c', text], env=environment, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        process.wait(timeout=30)
    lines = [json.loads(line) for line in (folder / 'argv').read_text().splitlines()]
    return next(argv for argv in lines if any(line_with in word for word in argv))


def test_arguments_arrive_through_the_batch_script_and_the_step(tmp_path):
    one = make(command=('python3', 'run.py', *NASTY), cwd=tmp_path, folder=tmp_path / "a 'folder'")
    files = slurm.files(one)
    one.folder.mkdir()
    (one.folder / slurm.STEP).write_text(files[slurm.STEP])
    argv = argv_of(files[slurm.SCRIPT], 'run.py', tmp_path)
    assert argv[0] == 'srun'
    assert argv[argv.index('python3') :] == ['python3', 'run.py', *NASTY, '--distributed=auto']
    assert not (tmp_path / 'HERE').exists()


def test_a_task_of_an_array_runs_its_own_trials(tmp_path):
    one = make(command=('python3', 'run.py'), cwd=tmp_path, parts=('a', 'b,c'))
    argv = argv_of(slurm.files(one)[slurm.SCRIPT], 'run.py', tmp_path)
    assert argv == ['python3', 'run.py', '--only=b,c']


def test_arguments_arrive_through_gcloud(tmp_path):
    one = make(command=('python3', 'run.py', *NASTY), options=TPU | {'folder': '.'})
    argv = argv_of(tpu.files(one)[tpu.SCRIPT], 'run.py', tmp_path)
    remote = next(word for word in argv if word.startswith('--command=')).removeprefix('--command=')
    (tmp_path / 'argv').unlink()
    shutil.rmtree(tmp_path / 'bin')
    assert argv_of(remote, 'run.py', tmp_path) == ['python3', 'run.py', *NASTY, '--distributed=auto']
    assert not (tmp_path / 'HERE').exists()


def test_arguments_arrive_through_ssh(tmp_path):
    """ssh hands its words, with blanks between, to the login shell of the other machine."""
    one = make(command=('python3', 'run.py', *NASTY), cwd=tmp_path, hosts=('alpha',), options={'env.A': "it's"})
    words = ssh.start(one)[0]
    told = ' '.join(words[words.index('alpha') + 1 :])
    assert argv_of(told, 'run.py', tmp_path) == ['python3', 'run.py', *NASTY]
    assert not (tmp_path / 'HERE').exists()


def accepted(value, schema, path='$'):
    """Whether `value` is what the schema says; a small part of JSON Schema, unknown keys refused."""
    kinds = {'object': dict, 'array': list, 'string': str, 'integer': int, 'boolean': bool}
    kind = kinds[schema['type']]
    assert isinstance(value, kind), f'{path}: {value!r} is no {schema["type"]}'
    assert not (kind is int and isinstance(value, bool)), path
    if 'pattern' in schema:
        assert re.fullmatch(schema['pattern'], value), f'{path}: {value!r}'
    if 'enum' in schema:
        assert value in schema['enum'], f'{path}: {value!r}'
    if 'minimum' in schema:
        assert value >= schema['minimum'], path
    if kind is list:
        for index, item in enumerate(value):
            accepted(item, schema['items'], f'{path}[{index}]')
    if kind is dict:
        missing = set(schema.get('required', ())) - set(value)
        assert not missing, f'{path}: lacks {missing}'
        for key, item in value.items():
            inner = schema.get('properties', {}).get(key, schema.get('additionalProperties'))
            assert inner, f'{path}.{key}: no such field'
            accepted(item, inner, f'{path}.{key}')


@pytest.mark.parametrize('name', ['gke', 'gke_nasty'])
def test_the_jobset_is_one(name):
    made = yaml.safe_load(gke.files(JOBS[name][1])[gke.FILE])
    assert made == gke.jobset(JOBS[name][1])
    accepted(made, json.loads(SCHEMA.read_text()))
    slices = made['spec']['replicatedJobs'][0]
    assert (slices['replicas'], slices['template']['spec']['parallelism']) == (2, 4)  # 16 chips, four to a machine


def test_the_schema_finds_mistakes():
    made, schema = gke.jobset(JOBS['gke'][1]), json.loads(SCHEMA.read_text())
    made['spec']['failurePolicy']['maxRestart'] = 3
    with pytest.raises(AssertionError, match='no such field'):
        accepted(made, schema)


REFUSED = [
    ('slurm', {'options': {'partition': 'a b'}}, 'partition'),
    ('slurm', {'options': {'partition': 'a\n#SBATCH --uid=0'}}, 'partition'),
    ('slurm', {'options': {'restarts': 'many'}}, 'natural number'),
    ('slurm', {'minutes': 1, 'options': {'grace': '60'}}, 'leaves no time'),
    ('slurm', {'options': {'env.A B': '1'}}, 'no name of an environment variable'),
    ('local', {'nodes': 2}, '--launch=ssh'),
    ('ssh', {}, 'wants names'),
    ('ssh', {'hosts': ('-oProxyCommand=id',)}, 'no name of a machine'),
    ('tpu', {}, 'type'),
    ('tpu', {'options': TPU | {'spot': 'maybe'}}, 'yes or no'),
    ('tpu', {'options': TPU, 'parts': ('a',)}, '--trial=NAME'),
    ('gke', {'options': GKE | {'topology': '2x2;id'}}, 'topology'),
    ('gke', {'options': GKE, 'nodes': 3}, 'has 4 machines'),
    ('gke', {'options': {**GKE, 'claim': ''}}, 'claim'),
    ('gke', {'options': GKE | {'mount': '/elsewhere'}}, 'goes with its pod'),
    ('gke', {'options': XPK, 'command': ('python3', 'run.py', '$HOME')}, 'via=jobset'),
    ('gke', {'options': GKE | {'via': 'helm'}}, 'jobset or xpk'),
]  # fmt: skip


@pytest.mark.parametrize(('way', 'fields', 'words'), REFUSED)
def test_what_cannot_be_is_refused_in_one_line(way, fields, words):
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        LAUNCHERS[way].files(make(**fields))
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('given', 'words'),
    [(['partitoin=a'], "the nearest is 'partition'"), (['partition'], 'KEY=VALUE'), (['mem=1', 'mem=2'], 'twice')],
)
def test_options_that_are_none_are_refused(given, words):
    with pytest.raises(UserError, match=re.escape(words)):
        job.options(given, slurm.OPTIONS)


def test_a_job_is_found_again_as_it_was():
    one = JOBS['slurm_nasty'][1]
    assert job.loaded(json.loads(json.dumps(job.saved(one)))) == one


if __name__ == '__main__':
    for each in JOBS:
        (GOLDEN / f'{each}.txt').write_text(shown(each))
