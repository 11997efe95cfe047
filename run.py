"""Train, evaluate and benchmark GPTs of any size, and run sweeps over sizes.

  python run.py --config=configs/ladder_cpu.py                      a sweep: every size, the law
  python run.py --config=configs/gpt_tiny.py                        one model
  python run.py --config=configs/gpt_tiny.py --config.model.width=256 --workdir=runs/wide
  python run.py --config=configs/gpt_tiny.py --mode=evaluate        best or newest checkpoint
  python run.py --config=configs/gpt_tiny.py --mode=benchmark       speed of the training step
  python run.py --config=configs/gpt_tiny.py --mode=coord_check --config.model.parametrization=mup
  python run.py --config=configs/gpt_175b.py --mode=preflight --topology=v5p:8x8x16
  python run.py --config=configs/gpt_tiny.py --launch=slurm --nodes=2      or ssh, tpu, gke, local

For checkpoints, records and plans, use the other program: gpt-jax --help.

Every config field is a flag, --config.SECTION.FIELD=VALUE; docs/reference/config.md lists them. If
the same command is run again, it does only what is not yet done. Exit codes: 0 done; 2 bad input;
3 a run diverged, or a trial or a check failed; 4 out of memory; 5 disk full; 75 interrupted and
saved, or a budget of the sweep is spent: run it again.
"""

import json
import sys
from pathlib import Path

# The `configs` of this folder takes precedence over any other package of that name, even with
# `python -P`.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from gpt_jax.core import interruption

if __name__ == '__main__':
    interruption.install('run.py')  # before the imports, which take seconds on a slow disk

from absl import app, flags, logging

from gpt_jax.cli import launch
from gpt_jax.core import command, config_cli, files
from gpt_jax.core.command import log
from gpt_jax.core.config import WEIGHT_DTYPES, RawConfig, parse_config, to_raw
from gpt_jax.core.errors import UserError
from gpt_jax.sweep.process import exit_with_parent

MODES = ('train', 'evaluate', 'benchmark', 'coord_check', 'preflight')
# Flags that belong to one mode; their default None means "not given".
MODE_FLAGS = {
    'benchmark_output': 'benchmark',
    'run_code': 'evaluate',
    'weight_dtype': 'evaluate',
    'topology': 'preflight',
    'price': 'preflight',
    'search': 'preflight',
    'candidates': 'preflight',
    'compiler_options': 'preflight',
}

_CONFIG = config_cli.define_config_flag('config', 'Path of a config file in configs/.')
flags.declare_key_flag('config')  # defined in another module, but belongs to this one in --help
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run; runs/NAME by default.')
_MODE = flags.DEFINE_enum('mode', 'train', MODES, 'What to do; a config with trials is a sweep.')
_TRIAL = flags.DEFINE_string(
    'trial', None, 'Run this trial of the sweep in this process; A,B,...: several at once, by vmap.'
)
_TRIALS = flags.DEFINE_string('trials', None, 'Run only these trials of the sweep: A,B,...')
_DISTRIBUTED = flags.DEFINE_string(
    'distributed',
    '',
    "Join other processes: 'auto' (Slurm, TPU pods) or COORDINATOR:PORT,PROCESSES,INDEX.",
)
_BENCHMARK_OUTPUT = flags.DEFINE_string(
    'benchmark_output', None, 'benchmark: also write the JSON to this file.'
)
_WEIGHT_DTYPE = flags.DEFINE_enum(
    'weight_dtype',
    None,
    WEIGHT_DTYPES,
    'evaluate: dtype of the weight matrices; float32 by default.',
)
_RUN_CODE = flags.DEFINE_bool(
    'run_code',
    None,
    'evaluate: run generated programs for pass@k, with your permissions; not sandboxed.',
)
_TOPOLOGY = flags.DEFINE_string(
    'topology', None, 'preflight: the machine, such as v5p:8x8x16, v5e-256 or h100:8.'
)
_PRICE = flags.DEFINE_float(
    'price', None, 'preflight: US dollars per chip-hour; the list price by default.', 0
)
_SEARCH = flags.DEFINE_bool(
    'search', None, 'preflight: search over meshes, rematerialization and microbatches.'
)
_CANDIDATES = flags.DEFINE_integer(
    'candidates', None, 'preflight --search: compile candidates until this many fit; 4 by default.'
)
_COMPILER_OPTIONS = flags.DEFINE_string(
    'compiler_options', None, 'preflight: XLA options, xla_NAME=VALUE,...'
)
launch.define_flags()


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # the libraries log a lot at INFO
    exit_with_parent()
    _check_mode_flags()
    config = to_raw(_CONFIG.value)
    trials = config_cli.expand_trials(config)
    config_cli.check_overrides(sys.argv, config)
    if _WORKDIR.value == '':
        raise UserError('--workdir=: must not be empty; leave it out for runs/NAME')
    folder = _WORKDIR.value or f'runs/{config["name"]}'
    workdir = files.check_path(folder, '--workdir').resolve()
    is_launched = launch.check_flags()
    _check_folders(config, workdir, is_launched)
    _check_trial_flags(trials)
    if is_launched:
        launch.launch(config, trials, workdir, log)
    elif not trials:
        _run_mode(config, workdir, None)
    elif _TRIAL.value is None:
        _run_sweep(config, trials, workdir)
    elif ',' in _TRIAL.value:
        _run_vmapped({name: trials[name] for name in _TRIAL.value.split(',')}, workdir)
    else:
        name = _TRIAL.value
        _run_mode(trials[name], workdir / 'trials' / name, config_cli.find_trial(trials, name))


