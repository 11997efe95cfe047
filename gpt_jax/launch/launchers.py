"""Registry of launchers."""

from gpt_jax.core.errors import UserError
from gpt_jax.core.registry import resolve
from gpt_jax.launch.gke import GkeLauncher
from gpt_jax.launch.job import Launcher
from gpt_jax.launch.local import LocalLauncher
from gpt_jax.launch.slurm import SlurmLauncher
from gpt_jax.launch.ssh import SshLauncher
from gpt_jax.launch.tpu import TpuLauncher

LAUNCHERS: dict[str, Launcher] = {
    'local': LocalLauncher(),
    'slurm': SlurmLauncher(),
    'ssh': SshLauncher(),
    'tpu': TpuLauncher(),
    'gke': GkeLauncher(),
}


def find_launcher(word: str) -> Launcher:
    """Return the launcher that --launch names.

    Args:
      word: a registered name, or a dotted path to an instance of Launcher,
        'my_lab.launchers:FARM'.

    Raises:
      UserError: the name is unknown, cannot be imported, or is not a launcher.
    """
    launcher = resolve(word, LAUNCHERS, '--launch')
    if not isinstance(launcher, Launcher):
        raise UserError(
            f'--launch: must be an instance of gpt_jax.launch.job.Launcher, got {word!r}, '
            f'which is a {type(launcher).__name__}'
        )
    return launcher
