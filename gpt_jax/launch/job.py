"""The description of a job, and the interface that launchers implement."""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from gpt_jax.core.config_fields import nearest
from gpt_jax.core.errors import UserError
from gpt_jax.launch import quoting

STARTED_FILE = 'started.json'  # in Job.folder: what the launcher needs to follow its job
ENV_PREFIX = 'env.'  # prefix of option keys that set environment variables


@dataclass(frozen=True)
class Job:
    """A command to run on one or more machines.

    Attributes:
      name: the run's name.
      command: argument list of one process, without --distributed.
      cwd: the working directory of each process.
      folder: the folder for the launcher's own files.
      nodes: number of machines.
      hosts: their names, for a launcher that needs names; else empty.
      processes_per_node: number of processes on each machine.
      minutes: the time limit; 0: none.
      trial_groups: the trials of a sweep by process, each 'NAME' or 'NAME,NAME'; empty for a run
        that trains one model.
      options: the values of --launch_option by key.
    """

    name: str
    command: tuple[str, ...]
    cwd: Path
    folder: Path
    nodes: int
    hosts: tuple[str, ...]
    processes_per_node: int
    minutes: int
    trial_groups: tuple[str, ...]
    options: Mapping[str, str]

    @property
    def total_processes(self) -> int:
        """Number of processes on all machines."""
        return self.nodes * self.processes_per_node

    @property
    def env(self) -> dict[str, str]:
        """Environment variables, from --launch_option=env.NAME=VALUE."""
        return {
            key.removeprefix(ENV_PREFIX): value
            for key, value in self.options.items()
            if key.startswith(ENV_PREFIX)
        }

    def get_option(self, key: str, default: str = '') -> str:
        """Return the value of an option, or the default."""
        return self.options.get(key, default)

    def require_option(self, key: str, example: str) -> str:
        """Return the value of an option.

        Raises:
          UserError: the option is missing; the message shows the example.
        """
        if not self.get_option(key):
            raise UserError(f'--launch_option={key}=VALUE: is required; for example {example}')
        return self.options[key]

    def get_int_option(self, key: str, default: int) -> int:
        """Return the value of an option as a non-negative integer.

        Raises:
          UserError: the value is anything else.
        """
        value = self.get_option(key, str(default))
        if not (value.isascii() and value.isdigit()):
            raise UserError(f'--launch_option={key}: must be a non-negative integer, got {value}')
        return int(value)

    def get_bool_option(self, key: str) -> bool:
        """Return whether an option is 'yes'; it is 'no' by default.

        Raises:
          UserError: the value is neither 'yes' nor 'no'.
        """
        value = self.get_option(key, 'no')
        if value not in ('yes', 'no'):
            raise UserError(f'--launch_option={key}: must be yes or no, got {value}')
        return value == 'yes'

    def to_json(self) -> dict[str, Any]:
        """Return the job in JSON's types."""
        return {
            **vars(self),
            'cwd': str(self.cwd),
            'folder': str(self.folder),
            'options': dict(self.options),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Return the job that `to_json` wrote."""
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
        }
        values |= {key: Path(fields[key]) for key in ('cwd', 'folder')}
        return cls(**values)


class Launcher(abc.ABC):
    """One way to run jobs: a scheduler, a cloud, a set of machines.

    To support another one, write a subclass and name an instance of it on the command line:
    `--launch=my_lab.launchers:FARM`. Methods return argument lists to run one after the other.

    Attributes:
      options: help text by key of --launch_option.
      shared_filesystem: whether this machine's paths, Python included, are valid on the machines
        of the job. If not, the options 'python' and 'folder' give their interpreter and the folder
        of run.py.
      ephemeral: whether the machines are temporary, so that the run folder is not on this machine:
        --workdir is required, and the launcher's files are in runs/NAME/launch here.
      accepts_hosts: whether --nodes may list names of machines.
      captures_output: whether the output of the start command identifies the job; it is then
        stored, and passed to the other commands.
    """

    options: Mapping[str, str]
    shared_filesystem = True
    ephemeral = False
    accepts_hosts = False
    captures_output = False

    @abc.abstractmethod
    def render_files(self, job: Job) -> dict[str, str]:
        """Check the job and return the text of its files by name in `job.folder`.

        Raises:
          UserError: the launcher cannot run this job, or an option is missing or invalid.
        """

    @abc.abstractmethod
    def start_commands(self, job: Job) -> list[list[str]]:
        """Return the commands that start the job, once its files are written."""

    @abc.abstractmethod
    def status_commands(self, job: Job, output: str) -> list[list[str]]:
        """Return the commands that show the job's state.

        Args:
          job: the started job.
          output: what the last start command printed, if `captures_output`; else ''.
        """

    @abc.abstractmethod
    def log_commands(self, job: Job, output: str) -> list[list[str]]:
        """Return the commands that show the end of the job's logs; see `status_commands`."""

    @abc.abstractmethod
    def cancel_commands(self, job: Job, output: str) -> list[list[str]]:
        """Return the commands that end the job; see `status_commands`."""


def parse_options(words: Sequence[str], known: Mapping[str, str]) -> dict[str, str]:
    """Parse KEY=VALUE options.

    Args:
      words: the values of --launch_option.
      known: the launcher's options; env.NAME is accepted as well.

    Raises:
      UserError: an option has no '=', or its key is unknown or repeated.
    """
    options: dict[str, str] = {}
    for word in words:
        key, _, value = word.partition('=')
        if not value:
            raise UserError(f'--launch_option: must be KEY=VALUE, got {word!r}')
        if key not in known and not key.startswith(ENV_PREFIX):
            raise UserError(
                f'--launch_option={key}: must be one of {", ".join(known)} or env.NAME'
                f'{nearest(key, known)}'
            )
        if key in options:
            raise UserError(f'--launch_option={key}: is given twice')
        options[key] = quoting.check_argument(value)
    return options
