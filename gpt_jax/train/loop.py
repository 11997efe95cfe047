"""The training loop: the order of steps, logging, evaluation and checkpoints.

All side effects are in the functions passed to the loop, so it knows neither files nor configs.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from gpt_jax.core.errors import Diverged, Preempted
from gpt_jax.train.step import State


class Intervals(NamedTuple):
    """Steps between events of each kind; 0: only after the last step, where each event happens too.

    save_steps: further steps after which the state is saved.
    """

    log: int
    evaluate: int
    suite: int
    save: int
    save_steps: tuple[int, ...]


class Hooks(NamedTuple):
    """The functions that the loop calls. `step` is the number of updates done.

    log: (step, metrics as Python numbers, or as lists if several runs train at once).
    evaluate: (step, state); validation.
    run_suite: (step, state); evaluation on the tasks of the suite.
    save: (step, state, wait); the state may be overwritten after it returns. With `wait`, it
      returns once the checkpoint is complete.
    should_stop: whether to save and raise Preempted; called once per step.
    should_finish: whether to end the run early; called after each validation.
    """

    log: Callable[[int, dict[str, Any]], None]
    evaluate: Callable[[int, State], None]
    run_suite: Callable[[int, State], None]
    save: Callable[[int, State, bool], None]
    should_stop: Callable[[], bool]
    should_finish: Callable[[], bool]


def run_training_loop(
    step: Callable[[State, Any], tuple[State, Any]],
    state: State,
    batches: Iterator[Any],
    *,
    start: int,
    steps: int,
    every: Intervals,
    max_skipped: int,
    hooks: Hooks,
) -> State:
    """Run updates `start` + 1 to `steps` and return the last state.

    Args:
      step: (state, batch) -> (state, metrics), jitted; it may donate the state.
      batches: begins with the batch of update `start` + 1.
      max_skipped: consecutive non-finite steps after which the run has diverged.

    Raises:
      Preempted: `hooks.should_stop` returned true; the state is saved.
      Diverged: there were `max_skipped` non-finite steps in a row; nothing is saved.
    """
    if start and hooks.should_finish():  # the run had ended early, but has no summary
        return state
    delayed_log = _DelayedLog(hooks.log, max_skipped)

    def is_due(done: int, interval: int) -> bool:
        return done == steps or (interval > 0 and done % interval == 0)

    for done in range(start + 1, steps + 1):
        state, metrics = step(state, next(batches))
        delayed_log.write()
        if is_due(done, every.log):
            delayed_log.put(done, metrics)

        stop = hooks.should_stop() and done < steps
        evaluate, run_suite = is_due(done, every.evaluate), is_due(done, every.suite)
        save = is_due(done, every.save) or done in every.save_steps
        if evaluate or run_suite or save or stop:
            delayed_log.write()

        finish = False
        if run_suite:
            hooks.run_suite(done, state)
        if evaluate:
            hooks.evaluate(done, state)
            finish = done < steps and hooks.should_finish()
        if save or stop or finish:
            hooks.save(done, state, stop)
        if finish:
            if not run_suite:
                hooks.run_suite(done, state)
            break
        if stop:
            raise Preempted(f'stopped and saved at step {done} of {steps}')
    return state


class _DelayedLog:
    """Logs a step's metrics after the next one is dispatched, so that the device never waits."""

    def __init__(self, log: Callable[[int, dict[str, Any]], None], max_skipped: int):
        self._log, self._max_skipped = log, max_skipped
        self._pending: tuple[int, Any] | None = None

    def put(self, done: int, metrics: Any) -> None:
        """Remember the metrics of a step that may still be running."""
        self._pending = done, metrics

    def write(self) -> None:
        """Fetch and log the remembered metrics; raise Diverged if too many steps were skipped."""
        if self._pending is None:
            return
        (done, metrics), self._pending = self._pending, None
        values = {name: value.tolist() for name, value in jax.device_get(metrics).items()}
        self._log(done, values)
        # If several runs train at once, those that did not diverge continue.
        skipped = int(np.min(values['skipped_in_row']))
        if skipped >= self._max_skipped:
            raise Diverged(f'{skipped} steps in a row up to step {done} were not finite')
