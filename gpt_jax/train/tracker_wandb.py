"""Weights & Biases as a tracker."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import wandb

from gpt_jax.train.trackers import FINISH_SECONDS, OPEN_SECONDS, PROJECT, TrackedRun


class WandbTracker:
    """Logs to Weights & Biases; the run's group is the sweep.

    W&B ignores a step that is not after the last one. Online, it tells the last step that it has.
    Offline, each start writes a file of its own, and `wandb beta sync` joins them. A kill may have
    taken rows that were sent but not written, so the last step is read from these files.
    """

    def __init__(self, run: TrackedRun):
        self.run_id = run.run_id or uuid.uuid4().hex[:16]
        earlier = sorted(run.folder.glob(f'wandb/offline-run-*/run-{self.run_id}.wandb'))
        self._run = wandb.init(
            project=os.environ.get('WANDB_PROJECT', PROJECT),
            id=self.run_id,
            name=run.name,
            group=run.group or None,
            dir=run.folder,
            config=run.config,
            resume='allow',
            allow_val_change=True,  # of fields that may change when a run is resumed
            reinit='create_new',  # beside the other trials of this process
            settings=wandb.Settings(
                console='off',  # standard error is the run's progress
                init_timeout=OPEN_SECONDS,
                finish_timeout=FINISH_SECONDS,
            ),
        )
        if self._run.offline:
            self.last_step = find_offline_step(earlier, run.last_step)
        else:
            self.last_step = self._run.step - 1
        self._exit_code = 1

    def log(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step, commit=True)

    def finish(self, summary: dict[str, Any]) -> None:
        self._run.summary.update(summary)
        self._exit_code = 0

    def close(self) -> None:
        self._run.finish(exit_code=self._exit_code)


def find_offline_step(paths: list[Path], default: int) -> int:
    """Return the last step in W&B's files of earlier starts, in order of time, with its own reader.

    Args:
      default: the result if no file has a step, as after an upload that removes them.
    """
    for path in reversed(paths):
        options = ['--summary', '--json', str(path)]
        command = [sys.executable, '-m', 'wandb', 'leet', 'inspect', *options]
        result = subprocess.run(command, capture_output=True, check=True)
        step = json.loads(result.stdout)['step']
        if step is not None:
            return int(step)
    return default
