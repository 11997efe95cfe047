"""A job over a real ssh: its processes meet, save when told through the connection, and resume.

`pytest -m slow -n 0 tests/launch/test_ssh.py` starts a server on the loopback interface, with its
own keys.
"""

import getpass
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from gpt_jax.launch.local import find_free_port
from tests import program

SERVER = shutil.which('sshd', path=f'{os.environ["PATH"]}:/usr/sbin')
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not SERVER or not shutil.which('ssh'),
        reason='sshd is missing: apt-get install openssh-server',
    ),
]


@pytest.fixture
def configuration(tmp_path):
    """Path of an ssh configuration in which alpha and beta are this machine."""
    folder, port = tmp_path / 'ssh', find_free_port()
    folder.mkdir(mode=0o700)
    for name in ('host', 'user'):
        subprocess.run(
            ['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', str(folder / name)], check=True
        )
    (folder / 'allowed').write_bytes((folder / 'user.pub').read_bytes())
    (folder / 'sshd_config').write_text(
        f'Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\n'
        f'AuthorizedKeysFile {folder}/allowed\nPidFile {folder}/pid\nStrictModes no\n'
        'PasswordAuthentication no\nPermitRootLogin yes\nUsePAM no\n'
    )
    (folder / 'config').write_text(
        f'Host alpha beta\nHostName 127.0.0.1\nPort {port}\nUser {getpass.getuser()}\n'
        f'IdentityFile {folder}/user\nIdentitiesOnly yes\nStrictHostKeyChecking no\n'
        f'UserKnownHostsFile {folder}/known\nLogLevel ERROR\n'
    )
    if os.geteuid() == 0:
        os.makedirs('/run/sshd', exist_ok=True)
    with subprocess.Popen([SERVER, '-D', '-f', str(folder / 'sshd_config')]) as server:
        yield folder / 'config'
        server.terminate()


def test_two_machines_train_stop_and_resume(tmp_path, source, configuration):
    fields = {
        'config.data.source': source,
        'config.mesh.cpu_devices': 1,
        'config.train.steps': 200,
        'config.train.checkpoint_every': 50,
        'config.train.eval_every': 0,
    }
    program.run(program.command(tmp_path / 'whole', **fields, launch='local', processes=2))
    options = {
        'config': configuration,
        'address': '127.0.0.1',
        'port': find_free_port(),
        'python': sys.executable,
        'folder': program.ROOT,
        'env.PYTHONPATH': program.ROOT,
        'env.NASTY': 'a "b" $c; \'d\'',
    }
    options['env.GPT_JAX_COMPILATION_CACHE'] = os.environ['GPT_JAX_COMPILATION_CACHE']
    options['env.XDG_CACHE_HOME'] = os.environ['XDG_CACHE_HOME']
    workdir = tmp_path / 'a run; "$HOME"'
    argv = [*program.command(workdir, **fields), '--launch=ssh', '--nodes=alpha,beta']
    argv += [f'--launch_option={key}={value}' for key, value in options.items()]
    process = program.start(argv)
    until = time.monotonic() + 120
    while program.lines(workdir) < 3 and time.monotonic() < until and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75, out + err
    assert 'stopped and saved at step' in err
    program.run(argv)
    assert program.summary(workdir)['processes'] == 2
    whole = program.summary(tmp_path / 'whole')
    assert program.summary(workdir)['parameters_sha256'] == whole['parameters_sha256']
