"""run.py in a process of its own, on a small corpus and with small shapes, for tests."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gpt_jax

ROOT = Path(__file__).parents[1]

SMALL = {
    'config': 'configs/gpt_tiny.py',
    'config.model.layers': 2,
    'config.model.width': 32,
    'config.model.heads': 2,
    'config.model.context': 32,
    'config.train.batch_size': 8,
    'config.train.microbatch_size': 0,
    'config.train.steps': 40,
    'config.train.log_every': 5,
    'config.train.checkpoint_every': 10,
    'config.train.eval_every': 20,
    'config.train.eval_tokens': 2000,
    'config.train.tensorboard': False,
    'config.mesh.cpu_devices': 2,
}

SEEDS_SWEEP = """
from configs import gpt_tiny

def get_config():
    config = gpt_tiny.get_config()
    config.name = 'seeds'
    config.sweep.trials = tuple({'name': f's{seed}', 'seed': seed} for seed in range(2))
    return config
"""


def corpus(folder: Path) -> Path:
    """Write a corpus of this project's sources, a document per file; return its path."""
    sources = sorted(Path(gpt_jax.__file__).parent.glob('**/*.py'))
    path = folder / 'corpus.jsonl'
    path.write_text(''.join(json.dumps({'text': source.read_text()}) + '\n' for source in sources))
    return path


def command(workdir: Path | None, **fields: Any) -> list[str]:
    """Return a command line; `config__train__steps=5` becomes --config.train.steps=5."""
    values = SMALL | {key.replace('__', '.'): value for key, value in fields.items()}
    flags = [f'--{key}={value}' for key, value in values.items() if value is not None]
    return [sys.executable, 'run.py', *flags, *([f'--workdir={workdir}'] if workdir else [])]


def write_seeds_sweep(folder: Path) -> Path:
    """Write the config file of a sweep of two trials, s0 and s1, that differ in their seed."""
    path = folder / 'seeds.py'
    path.write_text(SEEDS_SWEEP)
    return path


def start(arguments: list[str]) -> subprocess.Popen[str]:
    """Start a command in the project's root."""
    return subprocess.Popen(
        arguments, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def run(arguments: list[str], code: int = 0) -> tuple[str, str]:
    """Run a command, assert its exit code, and return (standard output, standard error)."""
    process = start(arguments)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, f'exit code {process.returncode}\n{out}\n{err}'
    return out, err


def summary(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / 'summary.json').read_text())


def lines(workdir: Path) -> int:
    """Count the steps that the run has logged so far."""
    path = workdir / 'metrics.jsonl'
    return len(re.findall('\n', path.read_text())) if path.exists() else 0
