"""A tracker whose service is a file, service.jsonl in the run folder, for tests."""

import json
import time

from gpt_jax.core.errors import UserError


class FileTracker:
    """Writes a line per call, as a service would see it."""

    def __init__(self, run):
        self._path = run.folder / 'service.jsonl'
        self.run_id, self.last_step = run.run_id or 'run-1', run.last_step
        self._send(open=self.run_id, name=run.name, group=run.group)

    def log(self, step, values):
        self._send(step=step, values=values)

    def finish(self, summary):
        self._send(summary=summary)

    def close(self):
        self._send(closed=True)

    def _send(self, **record):
        with open(self._path, 'a') as file:
            file.write(json.dumps(record, allow_nan=False) + '\n')


class LostTracker(FileTracker):
    """Loses its connection at step 3."""

    def log(self, step, values):
        if step == 3:
            raise ConnectionError('no route\nto host')
        super().log(step, values)


class ForgetfulTracker(FileTracker):
    """Has lost what was sent after step 2, and tells so when it opens the run again."""

    def __init__(self, run):
        super().__init__(run)
        self.last_step = min(2, run.last_step)


class SlowTracker(FileTracker):
    """Takes longer than anyone waits."""

    def log(self, *_):
        time.sleep(2)


class InterruptedTracker(FileTracker):
    """Is interrupted while it ends its connection."""

    def close(self):
        raise KeyboardInterrupt


def refuse(_):
    raise UserError('quota exceeded')
