"""Launching with `run.py --launch=LAUNCHER`, which runs the command line as a job elsewhere.

examples:
  python run.py --config=configs/gpt_350m.py --launch=slurm --nodes=4 --processes=8 --minutes=1440
  python run.py --config=configs/gpt_350m.py --launch=slurm --job=status      or logs, cancel
  python run.py --config=configs/isoflop_cpu.py --launch=local --processes=4  a sweep: four workers
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from absl import flags

from gpt_jax.core import config_fields, files
from gpt_jax.core.config import RawConfig, parse_config
from gpt_jax.core.errors import EXIT_RESUMABLE, Preempted, UserError
from gpt_jax.core.progress import LogFn
from gpt_jax.launch import local
from gpt_jax.launch.job import STARTED_FILE, Job, Launcher, parse_options
from gpt_jax.launch.launchers import LAUNCHERS, find_launcher

ACTIONS = ('start', 'status', 'logs', 'cancel')
FLAGS = ('launch', 'nodes', 'processes', 'minutes', 'launch_option', 'job', 'dry_run')


def define_flags() -> None:
    """Define --launch and the flags that go with it."""
    options = '; '.join(
        f'{name}: ' + ', '.join(f'{key} ({text})' for key, text in launcher.options.items())
        for name, launcher in LAUNCHERS.items()
    )
    flags.DEFINE_string(
        'launch',
        None,
        f'Run this command elsewhere, or as several processes: {", ".join(LAUNCHERS)}, or a dotted '
        'path such as my_lab.launchers:FARM.',
    )
    flags.DEFINE_string(
        'nodes', '1', 'launch: number of machines; for ssh, their names, alpha,beta.'
    )
    flags.DEFINE_integer(
        'processes', 1, 'launch: processes per machine; for a sweep on this machine, its workers.'
    )
    flags.DEFINE_integer(
        'minutes', 0, 'launch: time limit, before which the run saves and is requeued; 0: none.'
    )
    flags.DEFINE_multi_string(
        'launch_option',
        [],
        f'launch: KEY=VALUE, repeatable; for all launchers env.NAME=VALUE; {options}.',
    )
    flags.DEFINE_enum(
        'job',
        'start',
        ACTIONS,
        'launch: action; status, logs and cancel apply to the job started last.',
    )
    flags.DEFINE_boolean('dry_run', False, 'launch: only print the files and commands.')
    flags.DEFINE_alias('dry-run', 'dry_run')


def check_flags() -> bool:
    """Return whether the command is to be launched.

    Raises:
      UserError: a launch flag is given without --launch, or has an invalid value.
    """
    values = flags.FLAGS
    if values.launch is None:
        for flag in FLAGS:
            if values[flag].present:
                raise UserError(f'--{flag}: needs --launch={"|".join(LAUNCHERS)}')
        return False
    find_launcher(values.launch)
    for flag, value, least in (('processes', values.processes, 1), ('minutes', values.minutes, 0)):
        if value < least:
            raise UserError(f'--{flag}: must be {least} or more, got {value}')
    if values.distributed:
        raise UserError('--distributed: not with --launch, which sets it')
    return True


def launch(raw_config: RawConfig, trials: dict[str, RawConfig], workdir: Path, log: LogFn) -> None:
    """Start the job of this command line, or show its status or logs, or cancel it.

    Args:
      raw_config: the run's config.
      trials: the configs of a sweep's trials by name; empty for one model.
      workdir: the run folder.
      log: receives lines for the user.

    Raises:
      UserError: the job is invalid, its program is not installed here, or nothing was started.
      Preempted: a foreground job was interrupted, and its state is saved.
      SystemExit: a foreground job failed; has its exit code.
    """
    values = flags.FLAGS
    launcher = find_launcher(values.launch)
    config_fields.check_name(raw_config['name'], 'name')
    folder = find_job_home(raw_config, workdir) / 'launch'
    if values.job != 'start':
        _follow(launcher, values.job, folder, log)
        return
    # Check now instead of after hours in a queue.
    if values.mode == 'preflight':
        raise UserError('--launch: not with --mode=preflight, which needs no other machine')
    for config in trials.values() if trials else (raw_config,):
        parse_config(config, vocab_size=1)
    groups = _group_trials(raw_config, trials) if trials and values.trial is None else ()
    job = _make_job(launcher, str(raw_config['name']), workdir, folder, groups)
    texts = launcher.render_files(job)
    if values.dry_run:
        for name, text in texts.items():
            print(f'# {folder / name}\n{text}')
        for argv in launcher.start_commands(job):
            print(shlex.join(argv))
        return
    for name, text in texts.items():
        files.write_text(folder / name, text)
    folder.mkdir(parents=True, exist_ok=True)
    _start(launcher, job, log)


def find_job_home(raw_config: RawConfig, workdir: Path) -> Path:
    """Return the folder of the job's own files: the run folder, or a local one for remote jobs."""
    if find_launcher(flags.FLAGS.launch).ephemeral:
        return (Path('runs') / str(raw_config['name'])).resolve()
    return workdir


