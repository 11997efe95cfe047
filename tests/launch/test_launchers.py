"""Rendered files and commands of every launcher: golden files, safe quoting, validation.

`python -m tests.launch.test_launchers` rewrites the files in golden/.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gpt_jax.core.errors import UserError
from gpt_jax.launch import gke, job, slurm, tpu
from gpt_jax.launch.job import Job, Launcher
from gpt_jax.launch.launchers import LAUNCHERS, find_launcher

GOLDEN = Path(__file__).with_name('golden')
SCHEMA = Path(__file__).with_name('jobset_schema.json')
NASTY = ['--config.data.source=files:it\'s $(touch HERE) `id` "x"; a\nb.txt', '--config.name=%j']


def make_job(**fields):
    defaults = {
        'name': 'gpt_350m',
        'command': ('python3', 'run.py', '--config=configs/gpt_350m.py', '--workdir=/data/run'),
        'cwd': Path('/home/me/gpt_jax'),
        'folder': Path('/data/run/launch'),
        'nodes': 1,
        'hosts': (),
        'processes_per_node': 1,
        'minutes': 0,
        'trial_groups': (),
        'options': {},
    }
    return Job(**defaults | fields)


TPU = {
    'zone': 'us-east5-a',
    'type': 'v5p-32',
    'version': 'v2-alpha-tpuv5',
    'spot': 'yes',
    'setup': 'bring it.sh',
}
GKE = {
    'image': 'europe-docker.pkg.dev/p/i/gpt_jax:1',
    'accelerator': 'tpu-v5p-slice',
    'topology': '2x2x4',
    'slices': '2',
    'claim': 'data',
    'spot': 'yes',
    'queue': 'tpus',
    'env.LEVEL': '$(A) "1"',
}
XPK = {
    'via': 'xpk',
    'image': 'i',
    'cluster': 'c',
    'type': 'v5p-32',
    'zone': 'us-east5-a',
    'project': 'p',
}
NASTY_COMMAND = ('python3', 'run.py', *NASTY)
SWEEP_OPTIONS = {'at_once': '1', 'env.LEVEL': "it's"}
JOBS = {  # one of each kind, with its launcher
    'slurm_model': (
        'slurm',
        make_job(
            nodes=4, processes_per_node=8, minutes=1440, options={'partition': 'gpu', 'mem': '0'}
        ),
    ),
    'slurm_sweep': ('slurm', make_job(nodes=2, trial_groups=('a', 'b,c'), options=SWEEP_OPTIONS)),
    'slurm_nasty': ('slurm', make_job(command=NASTY_COMMAND, cwd=Path("/home/o'neil & co/$x"))),
    'local': (
        'local',
        make_job(processes_per_node=2, trial_groups=('a', 'b'), options={'env.LEVEL': '1'}),
    ),
    'ssh': (
        'ssh',
        make_job(nodes=2, hosts=('alpha', 'me@beta'), options={'folder': '/srv/gpt jax'}),
    ),
    'tpu': ('tpu', make_job(options=TPU)),
    'tpu_nasty': ('tpu', make_job(command=NASTY_COMMAND, options=TPU)),
    'gke': ('gke', make_job(options=GKE, minutes=90)),
    'gke_nasty': ('gke', make_job(command=NASTY_COMMAND, options=GKE)),
    'xpk': ('gke', make_job(options=XPK)),
}


def render(name):
    """Returns all files and commands of a job as one text."""
    word, one_job = JOBS[name]
    launcher = LAUNCHERS[word]
    sections = [f'=== {file}\n{text}' for file, text in launcher.render_files(one_job).items()]
    commands = {
        'start': launcher.start_commands(one_job),
        'status': launcher.status_commands(one_job, '123\n'),
        'logs': launcher.log_commands(one_job, '123\n'),
        'cancel': launcher.cancel_commands(one_job, '123\n'),
    }
    for verb, argvs in commands.items():
        sections += [f'--- {verb}: {json.dumps(argv)}' for argv in argvs]
    return '\n'.join(sections) + '\n'


@pytest.mark.parametrize('name', JOBS)
def test_files_and_commands_match_the_golden_file(name):
    assert render(name) == (GOLDEN / f'{name}.txt').read_text()


def bash_scripts():
    return [
        pytest.param(text, id=f'{name}-{file}')
        for name, (word, one_job) in JOBS.items()
        for file, text in LAUNCHERS[word].render_files(one_job).items()
        if text.startswith('#!/bin/bash')
    ]


@pytest.mark.parametrize('text', bash_scripts())
def test_bash_parses_the_scripts(text):
    result = subprocess.run(['bash', '-n'], input=text, text=True, capture_output=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(shutil.which('shellcheck') is None, reason='shellcheck is not installed')
@pytest.mark.parametrize('text', bash_scripts())
def test_shellcheck_has_no_warnings(text):
    # SC1091: sourced files are missing here. The checks of quoting, SC2086 and so on, stay on.
    argv = ['shellcheck', '--severity=warning', '--exclude=SC1091', '-']
    result = subprocess.run(argv, input=text, text=True, capture_output=True)
    assert result.returncode == 0, result.stdout


FAKE_PROGRAM = """\
#!{python}
import json, sys
print("ACTIVE")
open({path!r}, "a").write(json.dumps([{program!r}, *sys.argv[1:]]) + "\\n")
"""


def argv_of(text, word, folder):
    """Runs a script in bash with fake programs; returns the first argv that contains `word`."""
    fake = folder / 'bin'
    fake.mkdir()
    for program in ('srun', 'gcloud', 'python3'):
        source = FAKE_PROGRAM.format(
            python=sys.executable, path=str(folder / 'argv'), program=program
        )
        (fake / program).write_text(source)
        (fake / program).chmod(0o755)
    environment = {
        'PATH': f'{fake}:/usr/bin:/bin',
        'SLURM_JOB_ID': '7',
        'SLURM_ARRAY_TASK_ID': '1',
        'HOME': str(folder),
    }
    # Standard input stays open, as that of a connection does.
    with subprocess.Popen(
        ['bash', '-c', text],
        env=environment,
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        process.wait(timeout=30)
    lines = [json.loads(line) for line in (folder / 'argv').read_text().splitlines()]
    return next(argv for argv in lines if any(word in argument for argument in argv))


def test_arguments_pass_unchanged_through_the_batch_script_and_the_step(tmp_path):
    one_job = make_job(command=NASTY_COMMAND, cwd=tmp_path, folder=tmp_path / "a 'folder'")
    files = LAUNCHERS['slurm'].render_files(one_job)
    one_job.folder.mkdir()
    (one_job.folder / slurm.STEP_FILE).write_text(files[slurm.STEP_FILE])
    argv = argv_of(files[slurm.SCRIPT_FILE], 'run.py', tmp_path)
    assert argv[0] == 'srun'
    assert argv[argv.index('python3') :] == [*NASTY_COMMAND, '--distributed=auto']
    assert not (tmp_path / 'HERE').exists()


def test_an_array_task_runs_its_own_trials(tmp_path):
    one_job = make_job(command=('python3', 'run.py'), cwd=tmp_path, trial_groups=('a', 'b,c'))
    script = LAUNCHERS['slurm'].render_files(one_job)[slurm.SCRIPT_FILE]
    assert argv_of(script, 'run.py', tmp_path) == ['python3', 'run.py', '--trials=b,c']


def test_arguments_pass_unchanged_through_gcloud(tmp_path):
    one_job = make_job(command=NASTY_COMMAND, options=TPU | {'folder': '.'})
    script = LAUNCHERS['tpu'].render_files(one_job)[tpu.SCRIPT_FILE]
    argv = argv_of(script, 'run.py', tmp_path)
    remote = next(word for word in argv if word.startswith('--command=')).removeprefix('--command=')
    (tmp_path / 'argv').unlink()
    shutil.rmtree(tmp_path / 'bin')
    assert argv_of(remote, 'run.py', tmp_path) == [*NASTY_COMMAND, '--distributed=auto']
    assert not (tmp_path / 'HERE').exists()


def test_arguments_pass_unchanged_through_ssh(tmp_path):
    """ssh joins its words with blanks and passes them to the login shell of the other machine."""
    one_job = make_job(
        command=NASTY_COMMAND, cwd=tmp_path, hosts=('alpha',), options={'env.A': "it's"}
    )
    words = LAUNCHERS['ssh'].start_commands(one_job)[0]
    line = ' '.join(words[words.index('alpha') + 1 :])
    assert argv_of(line, 'run.py', tmp_path) == list(NASTY_COMMAND)
    assert not (tmp_path / 'HERE').exists()


def check_schema(value, schema, path='$'):
    """Asserts that `value` matches; a small part of JSON Schema that rejects unknown keys."""
    types = {'object': dict, 'array': list, 'string': str, 'integer': int, 'boolean': bool}
    expected = types[schema['type']]
    assert isinstance(value, expected), f'{path}: {value!r} is no {schema["type"]}'
    assert not (expected is int and isinstance(value, bool)), path
    if 'pattern' in schema:
        assert re.fullmatch(schema['pattern'], value), f'{path}: {value!r}'
    if 'enum' in schema:
        assert value in schema['enum'], f'{path}: {value!r}'
    if 'minimum' in schema:
        assert value >= schema['minimum'], path
    if expected is list:
        for index, item in enumerate(value):
            check_schema(item, schema['items'], f'{path}[{index}]')
    if expected is dict:
        missing = set(schema.get('required', ())) - set(value)
        assert not missing, f'{path}: lacks {missing}'
        for key, item in value.items():
            inner = schema.get('properties', {}).get(key, schema.get('additionalProperties'))
            assert inner, f'{path}.{key}: no such field'
            check_schema(item, inner, f'{path}.{key}')


@pytest.mark.parametrize('name', ['gke', 'gke_nasty'])
def test_the_jobset_is_valid(name):
    one_job = JOBS[name][1]
    jobset = yaml.safe_load(LAUNCHERS['gke'].render_files(one_job)[gke.JOBSET_FILE])
    assert jobset == gke.make_jobset(one_job)
    check_schema(jobset, json.loads(SCHEMA.read_text()))
    slices = jobset['spec']['replicatedJobs'][0]
    assert slices['replicas'] == 2
    assert slices['template']['spec']['parallelism'] == 4  # 16 chips, four per machine


def test_the_schema_rejects_unknown_fields():
    jobset, schema = gke.make_jobset(JOBS['gke'][1]), json.loads(SCHEMA.read_text())
    jobset['spec']['failurePolicy']['maxRestart'] = 3
    with pytest.raises(AssertionError, match='no such field'):
        check_schema(jobset, schema)


INVALID = [
    ('slurm', {'options': {'partition': 'a b'}}, 'partition'),
    ('slurm', {'options': {'partition': 'a\n#SBATCH --uid=0'}}, 'partition'),
    ('slurm', {'options': {'restarts': 'many'}}, 'must be a non-negative integer, got many'),
    ('slurm', {'minutes': 1, 'options': {'grace': '60'}}, 'must be more than the 60 s'),
    ('slurm', {'options': {'env.A B': '1'}}, 'not a valid name for an environment variable'),
    ('local', {'nodes': 2}, '--launch=ssh'),
    ('ssh', {}, 'must list machines'),
    ('gke', {'options': GKE | {'folder': '~/x'}}, 'folder: must be a path without ~'),
    ('ssh', {'hosts': ('-oProxyCommand=id',)}, 'must be names of machines'),
    ('tpu', {}, 'type'),
    ('tpu', {'options': TPU | {'spot': 'maybe'}}, 'must be yes or no, got maybe'),
    ('tpu', {'options': TPU, 'trial_groups': ('a',)}, '--trial=NAME'),
    ('gke', {'options': GKE | {'topology': '2x2;id'}}, 'topology'),
    ('gke', {'options': GKE, 'nodes': 3}, 'has 4 machines'),
    ('gke', {'options': {**GKE, 'claim': ''}}, 'claim'),
    ('gke', {'options': GKE | {'mount': '/elsewhere'}}, 'must be in /elsewhere'),
    ('gke', {'options': XPK, 'command': ('python3', 'run.py', '$HOME')}, 'via=jobset'),
    ('gke', {'options': GKE | {'via': 'helm'}}, 'must be jobset or xpk, got helm'),
]


@pytest.mark.parametrize(('word', 'fields', 'message'), INVALID)
def test_invalid_jobs_are_rejected_in_one_line(word, fields, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        LAUNCHERS[word].render_files(make_job(**fields))
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['partitoin=a'], "the nearest is 'partition'"),
        (['partition'], 'KEY=VALUE'),
        (['mem=1', 'mem=2'], 'twice'),
    ],
)
def test_invalid_options_are_rejected(words, message):
    with pytest.raises(UserError, match=re.escape(message)):
        job.parse_options(words, slurm.OPTIONS)


def test_a_job_survives_json():
    one_job = JOBS['slurm_nasty'][1]
    assert Job.from_json(json.loads(json.dumps(one_job.to_json()))) == one_job


MY_LAB = """
from gpt_jax.launch.job import Launcher

