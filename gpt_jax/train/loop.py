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
    evaluate: (step, state, is_saved); validation. With `is_saved`, the state is in a checkpoint, so
      that a signal may end the process; without, it raises Preempted once it hears a signal.
    run_suite: (step, state, is_saved); evaluation on the tasks of the suite.
    save: (step, state, is_complete, wait); the state may be overwritten after it returns. With
      `is_complete`, no evaluation of this step is still to come. With `wait`, it returns once the
      checkpoint is complete.
    should_stop: whether to save and raise Preempted; called once per step.
    should_finish: whether to end the run early; called after each validation.
    """

    log: Callable[[int, dict[str, Any]], None]
    evaluate: Callable[[int, State, bool], None]
    run_suite: Callable[[int, State, bool], None]
    save: Callable[[int, State, bool, bool], None]
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
    is_evaluated: bool = True,
) -> State:
    """Run updates `start` + 1 to `steps` and return the last state.

    A state is saved before it is evaluated, if both are due.

    Args:
      step: (state, batch) -> (state, metrics), jitted; it may donate the state.
      batches: begins with the batch of update `start` + 1.
      max_skipped: consecutive non-finite steps after which the run has diverged.
      is_evaluated: False if the state comes from a checkpoint that was saved before its
        evaluations, and these were interrupted; they are done again.

    Raises:
      Preempted: `hooks.should_stop` returned true; the state is saved.
      Diverged: there were `max_skipped` non-finite steps in a row; nothing is saved.
    """
    delayed_log = _DelayedLog(hooks.log, max_skipped)
    evaluation = _Evaluation(hooks, every, steps)
    if not is_evaluated and evaluation.run(start, state, is_saved=True):
        return state
    if start and is_evaluated and hooks.should_finish():  # it had ended early, without a summary
        return state
    for done in range(start + 1, steps + 1):
        state, metrics = step(state, next(batches))
        delayed_log.write()
        if _is_due(done, every.log, steps):
            delayed_log.put(done, metrics)

        stop, evaluate = hooks.should_stop(), evaluation.is_due(done)
        save = _is_due(done, every.save, steps) or done in every.save_steps or stop
        if evaluate or save:
            delayed_log.write()
        if save:
            hooks.save(done, state, not evaluate, stop)
        if stop:
            raise Preempted(f'stopped and saved at step {done} of {steps}')
        if evaluate and evaluation.run(done, state, is_saved=save):
            break
    return state


def _is_due(done: int, interval: int, steps: int) -> bool:
    return done == steps or (interval > 0 and done % interval == 0)


class _Evaluation:
    """The evaluations of a step, and the end of the run that one of them may decide on."""

    def __init__(self, hooks: Hooks, every: Intervals, steps: int):
        self._hooks, self._every, self._steps = hooks, every, steps

    def is_due(self, done: int) -> bool:
        """Return whether there is one after this step."""
        return any(
            _is_due(done, interval, self._steps)
            for interval in (self._every.evaluate, self._every.suite)
        )

    def run(self, done: int, state: State, *, is_saved: bool) -> bool:
        """Run those that are due after this step; return whether the run ends with it.

        Raises:
          Preempted: a signal stopped one; the state is saved.
        """
        try:
            return self._run(done, state, is_saved)
        except Preempted:
            if not is_saved:
                self._hooks.save(done, state, False, True)
            raise

    def _run(self, done: int, state: State, is_saved: bool) -> bool:
        run_suite = _is_due(done, self._every.suite, self._steps)
        if run_suite:
            self._hooks.run_suite(done, state, is_saved)
        if not _is_due(done, self._every.evaluate, self._steps):
            return False
        self._hooks.evaluate(done, state, is_saved)
        if done == self._steps:
            return True
        if not self._hooks.should_finish():
            return False
        if not is_saved:
            self._hooks.save(done, state, run_suite, False)
        if not run_suite:
            self._hooks.run_suite(done, state, True)
        return True


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
