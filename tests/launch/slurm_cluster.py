"""A two-node Slurm cluster on this machine, in a temporary folder, that tests start and break.

It needs Debian's packages slurm-wlm and munge and root, but no systemd. The nodes n1 and n2 are two
slurmd processes on different ports; their names must resolve, so they are added to /etc/hosts.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ('munged', 'slurmctld', 'slurmd', 'sbatch', 'srun', 'scontrol', 'squeue', 'scancel')
NODES = ('n1', 'n2')
# config_overrides: the CPUs are those of the configuration, not of the machine.
CONFIGURATION = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
SlurmctldPort={port}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=10
KillWait=5
InactiveLimit=0
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1
MpiDefault=none
NodeName=n1 NodeAddr=127.0.0.1 Port={first} CPUs=4 State=UNKNOWN
NodeName=n2 NodeAddr=127.0.0.1 Port={second} CPUs=4 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Returns why Slurm cannot run here, or ''."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if absent:
        return f'{", ".join(absent)} missing: apt-get install slurm-wlm munge'
    return '' if os.geteuid() == 0 else 'a Slurm cluster needs root'


def _path() -> str:
    return f'{os.environ["PATH"]}:/usr/sbin:/sbin'


class Cluster:
    """The running cluster; `env` is the environment of its clients."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._pending: dict[str, float] = {}  # job -> start of its pending time
        self.env = {key: value for key, value in os.environ.items() if not key.startswith('SLURM')}
        self.env |= {'SLURM_CONF': str(folder / 'slurm.conf'), 'PATH': _path()}

    def run(self, *argv: str, check: bool = True) -> str:
        result = subprocess.run(argv, env=self.env, text=True, capture_output=True, timeout=60)
        assert result.returncode == 0 or not check, f'{argv}: {result.stdout}{result.stderr}'
        return result.stdout

    def start_node(self, name: str) -> None:
        self.run('slurmd', '-N', name)

    def kill_node(self, name: str) -> None:
        """Kills the daemon and all processes of the node, as a power failure would."""
        os.kill(int((self.folder / f'slurmd-{name}.pid').read_text()), signal.SIGKILL)
        for pid in self.processes(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def processes(self, name: str) -> list[int]:
        """Returns the processes of jobs on a node: slurmstepd and its descendants."""
        parents, roots = {}, set()
        for folder in Path('/proc').iterdir():
            with contextlib.suppress(OSError, ValueError):
                parents[int(folder.name)] = int(
                    (folder / 'stat').read_text().rpartition(')')[2].split()[1]
                )
                environment = (folder / 'environ').read_bytes().split(b'\0')
                conf = f'SLURM_CONF={self.folder}/slurm.conf'.encode()
                if f'SLURMD_NODENAME={name}'.encode() in environment and conf in environment:
                    roots.add(int(folder.name))
        daemons = {
            parents[pid] for pid in roots if parents.get(pid, 1) > 1 and parents[pid] not in roots
        }
        steps = {
            pid for pid in daemons if b'slurmstepd' in Path(f'/proc/{pid}/cmdline').read_bytes()
        }
        return sorted(roots | steps)

    def wait(self, what: str, condition, seconds: float):
        """Returns the first true value of condition()."""
        until = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > until:
                queue = self.run('squeue', '--array')
                raise TimeoutError(f'{what}: not within {seconds:g} s\n{queue}{self.logs()}')
            time.sleep(0.2)
        return value

    def state(self, job: str) -> str:
        """Returns PENDING, RUNNING, ...; of an array all tasks' states; '' for a job that ended."""
        argv = ('squeue', '--noheader', '--array', '--states=all', '--format=%T', f'--jobs={job}')
        return ' '.join(self.run(*argv, check=False).split())

    def restarts(self, job: str) -> int:
        description = self.run('scontrol', 'show', 'job', job)
        return int(description.partition('Restarts=')[2].split()[0])

    def hurry(self, job: str) -> None:
        """Shortens the two minutes that Slurm lets a requeued job wait to five seconds.

        Earlier the nodes would refuse it ("Job credential revoked"), and Slurm would give it up.
        """
        if self.state(job) != 'PENDING':
            self._pending.pop(job, None)
        elif time.monotonic() - self._pending.setdefault(job, time.monotonic()) > 5.0:
            self.run('scontrol', 'update', f'JobId={job}', 'StartTime=now', check=False)

    def logs(self) -> str:
        texts = [
            path.read_text(errors='replace')[-1500:] for path in sorted(self.folder.glob('*.log'))
        ]
        return '\n'.join(texts)


def _add_host_names() -> None:
    hosts = Path('/etc/hosts')
    known = hosts.read_text().split()
    absent = [name for name in NODES if name not in known]
    if absent:
        with hosts.open('a') as file:
            file.write(f'127.0.0.1 {" ".join(absent)}\n')


@contextlib.contextmanager
def cluster(folder: Path, ports: tuple[int, int, int]) -> Iterator[Cluster]:
    """Starts a cluster, and ends it with all its processes."""
    munge = folder / 'munge'
    for path in (munge, folder / 'state'):
        path.mkdir(parents=True)
    munge.chmod(0o700)
    (munge / 'key').write_bytes(os.urandom(128))
    (munge / 'key').chmod(0o600)
    port, first, second = ports
    (folder / 'slurm.conf').write_text(
        CONFIGURATION.format(folder=folder, port=port, first=first, second=second)
    )
    _add_host_names()
    running = Cluster(folder)
    try:
        running.run(
            'munged',
            '--force',
            f'--socket={munge}/socket',
            f'--key-file={munge}/key',
            f'--pid-file={munge}/pid',
            f'--log-file={munge}/log',
            f'--seed-file={munge}/seed',
        )
        running.run('slurmctld', '-c')
        for name in NODES:
            running.start_node(name)
        idle = ('sinfo', '--noheader', '--Node', '--format=%T')
        running.wait(
            'both nodes idle',
            lambda: running.run(*idle, check=False).split() == ['idle', 'idle'],
            30,
        )
        yield running
    finally:
        running.run('scancel', '--user=root', '--full', '--signal=KILL', check=False)
        for name in NODES:
            for pid in running.processes(name):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for path in (*folder.glob('*.pid'), munge / 'pid'):
            with contextlib.suppress(OSError, ValueError):
                pid = int(path.read_text())
                name = Path(f'/proc/{pid}/cmdline').read_bytes()
                if b'slurm' in name or b'munged' in name:  # the pid may have been reused
                    os.kill(pid, signal.SIGKILL)
