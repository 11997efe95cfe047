"""How do a config file, --config.FIELD flags and a sweep's trials become plain dicts? Errors are one line each."""

import copy
import importlib.util
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from gpt_jax import schema
from gpt_jax.errors import UserError
from gpt_jax.identity import flatten

CONFIGS = Path(__file__).parents[1] / 'configs'  # those beside this package


def define_config_flag(name: str, text: str) -> Any:
    """--NAME=FILE and --NAME.FIELD=VALUE."""
    return config_flags.DEFINE_config_file(name, None, text)


def parse(argv: list[str], *, bare: Collection[str] = ()) -> list[str]:
    """Parses the command line; --help prints the page and leaves with 0.

    Args:
      bare: the modes that take no --config; all others want one.

    Raises:
      UserError: an unknown flag, field or file, or a value of the wrong type; names the nearest right one.
    """
    if any(flag in ('--help', '-help', '-h') for flag in argv):
        app.usage(writeto_stdout=True)
        sys.exit(0)
    path, mode = _given(argv, 'config'), _given(argv, 'mode')
    if mode in bare and (path or any(re.match('--?config[.]', flag) for flag in argv)):
        raise UserError(f'--mode={mode}: takes no --config')
    if mode not in bare and not path and not any(flag.startswith(('--help', '-help')) for flag in argv):
        raise UserError('say which model: --config=configs/gpt_tiny.py, say; --help tells more')
    if path and not Path(path.partition(':')[0]).exists():
        there = sorted(str(one) for one in Path('configs').rglob('*.py') if one.stem != '__init__')
        raise UserError(f'--config={path}: no such file{schema.nearest(path, there)}')
    try:
        rest = flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        known = [name for name in flags.FLAGS if not name.startswith('config.')]
        raise UserError(f'--{error.flagname}: no such flag{schema.nearest(error.flagname, known)}') from None
    except (AttributeError, KeyError) as error:
        raise UserError(_unknown_field(argv, error)) from None
    except OSError as error:
        raise UserError(f'--config={path}: {" ".join(str(error).split())}') from None
    except flags.IllegalFlagValueError as error:
        raise UserError(_wrong_value(error)) from None
    except (flags.Error, TypeError, ValueError, ImportError, SyntaxError) as error:
        raise UserError(' '.join(str(error).split())) from None
    if len(rest) > 1:
        raise UserError(f'{rest[1]!r}: not a flag; write --FLAG=VALUE')
    return rest


def _given(argv: list[str], flag: str) -> str:
    """The value of --FLAG, written with '=' or with a space; '' without one."""
    for argument, following in zip(argv, [*argv[1:], ''], strict=True):
        name, equals, value = argument.partition('=')
        if name in (f'--{flag}', f'-{flag}'):
            return value if equals else following
    return ''


def check_overrides(argv: list[str], config: dict[str, Any]) -> None:
    """Raises UserError for a --config.FIELD that every trial of the sweep would replace again."""
    trials = config['sweep']['trials']
    swept = set.intersection(*map(set, trials)) - {'name'} if trials else set()
    for argument in argv:
        key = argument.partition('=')[0].removeprefix('--config.')
        if argument.startswith('--config.') and key in swept:
            raise UserError(f'config.{key}: the trials of this sweep set it; change it in the config file')


def _unknown_field(argv: list[str], error: Exception) -> str:
    known = [key for key, _ in flatten(defaults())]
    for argument in argv:
        key = re.match(r'--config\.([^=]+)', argument)
        if key and key[1] not in known and not any(name.startswith(f'{key[1]}.') for name in known):
            return f'config.{key[1]}: no such field{schema.nearest(key[1], known)}'
    return ' '.join(str(error).split())


def _wrong_value(error: Exception) -> str:
    """absl's 'flag --NAME=VALUE: REASON', with the reason that a number cannot be read in the config's words."""
    said = ' '.join(str(error).split())
    number = re.fullmatch(
        r'flag --([^=]+)=(.*): (?:invalid literal for (int)|could not convert string to (float)).*', said
    )
    return f'{number[1]}: wants {number[3] or number[4]}, got {number[2]!r}' if number else said


def defaults() -> dict[str, Any]:
    """configs/base.py as nested dicts: the one beside this package, whatever `configs` is where the user stands.

    Raises:
      UserError: it is not there.
    """
    return read(CONFIGS / 'base.py')


def read(path: Path) -> dict[str, Any]:
    """A config file as nested dicts.

    Raises:
      UserError: it is not there, or no config.
    """
    spec = importlib.util.spec_from_file_location(f'gpt_jax_config_{path.stem}', path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UserError(f'{path}: no such file; install gpt_jax from its own folder, with pip install -e')
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return plain(module.get_config())
    except Exception as error:  # whatever stands in a file that is somebody else's
        raise UserError(f'{path}: no config ({type(error).__name__}: {" ".join(str(error).split())})') from None


def plain(config: ConfigDict) -> dict[str, Any]:
    """The config as nested dicts of JSON's types, tuples as lists: what is saved with a run is what ran."""

    def convert(value: Any) -> Any:
        if isinstance(value, ConfigDict | dict):
            return {key: convert(item) for key, item in value.items()}
        return [convert(item) for item in value] if isinstance(value, list | tuple) else value

    return convert(config)


def trials(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The configs of a sweep by the trials' names, in their order; empty where the config declares no sweep.

    Raises:
      UserError: a trial without a name, two of one name, or a key that no config has.
    """
    made: dict[str, dict[str, Any]] = {}
    for index, trial in enumerate(config.get('sweep', {}).get('trials', ())):
        field = f'sweep.trials[{index}]'
        schema.require(isinstance(trial, dict) and 'name' in trial, field, 'wants a dict with a name')
        schema.name(trial['name'], f'{field}.name')
        schema.require(trial['name'] not in made, f'{field}.name', f'{trial["name"]!r} twice')
        made[trial['name']] = _replaced(config, trial, field)
    return made


def _replaced(config: dict[str, Any], trial: dict[str, Any], field: str) -> dict[str, Any]:
    config = copy.deepcopy(config | {'sweep': config['sweep'] | {'trials': []}})
    known = [key for key, _ in flatten(config)]
    for key, value in trial.items():
        schema.require(key in known, f'{field}.{key}', f'no such field{schema.nearest(key, known)}')
        *sections, last = key.split('.')
        place = config
        for section in sections:
            place = place[section]
        place[last] = value
    return config


def select(made: dict[str, Any], name: str) -> tuple[int, int]:
    """(k, n) for the trial of that name.

    Raises:
      UserError: there is none.
    """
    if name not in made:
        raise UserError(f'--trial={name}: no such trial; the trials are {", ".join(made) or "none: no sweep"}')
    return list(made).index(name) + 1, len(made)
