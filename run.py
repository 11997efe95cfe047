"""Trains, evaluates and times GPTs of any size, and sweeps over sizes.

  python run.py --config=configs/ladder_cpu.py                      a sweep: every size, the curve, the law
  python run.py --config=configs/gpt_tiny.py                        one model
  python run.py --config=configs/gpt_tiny.py --config.model.width=256 --workdir=runs/wide
  python run.py --config=configs/gpt_tiny.py --mode=evaluate        the run's newest checkpoint on held-out text
  python run.py --config=configs/gpt_tiny.py --mode=benchmark       the speed of the real step
  python run.py --config=configs/gpt_tiny.py --launch=slurm --nodes=2      elsewhere: slurm, ssh, tpu, gke, local
  python run.py --config=configs/gpt_tiny.py --mode=coordinates --config.model.parametrization=mup
  python run.py --config=configs/gpt_175b.py --mode=preflight --topology=v5p:8x8x16     fits? how fast? at what cost?
  python run.py --mode=import --source=openai-community/gpt2        weights from a folder or the Hugging Face hub
  python run.py --mode=export --checkpoint=runs/gpt_tiny --output=exported      a run for transformers
  python run.py --mode=generate --checkpoint=runs/gpt_tiny --prompt="The weather today is" --max_length=50
  python run.py --mode=suite --checkpoint=runs/gpt_tiny --tasks=sentiment,choices --shots=2      what can it do?

configs/base.py lists every --config.FIELD with its default. The same command again does only what is not done.
Exit codes: 0 done; 2 bad input; 3 a run diverged, a trial or a check failed; 4 out of memory; 75 interrupted and saved,
or a budget is spent: run it again.
"""

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from gpt_jax import errors, files, overrides, watchdog
from gpt_jax.launch.trial import follow_parent
from gpt_jax.modes import generate, launching, suite_flags

MODES = ('train', 'evaluate', 'benchmark', 'coordinates', 'preflight', 'import', 'export', 'generate', 'suite')
BARE = ('import', 'export', 'generate', 'suite')  # modes that take no --config
# Flags that belong to some modes alone, and those that a mode cannot do without.
OWN = {
    'source': ('import',),
    'checkpoint': ('export', 'generate', 'suite'),
    'output': ('export', 'generate', 'suite'),
    'dtype': ('export',),
    'adapters': ('export',),
    'run_code': ('evaluate', 'suite'),
    'topology': ('preflight',),
    'price': ('preflight',),
    'search': ('preflight',),
    'candidates': ('preflight',),
    'compiler_options': ('preflight',),
}
OWN |= dict.fromkeys((*generate.OPTIONS, *generate.FLAGS), ('generate',)) | {
    'weights': ('generate', 'evaluate', 'suite')
}
OWN |= dict.fromkeys(suite_flags.FLAGS, ('suite',)) | dict.fromkeys(('devices', 'seed'), ('generate', 'suite'))
NEEDED = {
    'import': ('source',),
    'export': ('checkpoint', 'output'),
    'generate': ('checkpoint',),
    'suite': ('checkpoint',),
    'preflight': ('topology',),
}

