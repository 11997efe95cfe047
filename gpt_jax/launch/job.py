"""What is to be run where? One description that every launcher turns into its own files and commands."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax.errors import UserError
from gpt_jax.launch import quoting
from gpt_jax.schema import nearest

STARTED = 'started.json'  # in Job.folder: what the launcher needs to find its job again


@dataclass(frozen=True)
class Job:
    """name: of the run. command: of one process, without --distributed. cwd: where it starts. folder: of the files.

    nodes: machines; hosts: their names, where the launcher wants names. processes: on each. minutes: the time limit, 0
    for none. parts: a sweep's trials by process, 'NAME' or 'NAME,NAME'; empty where one model is trained.
    """

    name: str
    command: tuple[str, ...]
    cwd: Path
    folder: Path
    nodes: int
    hosts: tuple[str, ...]
    processes: int
    minutes: int
    parts: tuple[str, ...]
    options: Mapping[str, str]

    @property
    def tasks(self) -> int:
        """Processes on all nodes."""
        return self.nodes * self.processes

    @property
    def env(self) -> dict[str, str]:
        """--launch_option=env.NAME=VALUE."""
        return {key[4:]: value for key, value in self.options.items() if key.startswith('env.')}

    def option(self, name: str, otherwise: str = '') -> str:
        return self.options.get(name, otherwise)

    def needs(self, name: str, example: str) -> str:
        """The option's value.

        Raises:
          UserError: it is not given.
        """
        if not self.option(name):
            raise UserError(f'--launch_option={name}=...: is needed here; {example}, say')
        return self.options[name]

    def number(self, name: str, otherwise: int) -> int:
        """The option as a natural number.

        Raises:
          UserError: it is none.
        """
        value = self.option(name, str(otherwise))
        if not (value.isascii() and value.isdigit()):
            raise UserError(f'--launch_option={name}={value}: wants a natural number')
        return int(value)


def saved(job: Job) -> dict[str, Any]:
    """The job in JSON's types."""
    return {**vars(job), 'cwd': str(job.cwd), 'folder': str(job.folder), 'options': dict(job.options)}


def loaded(fields: dict[str, Any]) -> Job:
    """The job again."""
    made: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    return Job(**made | {key: Path(fields[key]) for key in ('cwd', 'folder')})


class Launcher(NamedTuple):
    """options: those it takes, with what they mean. files: their text, by name in Job.folder.

    start, status, logs, cancel: argument lists to run one after the other; the last three are given what the last
    command of `start` printed (sbatch: the job's number).
    """

    options: Mapping[str, str]
    files: Callable[[Job], dict[str, str]]
    start: Callable[[Job], list[list[str]]]
    status: Callable[[Job, str], list[list[str]]]
    logs: Callable[[Job, str], list[list[str]]]
    cancel: Callable[[Job, str], list[list[str]]]


def options(given: list[str], known: Mapping[str, str]) -> dict[str, str]:
    """`KEY=VALUE` words as a dict.

    Raises:
      UserError: one without '=', one twice, or one that this launcher does not know.
    """
    made: dict[str, str] = {}
    for word in given:
        key, equals, value = word.partition('=')
        if not equals or not value:
            raise UserError(f'--launch_option={word}: wants KEY=VALUE')
        if key not in known and not key.startswith('env.'):
            there = ', '.join(known)
            raise UserError(f'--launch_option={key}: no such option here{nearest(key, known)}; there are {there}')
        if key in made:
            raise UserError(f'--launch_option={key}: is given twice')
        made[key] = quoting.checked(value)
    return made