def _make_job(
    launcher: Launcher, name: str, workdir: Path, folder: Path, groups: tuple[str, ...]
) -> Job:
    values = flags.FLAGS
    options = parse_options(values.launch_option, launcher.options)
    is_number = values.nodes.isascii() and values.nodes.isdigit()
    hosts = () if is_number else tuple(values.nodes.split(','))
    nodes = len(hosts) or int(values.nodes)
    if nodes < 1:
        raise UserError('--nodes: must be 1 or more, got 0')
    if hosts and not launcher.accepts_hosts:
        raise UserError(
            f'--nodes: must be a number for --launch={values.launch}, got {values.nodes}'
        )
    if launcher.ephemeral and not values.workdir:
        raise UserError(
            f'--launch={values.launch}: needs --workdir=FOLDER on storage that outlives the '
            'machines'
        )
    python = [options.get('python', 'python3'), 'run.py']
    if launcher.shared_filesystem:
        # Without --workdir, the folder is runs/NAME below this one, so its full path is passed.
        python, place = _own_program(), [f'--workdir={workdir}']
    else:
        place = [f'--workdir={values.workdir}'] if values.workdir else []
    return Job(
        name=name,
        command=(*python, *remove_launch_flags(sys.argv[1:]), *place),
        cwd=Path.cwd(),
        folder=folder,
        nodes=nodes,
        hosts=hosts,
        processes_per_node=values.processes,
        minutes=values.minutes,
        trial_groups=groups,
        options=options,
    )


def _own_program() -> list[str]:
    return [sys.executable, str(Path(sys.argv[0]).resolve())]


def remove_launch_flags(arguments: list[str]) -> list[str]:
    """Return the command line without the launch flags and --workdir."""
    removed = (*FLAGS, 'workdir')
    remaining, skip = [], False
    for argument in arguments:
        name, equals, _ = argument.removeprefix('-').removeprefix('-').partition('=')
        name = name.replace('dry-run', 'dry_run')
        is_flag = argument.startswith('-')
        if skip:  # the value of the previous flag
            skip = False
        elif is_flag and (name in removed or name.removeprefix('no') in removed):
            skip = not equals and name.removeprefix('no') != 'dry_run'
        else:
            remaining.append(argument)
    return remaining


def make_trial_command(workdir: Path) -> list[str]:
    """Return the command with which a sweep starts a trial: this command line, with --workdir.

    If the launcher set GPT_JAX_STEP, the command is run by that script, which starts one job step
    with many processes.
    """
    words = [
        argument
        for argument in remove_launch_flags(sys.argv[1:])
        if not argument.startswith(('--trials', '-trials'))
    ]
    step = os.environ.get('GPT_JAX_STEP')
    command = [*_own_program(), *words, f'--workdir={workdir}']
    return ['bash', step, *command, '--distributed=auto'] if step else command


