"""Kills of a multi-process run, and a bitwise comparison of its result with an undisturbed run.

    python experiments/launching/kill.py --kills=8 --output=experiments/launching/kills.jsonl

Runs a small model twice with `--launch=local --processes=2`: once undisturbed, and once while one
of its two processes, chosen at random, is killed with SIGKILL or frozen with SIGSTOP at random
times; the launcher restarts them. One line of JSON gives the number of signals that hit a run
during training, and whether the final parameters are the same.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STALL = 0.25  # minutes


def make_command(workdir: Path, corpus: Path, steps: int, restarts: int) -> list[str]:
    fields = {
        'model.layers': 2,
        'model.width': 32,
        'model.heads': 2,
        'model.context': 32,
        'train.batch_size': 8,
        'train.microbatch_size': 0,
        'train.steps': steps,
        'train.log_every': 10,
        'train.checkpoint_every': 20,
        'train.eval_every': 0,
        'train.eval_tokens': 2000,
        'train.tensorboard': False,
        'mesh.cpu_devices': 1,
        'train.stall_minutes': STALL,
        'data.source': f'files:{corpus}',
    }
    flags = [f'--config.{key}={value}' for key, value in fields.items()]
    launch = ['--launch=local', '--processes=2', f'--launch_option=restarts={restarts}']
    return [
        sys.executable,
        'run.py',
        '--config=configs/gpt_tiny.py',
        *flags,
        f'--workdir={workdir}',
        *launch,
    ]


def count_steps(workdir: Path) -> int:
    path = workdir / 'metrics.jsonl'
    lines = path.read_text().splitlines() if path.exists() else []
    return int(json.loads(lines[-1])['step']) if lines else 0


def send_signals(
    process: subprocess.Popen[bytes], workdir: Path, kills: int, rng: random.Random
) -> dict[str, int]:
    """Kill and freeze processes while the run is alive.

    Returns:
      How many of each signal hit a run that had made progress since the previous signal.
    """
    hit = {'SIGKILL': 0, 'SIGSTOP': 0}
    record = workdir / 'launch' / 'processes.json'
    last_step = 0
    while sum(hit.values()) < kills and process.poll() is None:
        if count_steps(workdir) <= last_step or not record.exists():
            time.sleep(0.1)
            continue
        time.sleep(rng.uniform(0.0, 2.0))
        pids = json.loads(record.read_text())['processes']
        victim, signal_ = (
            rng.choice(pids),
            signal.SIGKILL if rng.random() < 0.7 else signal.SIGSTOP,
        )
        if process.poll() is not None or not all(Path(f'/proc/{pid}').exists() for pid in pids):
            continue
        last_step = count_steps(workdir)
        os.kill(victim, signal_)
        hit[signal_.name] += 1
        other = next(pid for pid in pids if pid != victim)
        deadline = time.monotonic() + 60 * STALL + 60
        while is_alive(other) and time.monotonic() < deadline:  # it must notice by itself
            time.sleep(0.1)
        if is_alive(other):
            raise RuntimeError(f'process {other} did not notice that {victim} got {signal_.name}')
        if signal_ == signal.SIGSTOP:
            os.kill(victim, signal.SIGKILL)  # as the scheduler does after the others exit
    return hit


def is_alive(pid: int) -> bool:
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--kills', type=int, default=8, help='number of signals')
    parser.add_argument('--steps', type=int, default=600, help='training steps')
    parser.add_argument('--seed', type=int, default=0, help='of the signals')
    parser.add_argument('--output', help='append the line to this file')
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        corpus = folder / 'corpus.jsonl'
        sources = sorted((ROOT / 'gpt_jax').glob('**/*.py'))
        corpus.write_text(
            ''.join(json.dumps({'text': source.read_text()}) + '\n' for source in sources)
        )
        subprocess.run(make_command(folder / 'whole', corpus, flags.steps, 0), cwd=ROOT, check=True)
        killed = make_command(folder / 'killed', corpus, flags.steps, flags.kills + 5)
        process = subprocess.Popen(killed, cwd=ROOT)
        hit = send_signals(process, folder / 'killed', flags.kills, random.Random(flags.seed))
        code = process.wait()
        summaries = [
            json.loads((folder / name / 'summary.json').read_text()) for name in ('whole', 'killed')
        ]
        same = summaries[0]['parameters_sha256'] == summaries[1]['parameters_sha256']
        metrics = [(folder / name / 'metrics.jsonl').read_bytes() for name in ('whole', 'killed')]
    line = {
        'processes': 2,
        'steps': flags.steps,
        'seed': flags.seed,
        **hit,
        'exit_code': code,
        'same_parameters': same,
        'same_metrics': metrics[0] == metrics[1],
    }
    print(json.dumps(line))
    if flags.output:
        with open(flags.output, 'a') as file:
            file.write(json.dumps(line) + '\n')


if __name__ == '__main__':
    main()