class FarmLauncher(Launcher):
    options = {'barn': 'which one'}

    def render_files(self, job):
        return {'farm.txt': job.get_option('barn', 'red')}

    def start_commands(self, job):
        return [['farm', 'start', *job.command]]

    def status_commands(self, job, output):
        return [['farm', 'status', output]]

    log_commands = cancel_commands = status_commands

FARM = FarmLauncher()
"""


def test_a_dotted_path_names_a_launcher_of_another_package(tmp_path, monkeypatch):
    (tmp_path / 'my_lab').mkdir()
    (tmp_path / 'my_lab/launchers.py').write_text(MY_LAB)
    monkeypatch.syspath_prepend(str(tmp_path))
    farm = find_launcher('my_lab.launchers:FARM')
    assert isinstance(farm, Launcher)
    one_job = make_job(options=job.parse_options(['barn=green', 'env.A=1'], farm.options))
    assert farm.render_files(one_job) == {'farm.txt': 'green'}
    assert farm.start_commands(one_job) == [['farm', 'start', *one_job.command]]
    with pytest.raises(UserError, match='cannot import'):
        find_launcher('my_lab.launchers:BARN')
    with pytest.raises(UserError, match=r'must be an instance of .*Launcher, got'):
        find_launcher('my_lab.launchers:FarmLauncher')


def test_registered_words_name_launchers():
    assert find_launcher('slurm') is LAUNCHERS['slurm']
    with pytest.raises(UserError, match=r"--launch: must be one of .*; the nearest is 'slurm'"):
        find_launcher('slrum')


if __name__ == '__main__':
    for each in JOBS:
        (GOLDEN / f'{each}.txt').write_text(render(each))