def _run_sweep(config: RawConfig, trials: dict[str, RawConfig], workdir: Path) -> None:
    """Run every unfinished trial of the sweep, each in its own process."""
    if _MODE.value != 'train':
        example = next(iter(trials))
        raise UserError(f'--mode={_MODE.value}: this config is a sweep; add --trial={example}')
    if _DISTRIBUTED.value:
        raise UserError(
            '--distributed: a sweep runs its trials on one host; add --trial=NAME to run one trial '
            'on several'
        )
    from gpt_jax.trainer.sweep import run_sweep

    run_sweep(config, trials, launch.make_trial_command(workdir), workdir, log, _TRIALS.value)


def _run_vmapped(configs: dict[str, RawConfig], workdir: Path) -> None:
    """Train several trials at once in this process."""
    if _MODE.value != 'train' or _DISTRIBUTED.value:
        raise UserError(
            '--trial: several trials at once need --mode=train on one host; name one trial'
        )
    from gpt_jax.core import jax_setup
    from gpt_jax.trainer import vmapped_trials

    configs_checked = [parse_config(config, vocab_size=1) for config in configs.values()]
    jax_setup.start_jax(configs_checked[0].mesh.cpu_devices, '')
    vmapped_trials.train_trials(configs, workdir, log)


def _run_mode(config: RawConfig, workdir: Path, position: tuple[int, int] | None) -> None:
    """Run --mode for one model, in this process.

    Args:
      config: the model's config.
      workdir: the run's folder.
      position: (k, n) for trial k of n; None outside a sweep.
    """
    if _MODE.value == 'preflight':
        _run_preflight(config)
        return
    from gpt_jax.core import jax_setup
    from gpt_jax.train import build
    from gpt_jax.trainer import dataset, init_from, resume, summary, trainer

    config = init_from.config_from_pretrained(config, log)
    if _MODE.value in ('coord_check', 'benchmark'):
        dataset.require_text(config, _MODE.value)
    checked = parse_config(config, vocab_size=1)
    if _MODE.value == 'train' and (done := resume.load_finished_summary(config, workdir)):
        log(f'{workdir}: already done, {summary.describe_validation(done)}; delete it to redo')
        return
    mesh, stall_seconds = checked.mesh, 60 * checked.train.stall_minutes
    jax_setup.start_jax(mesh.cpu_devices, _DISTRIBUTED.value, stall_seconds, mesh.axes)
    build.make_layout(checked)  # raises before any work if the devices do not suit the mesh
    if _MODE.value == 'train':
        done = trainer.train(config, workdir, log=log, trial=position)
        log(
            f'{done["name"]}: {summary.describe_validation(done)} after {done["seconds"]:.0f} s; '
            f'{workdir / "summary.json"}'
        )
    elif _MODE.value == 'evaluate':
        from gpt_jax.trainer import evaluate

        weight_dtype = _WEIGHT_DTYPE.value or 'float32'
        scores = evaluate.evaluate_run(config, workdir, log, weight_dtype, bool(_RUN_CODE.value))
        print(json.dumps(scores))
    elif _MODE.value == 'coord_check':
        from gpt_jax.trainer import coord_check

        coord_check.run_coord_check(config, workdir, log)
    else:
        from gpt_jax.trainer import benchmark

        benchmark.run_benchmark(config, _BENCHMARK_OUTPUT.value, log)


def _run_preflight(config: RawConfig) -> None:
    """Compile the step for a machine that is not attached; report memory, time and cost."""
    if _TOPOLOGY.value is None:
        raise UserError('--topology: missing; preflight needs a machine, such as v5p:2x2x4')
    from gpt_jax.preflight import topology

    machine = topology.parse_machine(_TOPOLOGY.value)
    topology.set_compile_environment(machine)  # before JAX is imported
    from gpt_jax.preflight import preflight
    from gpt_jax.trainer import init_from

    config = init_from.config_from_pretrained(config, log)
    request = (config, _TOPOLOGY.value, _PRICE.value, _COMPILER_OPTIONS.value, log)
    if _SEARCH.value:
        print(json.dumps(preflight.run_search(*request, _CANDIDATES.value)))
    else:
        print(json.dumps(preflight.run_preflight(*request)))


def _check_mode_flags() -> None:
    """Raise UserError for a flag of another mode, or an empty flag."""
    for flag, mode in MODE_FLAGS.items():
        value = flags.FLAGS[flag].value
        if value is not None and _MODE.value != mode:
            raise UserError(f'--{flag}: belongs to --mode={mode}, not to --mode={_MODE.value}')
        if value == '':
            raise UserError(f'--{flag}=: must not be empty; {flags.FLAGS[flag].help}')


def _check_folders(config: RawConfig, workdir: Path, is_launched: bool) -> None:
    """Raise UserError for a folder that cannot be written to."""
    if is_launched:
        files.check_writable(launch.find_job_home(config, workdir), '--workdir')
    elif _MODE.value in ('train', 'coord_check'):
        files.check_writable(workdir, '--workdir')
    if _BENCHMARK_OUTPUT.value is not None:
        files.check_writable(Path(_BENCHMARK_OUTPUT.value).resolve().parent, '--benchmark_output')


def _check_trial_flags(trials: dict[str, RawConfig]) -> None:
    """Raise UserError for --trial or --trials that do not suit the config."""
    if _TRIALS.value is not None and (
        not trials or _MODE.value != 'train' or _TRIAL.value is not None
    ):
        raise UserError('--trials: must be used with a sweep, --mode=train and no --trial')
    for flag in ('trial', 'trials'):
        names = flags.FLAGS[flag].value
        for name in names.split(',') if names is not None else ():
            config_cli.find_trial(trials, name, f'--{flag}')


if __name__ == '__main__':
    command.run_command('run.py', lambda: app.run(main, flags_parser=config_cli.parse_flags))
