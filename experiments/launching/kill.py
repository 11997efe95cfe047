"""How many kills does a run of several processes survive, and is it then bitwise the run that nobody killed?

    python experiments/launching/kill.py --kills=8 --output=experiments/launching/kills.jsonl

Runs a small model twice with `--launch=local --processes=2`: once undisturbed, and once while one of its two processes,
chosen at random, gets SIGKILL or is frozen with SIGSTOP at random moments; the launcher starts them again. One line of
JSON says how many of them hit a run that was training, and whether the final parameters are the same.
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


def command(workdir: Path, corpus: Path, steps: int, restarts: int) -> list[str]:
    fields = {
        'model.layers': 2, 'model.width': 32, 'model.heads': 2, 'model.context': 32, 'train.batch': 8,
        'train.microbatch': 0, 'train.steps': steps, 'train.log_every': 10, 'train.checkpoint_every': 20,
        'train.evaluate_every': 0, 'train.evaluate_tokens': 2000, 'train.tensorboard': False, 'mesh.cpu_devices': 1,
        'train.stall_minutes': STALL, 'data.source': f'files:{corpus}',
    }  # fmt: skip
    flags = [f'--config.{key}={value}' for key, value in fields.items()]
    launch = ['--launch=local', '--processes=2', f'--launch_option=restarts={restarts}']
    return [sys.executable, 'run.py', '--config=configs/gpt_tiny.py', *flags, f'--workdir={workdir}', *launch]


def steps_done(workdir: Path) -> int:
    path = workdir / 'metrics.jsonl'
    lines = path.read_text().splitlines() if path.exists() else []
    return int(json.loads(lines[-1])['step']) if lines else 0


def disturb(process: subprocess.Popen[bytes], workdir: Path, kills: int, chance: random.Random) -> dict[str, int]:
    """Kills and freezes while the run is alive; how many of each hit a run that had gone on since the last."""
    hit = {'SIGKILL': 0, 'SIGSTOP': 0}
    record = workdir / 'launch' / 'processes.json'
    seen = 0
    while sum(hit.values()) < kills and process.poll() is None:
        if steps_done(workdir) <= seen or not record.exists():
            time.sleep(0.1)
            continue
        time.sleep(chance.uniform(0.0, 2.0))
        pids = json.loads(record.read_text())['processes']
        victim, number = chance.choice(pids), signal.SIGKILL if chance.random() < 0.7 else signal.SIGSTOP
        if process.poll() is not None or not all(Path(f'/proc/{pid}').exists() for pid in pids):
            continue
        seen = steps_done(workdir)
        os.kill(victim, number)
        hit[number.name] += 1
        other = next(pid for pid in pids if pid != victim)
        until = time.monotonic() + 60 * STALL + 60
        while alive(other) and time.monotonic() < until:  # it has to find out by itself
            time.sleep(0.1)
        if alive(other):
            raise RuntimeError(f'process {other} did not notice that {victim} got {number.name}')
        if number == signal.SIGSTOP:
            os.kill(victim, signal.SIGKILL)  # as the scheduler would, when the others have left
    return hit


def alive(pid: int) -> bool:
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=8)
    parser.add_argument('--steps', type=int, default=600)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--output', help='a file to which the line is added')
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        corpus = folder / 'corpus.jsonl'
        sources = sorted((ROOT / 'gpt_jax').glob('**/*.py'))
        corpus.write_text(''.join(json.dumps({'text': source.read_text()}) + '\n' for source in sources))
        subprocess.run(command(folder / 'whole', corpus, given.steps, 0), cwd=ROOT, check=True)
        killed = command(folder / 'killed', corpus, given.steps, given.kills + 5)
        process = subprocess.Popen(killed, cwd=ROOT)
        hit = disturb(process, folder / 'killed', given.kills, random.Random(given.seed))
        code = process.wait()
        ends = [json.loads((folder / name / 'summary.json').read_text()) for name in ('whole', 'killed')]
        same = ends[0]['parameters_sha256'] == ends[1]['parameters_sha256']
        metrics = [(folder / name / 'metrics.jsonl').read_bytes() for name in ('whole', 'killed')]
    line = {'processes': 2, 'steps': given.steps, 'seed': given.seed, **hit, 'exit_code': code,
            'same_parameters': same, 'same_metrics': metrics[0] == metrics[1]}  # fmt: skip
    print(json.dumps(line))
    if given.output:
        with open(given.output, 'a') as file:
            file.write(json.dumps(line) + '\n')


if __name__ == '__main__':
    main()
