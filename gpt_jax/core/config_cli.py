"""Reading of config files, --config.FIELD flags and a sweep's trials, as nested dicts."""

import copy
import importlib.util
import inspect
import re
import sys
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from gpt_jax.core import config_fields
from gpt_jax.core.config import RawConfig, default_config, to_raw
from gpt_jax.core.config_fields import flatten_config
from gpt_jax.core.errors import UserError
from gpt_jax.core.files import expand_home

# Flags of run.py whose value is a path. --workdir is not among them: a launcher passes it on, and ~
# then is the home folder on the other machine.
PATH_FLAGS = ('config', 'benchmark_output')


def define_config_flag(name: str, text: str) -> Any:
    """Define --NAME=FILE and --NAME.FIELD=VALUE."""
    return config_flags.DEFINE_config_file(name, None, text)


def parse_flags(argv: list[str]) -> list[str]:
    """Parse the command line of run.py; --help prints the help text and exits with code 0.

    Raises:
      UserError: an unknown flag, field or file, or a value of the wrong type; names the nearest
        known one.
    """
    if any(flag in ('--help', '-help', '-h') for flag in argv):
        app.usage(writeto_stdout=True)
        sys.exit(0)
    argv = _expand_paths(argv)
    path = _find_value(argv, 'config')
    if not path and not any(flag.startswith(('--help', '-help')) for flag in argv):
        raise UserError('--config: missing; for example --config=configs/gpt_tiny.py; see --help')
    if path and not Path(path.partition(':')[0]).exists():
        known = sorted(str(file) for file in Path('configs').rglob('*.py') if file.stem[0] != '_')
        raise UserError(f'--config={path}: no such file{config_fields.nearest(path, known)}')
    if path and not path.partition(':')[0].endswith('.py'):
        raise UserError(f"--config={path}: a config file's name must end in .py")
    if ':' in path:
        read_config_file(path)  # its message for an unknown variant is clearer than absl's
    try:
        rest = flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        names = [name for name in flags.FLAGS if not name.startswith('config.')]
        hint = config_fields.nearest(error.flagname, names)
        raise UserError(f'--{error.flagname}: no such flag{hint}') from None
    except (AttributeError, KeyError) as error:
        raise UserError(_describe_unknown_field(argv, error)) from None
    except OSError as error:
        raise UserError(f'--config={path}: {" ".join(str(error).split())}') from None
    except flags.IllegalFlagValueError as error:
        raise UserError(_describe_illegal_value(error)) from None
    except (flags.Error, TypeError, ValueError, ImportError, SyntaxError) as error:
        raise UserError(' '.join(str(error).split())) from None
    if len(rest) > 1:
        raise UserError(f'{rest[1]!r}: not a flag; write --FLAG=VALUE')
    return rest


def _expand_paths(argv: list[str]) -> list[str]:
    """Expand ~ in the values of PATH_FLAGS, written with '=' or with a space."""
    expanded, is_path = [], False
    for argument in argv:
        name, equals, value = argument.partition('=')
        flag = name.removeprefix('-').removeprefix('-')
        if name.startswith('-') and equals and flag in PATH_FLAGS:
            argument = f'{name}={expand_home(value, f"--{flag}")}'
        elif is_path:
            argument = expand_home(argument, 'path')
        is_path = name.startswith('-') and not equals and flag in PATH_FLAGS
        expanded.append(argument)
    return expanded


def _find_value(argv: list[str], flag: str) -> str:
    """Return the value of --FLAG, written with '=' or with a space; '' if it is absent."""
    for argument, following in zip(argv, [*argv[1:], ''], strict=True):
        name, equals, value = argument.partition('=')
        if name in (f'--{flag}', f'-{flag}'):
            return value if equals else following
    return ''


def _describe_unknown_field(argv: list[str], error: Exception) -> str:
    known = [key for key, _ in flatten_config(default_config())]
    for argument in argv:
        key = re.match(r'--config\.([^=]+)', argument)
        if key and key[1] not in known and not any(name.startswith(f'{key[1]}.') for name in known):
            return f'config.{key[1]}: no such field{config_fields.nearest(key[1], known)}'
    return ' '.join(str(error).split())


