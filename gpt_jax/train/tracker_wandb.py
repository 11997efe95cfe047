"""Weights & Biases as a tracker."""

import os
import uuid
from typing import Any

import wandb

from gpt_jax.train.trackers import FINISH_SECONDS, OPEN_SECONDS, PROJECT, TrackedRun


class WandbTracker:
    """Logs to Weights & Biases; the run's group is the sweep.

    W&B ignores a step that is not after the last one. Online, it tells the last step that it has.
    Offline, each start writes a folder of its own, and `wandb beta sync` joins them.
    """

    def __init__(self, run: TrackedRun):
        self.run_id = run.run_id or uuid.uuid4().hex[:16]
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
        self.last_step = run.last_step if self._run.offline else self._run.step - 1
        self._exit_code = 1

    def log(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step, commit=True)

    def finish(self, summary: dict[str, Any]) -> None:
        self._run.summary.update(summary)
        self._exit_code = 0

    def close(self) -> None:
        self._run.finish(exit_code=self._exit_code)
