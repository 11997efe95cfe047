"""run.py as its user starts it: in a process of its own, on a small corpus, with small shapes."""

import json
import os
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
    'config.train.batch': 8,
    'config.train.microbatch': 0,
    'config.train.steps': 40,
    'config.train.log_every': 5,
    'config.train.checkpoint_every': 10,
    'config.train.evaluate_every': 20,
    'config.train.evaluate_tokens': 2000,
    'config.train.tensorboard': False,
    'config.mesh.cpu_devices': 2,
}


def corpus(folder: Path) -> Path:
    """A text of this project's own sources; some 100 kB, as many documents as files."""
    sources = sorted(Path(gpt_jax.__file__).parent.glob('**/*.py'))
    path = folder / 'corpus.jsonl'
    path.write_text(''.join(json.dumps({'text': source.read_text()}) + '\n' for source in sources))
    return path


def command(workdir: Path | None, **fields: Any) -> list[str]:
    """The command line; `config__train__steps=5` stands for --config.train.steps=5."""
    given = SMALL | {key.replace('__', '.'): value for key, value in fields.items()}
    flags = [f'--{key}={value}' for key, value in given.items() if value is not None]
    return [sys.executable, 'run.py', *flags, *([f'--workdir={workdir}'] if workdir else [])]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    # Machine code that is not optimized is made sooner (conftest.py); what a run does and says is the same.
    environment = os.environ | {'XLA_FLAGS': '--xla_backend_optimization_level=0'}
    return subprocess.Popen(
        arguments, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def run(arguments: list[str], code: int = 0) -> tuple[str, str]:
    """Runs to the end; (standard output, standard error), once the exit code is the expected one."""
    process = start(arguments)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, f'exit code {process.returncode}\n{out}\n{err}'
    return out, err


def summary(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / 'summary.json').read_text())


def lines(workdir: Path) -> int:
    """How many steps the run has logged so far."""
    path = workdir / 'metrics.jsonl'
    return len(re.findall('\n', path.read_text())) if path.exists() else 0
