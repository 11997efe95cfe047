"""Which ways are there to start a job? One row each; a new cluster is a new file and a row here."""

from gpt_jax.launch import gke, local, slurm, ssh, tpu
from gpt_jax.launch.job import Launcher

LAUNCHERS = {
    'local': Launcher(local.OPTIONS, local.files, local.start, local.status, local.logs, local.cancel),
    'slurm': Launcher(slurm.OPTIONS, slurm.files, slurm.start, slurm.status, slurm.logs, slurm.cancel),
    'ssh': Launcher(ssh.OPTIONS, ssh.files, ssh.start, ssh.status, ssh.logs, ssh.cancel),
    'tpu': Launcher(tpu.OPTIONS, tpu.files, tpu.start, tpu.status, tpu.logs, tpu.cancel),
    'gke': Launcher(gke.OPTIONS, gke.files, gke.start, gke.status, gke.logs, gke.cancel),
}
# Their processes are processes of this machine, and live as long as the command does.
IN_FOREGROUND = {'local': local.processes, 'ssh': ssh.processes}
FAR = ('tpu', 'gke')  # machines that come and go, on a file system of their own
ELSEWHERE = ('ssh', 'tpu', 'gke')  # another file system, it may be: paths are theirs