_CONFIG = overrides.define_config_flag('config', 'Path of a config file in configs/.')
flags.declare_key_flag('config')  # defined elsewhere, and yet the first to look for in --help
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run; runs/NAME by default.')
_MODE = flags.DEFINE_enum('mode', 'train', MODES, 'What to do. A config that declares a sweep runs the sweep.')
_OUTPUT = flags.DEFINE_string('benchmark_output', None, "Also write the benchmark's JSON to this file.")
_SOURCE = flags.DEFINE_string(
    'source', None, 'import: a folder of weights, or NAME[@REVISION] on the hub of Hugging Face.'
)
_CHECKPOINT = flags.DEFINE_string(
    'checkpoint',
    None,
    "export, generate, suite: the run's folder; the latter two: or a folder or name as --source takes it.",
)
_FOLDER = flags.DEFINE_string(
    'output',
    None,
    'export: the folder to write, not there yet or empty. generate: FILE.jsonl, a record per text. suite: FILE.json.',
)
_DTYPE = flags.DEFINE_enum(
    'dtype', None, ('float32', 'bfloat16', 'float16'), 'export: what weights are written as; float32 by default.'
)
_ADAPTERS = flags.DEFINE_bool('adapters', None, "export: the run's adapters alone, as a folder of PEFT's.")
_RUN_CODE = flags.DEFINE_bool(
    'run_code',
    None,
    'evaluate, suite: run the programs that a model writes, for pass@k; with your rights, and in no jail.',
)
_TOPOLOGY = flags.DEFINE_string('topology', None, 'preflight: the machine, v5p:8x8x16, v5e-256, h100:8, ...')
_PRICE = flags.DEFINE_float('price', None, 'preflight: of a chip for an hour, in US dollars; by default a list price.')
_SEARCH = flags.DEFINE_bool('search', None, 'preflight: try meshes, rematerialization and microbatches, and rank them.')
_CANDIDATES = flags.DEFINE_integer('candidates', None, 'preflight --search: compile until so many fit; 4 by default.')
_OPTIONS = flags.DEFINE_string('compiler_options', None, 'preflight: of the compiler, xla_NAME=VALUE,...')
generate.define_flags()
suite_flags.define_flags()
launching.define_flags()
_TRIAL = flags.DEFINE_string('trial', None, 'Run only this trial of the sweep, by its name; A,B,... at once.')
_ONLY = flags.DEFINE_string('only', None, 'Of the sweep, run these trials: A,B,...; those that others run are left.')
_DISTRIBUTED = flags.DEFINE_string(
    'distributed', '', "Join other processes: 'auto' (Slurm, TPU pods) or COORDINATOR:PORT,PROCESSES,INDEX."
)


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # the libraries below are talkative
    follow_parent()
    _check_flags()
    if _MODE.value == 'generate':
        generate.generate(generate.job(_CHECKPOINT.value, _FOLDER.value), say)
        return
    if _MODE.value == 'suite':
        chosen = flags.FLAGS.weights or 'float32', generate.devices(flags.FLAGS.devices), bool(_RUN_CODE.value)
        suite_flags.suite(_CHECKPOINT.value, _FOLDER.value, *chosen, say)
        return
    if _MODE.value in BARE:
        _weights()
        return
    config = overrides.plain(_CONFIG.value)
    trials = overrides.trials(config)
    overrides.check_overrides(sys.argv, config)
    workdir = Path(_WORKDIR.value or Path('runs') / str(config['name'])).resolve()
    files.path(str(workdir), '--workdir')
    launched = launching.check_flags()
    if launched or _MODE.value in ('train', 'coordinates'):
        _check_folder('workdir', launching.home(config, workdir) if launched else workdir)
    if _OUTPUT.value is not None:
        _check_folder('benchmark_output', Path(_OUTPUT.value).resolve().parent)
    if _ONLY.value is not None and (not trials or _MODE.value != 'train' or _TRIAL.value is not None):
        raise errors.UserError('--only: chooses trials of a sweep that trains; leave it out')
    for named in (_TRIAL.value, _ONLY.value):
        for name in named.split(',') if named is not None else ():
            overrides.select(trials, name)
    if launched:
        launching.launch(config, trials, workdir, say)
        return
    if trials and _DISTRIBUTED.value and _TRIAL.value is None:
        raise errors.UserError('--distributed: a sweep starts its trials on one host; add --trial=NAME for one on many')
    if trials and _MODE.value == 'train' and _TRIAL.value is None:
        from gpt_jax.modes.sweep import sweep

        sweep(config, trials, launching.trial_command(workdir), workdir, say, _ONLY.value)
        return
    if trials and _TRIAL.value is None:
        raise errors.UserError(f'--mode={_MODE.value}: this config is a sweep; add --trial={next(iter(trials))}, say')
    if _TRIAL.value is None:
        _one(config, workdir, None)
        return
    chosen = {name: overrides.select(trials, name) for name in _TRIAL.value.split(',')}
    if len(chosen) > 1:
        _together({name: trials[name] for name in chosen}, workdir)
        return
    ((name, position),) = chosen.items()
    _one(trials[name], workdir / 'trials' / name, position)


def _check_flags() -> None:
    """Raises UserError for a flag that the mode makes no use of, and for one that it cannot do without."""
    for flag, modes in OWN.items():
        given = flags.FLAGS[flag].value is not None
        if flags.FLAGS[flag].value == '' and flag not in generate.OPTIONS:
            raise errors.UserError(f'--{flag}=: is empty; {flags.FLAGS[flag].help}')
        if given and _MODE.value not in modes:
            raise errors.UserError(f'--{flag}: belongs to --mode={" or ".join(modes)}, not to --mode={_MODE.value}')
        if not given and flag in NEEDED.get(_MODE.value, ()):
            raise errors.UserError(f'--mode={_MODE.value}: wants --{flag}={flags.FLAGS[flag].help.partition(": ")[2]}')
    idle = [
        'trial',
        'only',
        'distributed',
        'benchmark_output',
        'launch',
        *(['workdir'] if _MODE.value != 'import' else []),
    ]
    for flag in idle if _MODE.value in BARE else ():
        if flags.FLAGS[flag].value:
            raise errors.UserError(f'--{flag}: --mode={_MODE.value} makes no use of it')


def _weights() -> None:
    """Weights in or out. Files are copied and nothing is computed, so the CPU will do."""
    os.environ['JAX_PLATFORMS'] = 'cpu'
    from configs import base
    from gpt_jax import runtime
    from gpt_jax.modes import export_adapters, export_weights, import_weights

    runtime.start(1, '')
    defaults = overrides.plain(base.get_config())
    if _MODE.value == 'import':
        workdir = Path(_WORKDIR.value or Path('runs') / import_weights.name(_SOURCE.value)).resolve()
        _check_folder('workdir', workdir)
        import_weights.import_weights(_SOURCE.value, defaults, workdir, say)
        return
    output = Path(_FOLDER.value).resolve()
    _check_folder('output', output)
    run, dtype = Path(_CHECKPOINT.value), _DTYPE.value or 'float32'
    if _ADAPTERS.value:
        done = export_adapters.export(run, output, dtype, say)
    else:
        done = export_weights.export(run, output, defaults, dtype, say)
    print(json.dumps(done))


