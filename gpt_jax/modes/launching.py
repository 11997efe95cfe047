"""How does a command run elsewhere? `--launch=WAY` makes a job of the rest of the command line and hands it over.

python run.py --config=configs/gpt_350m.py --launch=slurm --nodes=4 --processes=8 --minutes=1440
python run.py --config=configs/gpt_350m.py --launch=slurm --job=status        # logs, cancel
python run.py --config=configs/isoflop_cpu.py --launch=local --processes=4     # a sweep: four workers
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from gpt_jax import files, schema
from gpt_jax.errors import EXIT_RESUMABLE, Preempted, UserError
from gpt_jax.launch import job as jobs
from gpt_jax.launch import processes
from gpt_jax.launch.job import STARTED, Job, Launcher
from gpt_jax.launch.launchers import ELSEWHERE, FAR, IN_FOREGROUND, LAUNCHERS

VERBS = ('start', 'status', 'logs', 'cancel')
FLAGS = ('launch', 'nodes', 'processes', 'minutes', 'launch_option', 'job', 'dry_run')
Say = Callable[[str], None]


def define_flags() -> None:
    """--launch and what belongs to it."""
    ways = '; '.join(f'{name}: {", ".join(one.options)}' for name, one in LAUNCHERS.items())
    flags.DEFINE_enum('launch', None, list(LAUNCHERS), 'Run this command elsewhere, or as several processes.')
    flags.DEFINE_string('nodes', '1', 'launch: how many machines; ssh: their names, alpha,beta.')
    flags.DEFINE_integer('processes', 1, 'launch: processes on each machine; of a sweep on this one: its workers.')
    flags.DEFINE_integer('minutes', 0, 'launch: time limit, before which the run saves and is queued again; 0: none.')
    flags.DEFINE_multi_string('launch_option', [], f'launch: KEY=VALUE, any number; env.NAME=VALUE everywhere; {ways}.')
    flags.DEFINE_enum('job', 'start', VERBS, 'launch: what to do; all but start of the job that was started last.')
    flags.DEFINE_boolean('dry_run', False, 'launch: show the files and commands, and do nothing.')
    flags.DEFINE_alias('dry-run', 'dry_run')


def check_flags() -> bool:
    """Whether the command is to be launched.

    Raises:
      UserError: a flag of launching without --launch, or one that makes no sense.
    """
    given = flags.FLAGS
    if given.launch is None:
        for flag in FLAGS:
            if given[flag].present:
                raise UserError(f'--{flag}: belongs to --launch={"|".join(LAUNCHERS)}')
        return False
    for flag, value, least in (('processes', given.processes, 1), ('minutes', given.minutes, 0)):
        if value < least:
            raise UserError(f'--{flag}={value}: must be {least} or more')
    if given.distributed:
        raise UserError('--distributed: --launch sets it; leave it out')
    return True


def launch(config: dict[str, Any], trials: dict[str, dict[str, Any]], workdir: Path, say: Say) -> None:
    """Starts the job, or says how it does, what it printed, or ends it.

    Raises:
      UserError: the job cannot be written, its program is not here, or nothing was started.
      Preempted: a job in the foreground was interrupted, and is saved.
      SystemExit: the code of a job, or a command, that failed.
    """
    given, way = flags.FLAGS, flags.FLAGS.launch
    schema.name(config['name'], 'name')
    folder = home(config, workdir) / 'launch'
    if given.job != 'start':
        _follow(given.job, folder, say)
        return
    _check(config, trials)
    parts = _parts(config, trials) if trials and given.trial is None else ()
    job = _job(str(config['name']), workdir, folder, parts)
    launcher = LAUNCHERS[way]
    made = launcher.files(job)
    if given.dry_run:
        for name, text in made.items():
            print(f'# {folder / name}\n{text}')
        for argv in launcher.start(job):
            print(shlex.join(argv))
        return
    for name, text in made.items():
        files.write_text(folder / name, text)
    folder.mkdir(parents=True, exist_ok=True)
    _start(way, launcher, job, say)


def _check(config: dict[str, Any], trials: dict[str, dict[str, Any]]) -> None:
    """Here, and not after hours in a queue: is it something that runs there, and is every model a valid one?"""
    from gpt_jax import assemble

    if flags.FLAGS.mode == 'preflight':
        raise UserError('--launch: --mode=preflight needs no machine of its own; leave --launch out')
    for one in trials.values() if trials else (config,):
        assemble.settings(one, vocab_size=1)


def home(config: dict[str, Any], workdir: Path) -> Path:
    """Where the job's own files lie: with the run, or here where the run's folder is on machines far away."""
    return (Path('runs') / str(config['name'])).resolve() if flags.FLAGS.launch in FAR else workdir


def _job(name: str, workdir: Path, folder: Path, parts: tuple[str, ...]) -> Job:
    given = flags.FLAGS
    known = jobs.options(given.launch_option, LAUNCHERS[given.launch].options)
    hosts = () if given.nodes.isascii() and given.nodes.isdigit() else tuple(given.nodes.split(','))
    nodes = len(hosts) or int(given.nodes)
    if nodes < 1:
        raise UserError('--nodes=0: wants 1 or more')
    if hosts and given.launch != 'ssh':
        raise UserError(f'--nodes={given.nodes}: --launch={given.launch} wants a number')
    elsewhere = given.launch in ELSEWHERE
    if given.launch in FAR and not given.workdir:
        raise UserError(f'--launch={given.launch}: wants --workdir=FOLDER, one that outlives the machines')
    python = [known.get('python', 'python3'), 'run.py'] if elsewhere else _here()
    # A folder that was named is the same everywhere; one that was not is runs/NAME where the program runs.
    where = [f'--workdir={given.workdir if elsewhere else workdir}'] if given.workdir or not elsewhere else []
    return Job(
        name=name, command=(*python, *rest(sys.argv[1:]), *where), cwd=Path.cwd(), folder=folder, nodes=nodes,
        hosts=hosts, processes=given.processes, minutes=given.minutes, parts=parts, options=known,
    )  # fmt: skip


def _here() -> list[str]:
    return [sys.executable, str(Path(sys.argv[0]).resolve())]


def rest(arguments: list[str]) -> list[str]:
    """The command line without what says how to launch it, and without --workdir."""
    left, skip = [], False
    for argument in arguments:
        name, equals, _ = argument.removeprefix('-').removeprefix('-').partition('=')
        name = name.replace('dry-run', 'dry_run')
        own = argument.startswith('-') and name.removeprefix('no') in (*FLAGS, 'workdir')
        if skip:
            skip = False
        elif own or (argument.startswith('-') and name in (*FLAGS, 'workdir')):
            skip = not equals and name.removeprefix('no') != 'dry_run'
        else:
            left.append(argument)
    return left


def trial_command(workdir: Path) -> list[str]:
    """What a sweep starts its trials with: this command line; as a step of many processes where GPT_JAX_STEP is set."""
    own = [argument for argument in rest(sys.argv[1:]) if not argument.startswith(('--only', '-only'))]
    step = os.environ.get('GPT_JAX_STEP')
    command = [*_here(), *own, f'--workdir={workdir}']
    return ['bash', step, *command, '--distributed=auto'] if step else command


def _parts(config: dict[str, Any], trials: dict[str, dict[str, Any]]) -> tuple[str, ...]:
    """The trials by what must go in one process, one after the other: a trunk and its branches; those of a group."""
    groups = [[name] for name in trials]
    if config['sweep']['together'] > 1:
        from gpt_jax.modes import together

        groups = together.groups(trials, config['sweep']['together'])
    group_of = {name: group for group in groups for name in group}
    for name, one in trials.items():
        above = one['train']['branch_from']
        if above in group_of and group_of[above] is not group_of[name]:
            mine, trunk = group_of[name], group_of[above]
            trunk += mine
            group_of |= dict.fromkeys(mine, trunk)
    unique = {id(group): group for group in group_of.values()}
    return tuple(','.join(group) for group in unique.values())


def _start(way: str, launcher: Launcher, job: Job, say: Say) -> None:
    record = {'launch': way, 'job': jobs.saved(job), 'printed': ''}
    if way in IN_FOREGROUND:
        files.write_json(job.folder / STARTED, record)
        code = processes.run(
            lambda attempt: IN_FOREGROUND[way](job, attempt), job.number('restarts', 0), say, job.folder
        )
        if code == EXIT_RESUMABLE:
            raise Preempted('interrupted; the same command goes on from there')
        if code:
            sys.exit(code)
        return
    commands = launcher.start(job)
    _there(commands)
    for argv in commands:
        files.write_json(job.folder / STARTED, record)
        capture = way == 'slurm'  # the others speak for themselves, some for days
        done = subprocess.run(argv, stdout=subprocess.PIPE if capture else None, text=True)
        if done.returncode:
            raise UserError(f'{argv[0]}: ended with {done.returncode}; what it said is above')
        if capture:
            record['printed'] = done.stdout
            say(f'{argv[0]}: {done.stdout.strip()}')
    files.write_json(job.folder / STARTED, record)
    say(f'started; see --job=status, --job=logs, --job=cancel; files in {job.folder}')


def _there(commands: list[list[str]]) -> None:
    for argv in commands:
        if shutil.which(argv[0]) is None:
            raise UserError(f'{argv[0]}: no such program here; install it, or add --dry_run to see what would be run')


def _follow(verb: str, folder: Path, say: Say) -> None:
    """status, logs, cancel of the job that was started last in this folder."""
    path = folder / STARTED
    if not path.exists():
        raise UserError(f'{path}: no such file; nothing was started from here for this run')
    record = files.read_json(path)
    if record['launch'] != flags.FLAGS.launch:
        raise UserError(f'--launch={flags.FLAGS.launch}: the job of {folder} was started with {record["launch"]}')
    job = jobs.loaded(record['job'])
    launcher = LAUNCHERS[record['launch']]
    commands = {'status': launcher.status, 'logs': launcher.logs, 'cancel': launcher.cancel}[verb](
        job, record['printed']
    )
    if flags.FLAGS.dry_run:
        print('\n'.join(shlex.join(argv) for argv in commands))
        return
    _there(commands)
    if not commands:
        say(f'{folder}: nothing of it runs' if verb != 'logs' else f'{folder}: no log yet')
    for argv in commands:
        failed = subprocess.run(argv, env=os.environ).returncode
        if failed:
            raise UserError(f'{argv[0]}: ended with {failed}; the job may be gone: see --job=logs')
    if verb == 'status':
        say(_result(folder.parent))


def _result(workdir: Path) -> str:
    """What the run's own folder says."""
    if (workdir / 'summary.json').exists():
        return f'{workdir}: done'
    ended = len(list(workdir.glob('trials/*/summary.json')))
    return f'{workdir}: {f"{ended} trials done" if (workdir / "trials").exists() else "not done"}'