def _group_trials(raw_config: RawConfig, trials: dict[str, RawConfig]) -> tuple[str, ...]:
    """Group trials that one process must run: a trunk with its branches, and vmapped ones."""
    groups = [[name] for name in trials]
    at_once = raw_config['sweep']['trials_per_process']
    if at_once > 1:
        from gpt_jax.trainer import vmapped_trials

        groups = vmapped_trials.group_trials(trials, at_once)
    group_of = {name: group for group in groups for name in group}
    for name, trial in trials.items():
        trunk = trial['train']['branch_from']
        if trunk in group_of and group_of[trunk] is not group_of[name]:
            group, trunk_group = group_of[name], group_of[trunk]
            trunk_group += group
            group_of |= dict.fromkeys(group, trunk_group)
    unique = {id(group): group for group in group_of.values()}
    return tuple(','.join(group) for group in unique.values())


def _start(launcher: Launcher, job: Job, log: LogFn) -> None:
    record = {'launch': flags.FLAGS.launch, 'job': job.to_json(), 'printed': ''}
    if isinstance(launcher, local.ForegroundLauncher):
        files.write_json(job.folder / STARTED_FILE, record)
        code = local.run_processes(
            lambda attempt: launcher.make_processes(job, attempt),
            job.get_int_option('restarts', 0),
            log,
            job.folder,
        )
        if code == EXIT_RESUMABLE:
            raise Preempted('interrupted; the same command resumes it')
        if code:
            sys.exit(code)
        return
    commands = launcher.start_commands(job)
    _check_programs(commands)
    for argv in commands:
        files.write_json(job.folder / STARTED_FILE, record)
        # Commands of other launchers print while they run, some of them for days.
        stdout = subprocess.PIPE if launcher.captures_output else None
        done = subprocess.run(argv, stdout=stdout, text=True)
        if done.returncode:
            raise UserError(
                f'{argv[0]}: failed with exit code {done.returncode}; see its output above'
            )
        if launcher.captures_output:
            record['printed'] = done.stdout
            log(f'{argv[0]}: {done.stdout.strip()}')
    files.write_json(job.folder / STARTED_FILE, record)
    log(f'started; see --job=status, --job=logs, --job=cancel; files in {job.folder}')


def _check_programs(commands: list[list[str]]) -> None:
    for argv in commands:
        if shutil.which(argv[0]) is None:
            raise UserError(
                f'{argv[0]}: program not found; install it, or add --dry_run to print the commands'
            )


def _follow(launcher: Launcher, action: str, folder: Path, log: LogFn) -> None:
    """Run status, logs or cancel for the job that was last started from `folder`."""
    path = folder / STARTED_FILE
    if not path.exists():
        raise UserError(f'{path}: no such file; no job was started from here for this run')
    record = files.read_json(path)
    if record['launch'] != flags.FLAGS.launch:
        raise UserError(
            f'--launch={flags.FLAGS.launch}: the job was started with {record["launch"]} ({folder})'
        )
    job = Job.from_json(record['job'])
    make_commands = {
        'status': launcher.status_commands,
        'logs': launcher.log_commands,
        'cancel': launcher.cancel_commands,
    }[action]
    commands = make_commands(job, record['printed'])
    if flags.FLAGS.dry_run:
        print('\n'.join(shlex.join(argv) for argv in commands))
        return
    _check_programs(commands)
    if not commands:
        log(f'{folder}: no log yet' if action == 'logs' else f'{folder}: not running')
    for argv in commands:
        code = subprocess.run(argv, env=os.environ).returncode
        if code:
            raise UserError(
                f'{argv[0]}: failed with exit code {code}; the job may be gone, see --job=logs'
            )
    if action == 'status':
        log(_describe_result(folder.parent))


def _describe_result(workdir: Path) -> str:
    """Describe the result of the job from its run folder."""
    if (workdir / 'summary.json').exists():
        return f'{workdir}: done'
    if not (workdir / 'trials').exists():
        return f'{workdir}: not done'
    return f'{workdir}: {len(list(workdir.glob("trials/*/summary.json")))} trials done'
