"""A Slurm of two nodes on this one machine, in a temporary folder: brought up, broken, mended and taken down by tests.

Debian's packages slurm-wlm and munge, as root, without systemd. The nodes n1 and n2 are two slurmd on ports of their
own; their names have to be known, so they are added to /etc/hosts if they are not there.
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
# config_overrides: the CPUs are what is written.
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
    """Why there can be no Slurm here, or ''."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if absent:
        return f'no {", ".join(absent)} here: apt-get install slurm-wlm munge'
    return '' if os.geteuid() == 0 else 'a Slurm of its own takes root'


def _path() -> str:
    return f'{os.environ["PATH"]}:/usr/sbin:/sbin'


class Cluster:
    """The running cluster. env: for whatever talks to it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._pending: dict[str, float] = {}  # since when, by job
        self.env = {key: value for key, value in os.environ.items() if not key.startswith('SLURM')}
        self.env |= {'SLURM_CONF': str(folder / 'slurm.conf'), 'PATH': _path()}

    def run(self, *argv: str, check: bool = True) -> str:
        done = subprocess.run(argv, env=self.env, text=True, capture_output=True, timeout=60)
        assert done.returncode == 0 or not check, f'{argv}: {done.stdout}{done.stderr}'
        return done.stdout

    def start_node(self, name: str) -> None:
        self.run('slurmd', '-N', name)

    def kill_node(self, name: str) -> None:
        """As when its power fails: the daemon and whatever runs on it are gone at once."""
        os.kill(int((self.folder / f'slurmd-{name}.pid').read_text()), signal.SIGKILL)
        for pid in self.processes(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def processes(self, name: str) -> list[int]:
        """Of the jobs on a node: slurmstepd and all below it."""
        parents, roots = {}, set()
        for folder in Path('/proc').iterdir():
            with contextlib.suppress(OSError, ValueError):
                parents[int(folder.name)] = int((folder / 'stat').read_text().rpartition(')')[2].split()[1])
                environment = (folder / 'environ').read_bytes().split(b'\0')
                conf = f'SLURM_CONF={self.folder}/slurm.conf'.encode()
                if f'SLURMD_NODENAME={name}'.encode() in environment and conf in environment:
                    roots.add(int(folder.name))
        daemons = {parents[pid] for pid in roots if parents.get(pid, 1) > 1 and parents[pid] not in roots}
        steps = {pid for pid in daemons if b'slurmstepd' in Path(f'/proc/{pid}/cmdline').read_bytes()}
        return sorted(roots | steps)

    def wait(self, what: str, found, seconds: float):
        """The first true value of found()."""
        until = time.monotonic() + seconds
        while not (value := found()):
            if time.monotonic() > until:
                raise TimeoutError(f'{what}: not within {seconds:g} s\n{self.run("squeue", "--array")}{self.logs()}')
            time.sleep(0.2)
        return value

    def state(self, job: str) -> str:
        """PENDING, RUNNING, ...; of an array the states of its tasks in one line; '' for a job that is gone."""
        argv = ('squeue', '--noheader', '--array', '--states=all', '--format=%T', f'--jobs={job}')
        return ' '.join(self.run(*argv, check=False).split())

    def restarts(self, job: str) -> int:
        shown = self.run('scontrol', 'show', 'job', job)
        return int(shown.partition('Restarts=')[2].split()[0])

    def hurry(self, job: str) -> None:
        """Slurm lets a job that was queued again wait for two minutes; a test, until the nodes have forgotten it.

        Before that they refuse it ("Job credential revoked"), and Slurm gives it up.
        """
        if self.state(job) != 'PENDING':
            self._pending.pop(job, None)
        elif time.monotonic() - self._pending.setdefault(job, time.monotonic()) > 5.0:
            self.run('scontrol', 'update', f'JobId={job}', 'StartTime=now', check=False)

    def logs(self) -> str:
        texts = [path.read_text(errors='replace')[-1500:] for path in sorted(self.folder.glob('*.log'))]
        return '\n'.join(texts)


def _names_known() -> None:
    hosts = Path('/etc/hosts')
    known = hosts.read_text().split()
    absent = [name for name in NODES if name not in known]
    if absent:
        with hosts.open('a') as file:
            file.write(f'127.0.0.1 {" ".join(absent)}\n')


@contextlib.contextmanager
def cluster(folder: Path, ports: tuple[int, int, int]) -> Iterator[Cluster]:
    """Brings it up, and takes it down with all that it runs."""
    munge = folder / 'munge'
    for made in (munge, folder / 'state'):
        made.mkdir(parents=True)
    munge.chmod(0o700)
    (munge / 'key').write_bytes(os.urandom(128))
    (munge / 'key').chmod(0o600)
    port, first, second = ports
    (folder / 'slurm.conf').write_text(CONFIGURATION.format(folder=folder, port=port, first=first, second=second))
    _names_known()
    made = Cluster(folder)
    try:
        made.run(
            'munged', '--force', f'--socket={munge}/socket', f'--key-file={munge}/key', f'--pid-file={munge}/pid',
            f'--log-file={munge}/log', f'--seed-file={munge}/seed',
        )  # fmt: skip
        made.run('slurmctld', '-c')
        for name in NODES:
            made.start_node(name)
        idle = ('sinfo', '--noheader', '--Node', '--format=%T')
        made.wait('both nodes idle', lambda: made.run(*idle, check=False).split() == ['idle', 'idle'], 30)
        yield made
    finally:
        made.run('scancel', '--user=root', '--full', '--signal=KILL', check=False)
        for name in NODES:
            for pid in made.processes(name):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for path in (*folder.glob('*.pid'), munge / 'pid'):
            with contextlib.suppress(OSError, ValueError):
                pid = int(path.read_text())
                name = Path(f'/proc/{pid}/cmdline').read_bytes()
                if b'slurm' in name or b'munged' in name:  # the number may be another's by now
                    os.kill(pid, signal.SIGKILL)