def _check_folder(flag: str, folder: Path) -> None:
    """Raises UserError where `folder` is none that can be made and written to, before any work."""
    files.path(str(folder), f'--{flag}')
    above = next(one for one in (folder, *folder.parents) if one.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise errors.UserError(f'--{flag}: {folder}: {above} is not a folder that can be written to')


def _one(config: dict[str, Any], workdir: Path, position: tuple[int, int] | None) -> None:
    """One model, in this process."""
    if _MODE.value == 'preflight':
        _preflight(config)
        return
    from gpt_jax import assemble, runtime
    from gpt_jax.modes import adopt, benchmark, coordinates, evaluate, material, summary, train

    config = adopt.adopt(config, say)
    if _MODE.value in ('coordinates', 'benchmark'):
        material.text_only(config, _MODE.value)
    checked = assemble.settings(config, vocab_size=1)
    if _MODE.value == 'train' and (done := train.finished(config, workdir)):
        say(f'{workdir}: already done, {summary.outcome(done)}; delete it to redo')
        return
    mesh = checked.mesh
    runtime.start(mesh.cpu_devices, _DISTRIBUTED.value, 60 * checked.train.stall_minutes, mesh.axes)
    assemble.devices(checked)  # raises where these devices do not suit, before any work
    if _MODE.value == 'train':
        done = train.train(config, workdir, say=say, trial=position)
        say(f'{done["name"]}: {summary.outcome(done)} after {done["seconds"]:.0f} s; {workdir / "summary.json"}')
    elif _MODE.value == 'evaluate':
        weights = flags.FLAGS.weights or 'float32'
        print(json.dumps(evaluate.evaluate(config, workdir, say, weights, bool(_RUN_CODE.value))))
    elif _MODE.value == 'coordinates':
        coordinates.coordinates(config, workdir, say)
    else:
        benchmark.benchmark(config, _OUTPUT.value, say)


def _preflight(config: dict[str, Any]) -> None:
    """One model, on a machine that is not here."""
    from gpt_jax.preflight import topology

    if _PRICE.value is not None and not _PRICE.value >= 0:
        raise errors.UserError(f'--price={_PRICE.value}: wants dollars for an hour of a chip, 0 or more')
    topology.prepare(topology.machine(_TOPOLOGY.value))
    from gpt_jax.modes import adopt, preflight

    asked = (adopt.adopt(config, say), _TOPOLOGY.value, _PRICE.value, _OPTIONS.value, say)
    found = preflight.search(*asked, _CANDIDATES.value) if _SEARCH.value else preflight.preflight(*asked)
    print(json.dumps(found))


def _together(configs: dict[str, dict[str, Any]], workdir: Path) -> None:
    """Several trials, in this process."""
    from gpt_jax import assemble, runtime
    from gpt_jax.modes import together

    if _MODE.value != 'train' or _DISTRIBUTED.value:
        raise errors.UserError('--trial: several trials at once only train, and on one host; name one')
    checked = [assemble.settings(config, vocab_size=1) for config in configs.values()]
    runtime.start(checked[0].mesh.cpu_devices, '')
    together.train(configs, workdir, say)


def say(line: str) -> None:
    """A line for the person at the terminal; standard output is for results that programs read."""
    print(line, file=sys.stderr, flush=True)


def _guarded(action: Callable[[], None]) -> None:
    """Turns the errors that are the user's into one line and an exit code."""
    codes = (
        (errors.UserError, errors.EXIT_BAD_INPUT),
        (errors.Diverged, errors.EXIT_FAILED),
        (errors.TrialsFailed, errors.EXIT_FAILED),
        (errors.CheckFailed, errors.EXIT_FAILED),
        (errors.OutOfMemory, errors.EXIT_OUT_OF_MEMORY),
        (errors.Preempted, errors.EXIT_RESUMABLE),
        (KeyboardInterrupt, errors.EXIT_RESUMABLE),
    )
    try:
        with errors.memory_named(), watchdog.fellows_named():
            action()
    except tuple(kind for kind, _ in codes) as error:
        say(f'run.py: {str(error) or "interrupted"}')
        code = next(code for kind, code in codes if isinstance(error, kind))
        if isinstance(error, KeyboardInterrupt):
            # XLA's threads may still be in a computation; Python's own way out, under them, crashes now and then.
            sys.stdout.flush()
            os._exit(code)
        sys.exit(code)


if __name__ == '__main__':
    _guarded(lambda: app.run(main, flags_parser=functools.partial(overrides.parse, bare=BARE)))
