"""trackio as a tracker."""

import os
import uuid
from typing import Any

import trackio

from gpt_jax.train.trackers import PROJECT, TrackedRun


class TrackioTracker:
    """Logs to trackio; the run's group is the sweep.

    trackio resumes a run by its name, so the name ends in digits that no other run has. It tells
    the last step that it has.
    """

    def __init__(self, run: TrackedRun):
        self.run_id = run.run_id or f'{run.name}-{uuid.uuid4().hex[:8]}'
        self._run = trackio.init(
            project=os.environ.get('TRACKIO_PROJECT', PROJECT),
            name=self.run_id,
            group=run.group or None,
            config=run.config,
            resume='allow',
            auto_log_cpu=False,
            auto_log_gpu=False,
        )
        self.last_step = getattr(self._run, '_next_step', run.last_step + 1) - 1

    def log(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def finish(self, summary: dict[str, Any]) -> None:
        """Do nothing: the last step has the results."""

    def close(self) -> None:
        self._run.finish()