def _describe_illegal_value(error: Exception) -> str:
    """Return absl's message, or for a malformed number the message that the config gives."""
    message = ' '.join(str(error).split())
    number = re.fullmatch(
        r'flag --([^=]+)=(.*): (?:invalid literal for (int)|could not convert string to (float)).*',
        message,
    )
    if number is None:
        return message
    return f'{number[1]}: must be {number[3] or number[4]}, got {number[2]!r}'


def check_overrides(argv: list[str], config: RawConfig) -> None:
    """Raise UserError for a --config.FIELD that every trial of the sweep sets itself."""
    trials = config['sweep']['trials']
    swept = set.intersection(*map(set, trials)) - {'name'} if trials else set()
    for argument in argv:
        key = argument.partition('=')[0].removeprefix('--config.')
        if argument.startswith('--config.') and key in swept:
            raise UserError(
                f'config.{key}: set by the trials of this sweep; change it in the config file'
            )


def read_config_file(path: str) -> RawConfig:
    """Run a config file and return the result of its `get_config()` as nested dicts.

    Args:
      path: 'FILE.py', or 'FILE.py:VARIANT' for `get_config(VARIANT)`.

    Raises:
      UserError: the file is missing, running it fails, or there is no such variant; names the
        nearest key of the file's SIZES.
    """
    name, colon, variant = path.partition(':')
    spec = importlib.util.spec_from_file_location(f'gpt_jax_config_{Path(name).stem}', name)
    if not Path(name).is_file():
        raise UserError(f'{name}: no such config file')
    if spec is None or spec.loader is None:
        raise UserError(f"{name}: a config file's name must end in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        sizes = getattr(module, 'SIZES', None)
        if colon and sizes is not None and variant not in sizes:
            hint = config_fields.nearest(variant, sizes)
            raise UserError(f'{path}: must be one of {", ".join(sizes)}, got {variant!r}{hint}')
        if colon and not inspect.signature(module.get_config).parameters:
            raise UserError(f'{path}: {name} has no variants; leave out {colon + variant!r}')
        raw_config: RawConfig = to_raw(module.get_config(*([variant] if colon else [])))
    except UserError:
        raise
    except Exception as error:  # a user's file may raise anything
        reason = ' '.join(str(error).split())
        raise UserError(f'{path}: not a config ({type(error).__name__}: {reason})') from None
    return raw_config


def expand_trials(config: RawConfig) -> dict[str, RawConfig]:
    """Return the config of each of a sweep's trials, by name; empty if there is no sweep.

    Raises:
      UserError: a trial has no name or the name of another, or sets an unknown field.
    """
    trials: dict[str, RawConfig] = {}
    for index, trial in enumerate(config.get('sweep', {}).get('trials', ())):
        field = f'sweep.trials[{index}]'
        config_fields.require(
            isinstance(trial, dict) and 'name' in trial, field, 'must be a dict with a name'
        )
        name = trial['name']
        config_fields.check_name(name, f'{field}.name')
        config_fields.require(name not in trials, f'{field}.name', f'{name!r} is used twice')
        trials[name] = _apply_trial(config, trial, field)
    return trials


def _apply_trial(config: RawConfig, trial: dict[str, Any], field: str) -> RawConfig:
    config = copy.deepcopy(config | {'sweep': config['sweep'] | {'trials': []}})
    known = [key for key, _ in flatten_config(config)]
    for key, value in trial.items():
        if key not in known:
            hint = config_fields.nearest(key, known)
            raise UserError(f'config.{field}.{key}: no such field{hint}')
        *sections, last = key.split('.')
        parent = config
        for section in sections:
            parent = parent[section]
        parent[last] = value
    return config


def find_trial(trials: dict[str, Any], name: str, flag: str = '--trial') -> tuple[int, int]:
    """Return (k, n): the trial of this name is number k, from 1, of n.

    Args:
      trials: the trials by name.
      name: the trial; '' if the flag was not given.
      flag: the flag that names the trial, for the error message.

    Raises:
      UserError: there is no such trial.
    """
    if not name and trials:
        raise UserError(f'this config is a sweep; add {flag}={next(iter(trials))}')
    if name not in trials:
        known = ', '.join(trials) or 'none (this config is not a sweep)'
        raise UserError(f'{flag}={name}: no such trial; known trials: {known}')
    return list(trials).index(name) + 1, len(trials)
