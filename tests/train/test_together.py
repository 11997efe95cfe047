"""Two processes: they save and restore as one, stop at the same step, and fail together."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gpt_jax.errors import UserError
from gpt_jax.train import checkpoint
from gpt_jax.train.checkpoint import Checkpoints
from gpt_jax.train.preempt import Preemption
from gpt_jax.train.together import first_decides, together

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


def make_state(step: int) -> dict[str, jax.Array]:
    """One row on each of the four devices of both processes."""
    rows = NamedSharding(Mesh(np.array(jax.devices()), ('data',)), PartitionSpec('data'))
    return {'w': jax.make_array_from_callback(ROWS.shape, rows, lambda index: (ROWS + np.float32(step))[index])}


def message(action: Any) -> str:
    with pytest.raises(UserError) as caught:
        action()
    return str(caught.value)


def use_checkpoints(process: int, folder: str, said: dict[str, Any]) -> None:
    lines: list[str] = []
    with Checkpoints(folder, keep=2, announce=lines.append) as checkpoints:
        said['fresh'] = checkpoints.restore(make_state(0)) is None
        for step in (10, 20, 20):
            checkpoints.save(step, make_state(step), {'batch': step})
        checkpoints.wait()
        said['latest'] = checkpoints.latest()
        if process == 0:
            os.remove(f'{folder}/20/state/_METADATA')
        restored = checkpoints.restore(make_state(0))
        assert restored is not None
        shards = zip(restored.state['w'].addressable_shards, make_state(10)['w'].addressable_shards, strict=True)
        said['right'] = [np.array_equal(one.data, other.data) for one, other in shards]
        said['step'], said['meta'], said['lines'] = restored.step, restored.meta, len(lines)
        if process == 0:
            os.remove(f'{folder}/10/manifest.json')
        said['nothing good'] = message(lambda: checkpoints.restore(make_state(0)))
        checkpoints.save(40, make_state(40), {'batch': 40})


def vote(process: int) -> list[bool]:
    votes = []
    with Preemption() as preemption:
        for step in range(6):
            if step == 2 and process == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            votes.append(preemption.requested_anywhere())
    return votes


def main(process: int, port: str, folder: str) -> None:
    jax.distributed.initialize(f'127.0.0.1:{port}', 2, process)
    said: dict[str, Any] = {'votes': vote(process)}
    use_checkpoints(process, folder, said)

    def fail() -> int:
        if process == 1:
            raise UserError('mine')
        return 3

    said['failure'] = message(lambda: together(fail))
    said['first'] = [together(lambda: 5 + process), first_decides(lambda: 7 + process), first_decides(lambda: None)]
    print(json.dumps(said))


def test_two_processes_act_as_one(tmp_path):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    flags = '--xla_force_host_platform_device_count=2'
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, 'PYTHONPATH': root, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags}
    commands = [[sys.executable, __file__, process, port, str(tmp_path)] for process in '01']
    both = [subprocess.Popen(c, env=environment, stdout=subprocess.PIPE, text=True) for c in commands]
    try:
        said = [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in both]
    finally:
        for process in both:
            process.kill()
    for one in said:
        assert (one['fresh'], one['latest'], one['step'], one['meta']) == (True, 20, 10, {'batch': 10})
        assert one['right'] == [True, True]
        assert one['votes'] == [False, False, False, True, True, True]
        assert one['first'] == [5, 7, None]
    assert [one['lines'] for one in said] == [1, 0]
    assert 'no good checkpoint is left' in said[0]['nothing good']
    assert said[1]['nothing good'] == said[0]['failure'].replace('process 1', 'process 0')
    assert said[1]['failure'] == 'mine'
    restored = checkpoint.load(tmp_path, {'w': jnp.zeros(ROWS.shape)})
    assert np.array_equal(restored.state['w'], ROWS + 40)


if __name__ == '__main__':
    main(int(sys.argv[1]), *sys.argv[2:])
