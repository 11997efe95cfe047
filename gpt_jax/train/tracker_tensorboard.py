"""TensorBoard event files of a run, runs/NAME/tensorboard/."""

import time
from typing import Any

from tensorboardX import event_file_writer
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from gpt_jax.train.trackers import TENSORBOARD, TrackedRun


class TensorBoardTracker:
    """Writes event files."""

    run_id = ''

    def __init__(self, run: TrackedRun):
        folder = run.folder / TENSORBOARD
        folder.mkdir(exist_ok=True)
        # Without tensorboardX's thread, whose queue blocks for ever once a write has failed.
        self.last_step = run.last_step
        suffix = f'.{self.last_step + 1}'  # two starts may be in the same second
        self._events = event_file_writer.EventsWriter(str(folder / 'events'), suffix)
        # TensorBoard hides the events of an interrupted run from this step on.
        self._write(self.last_step + 1, session_log=SessionLog(status=SessionLog.START))

    def log(self, step: int, values: dict[str, float]) -> None:
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(step, summary=Summary(value=scalars))

    def _write(self, step: int, **content: Any) -> None:
        self._events.write_event(Event(wall_time=time.time(), step=step, **content))
        self._events.flush()

    def finish(self, summary: dict[str, Any]) -> None:
        """Do nothing: the last step has the results."""

    def close(self) -> None:
        self._events.close()
