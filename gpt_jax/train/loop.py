"""In which order do steps, logs, validations and checkpoints happen? The impure rim; it receives functions only."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from gpt_jax.errors import Diverged, Preempted
from gpt_jax.train.state import State


class Every(NamedTuple):
    """Steps between two of a kind; 0 is never, apart from the end."""

    log: int
    evaluate: int
    ask: int
    save: int
    save_at: tuple[int, ...]  # and at these steps


class Hooks(NamedTuple):
    """What the loop calls. Steps are counted as 'updates done'.

    log: (step, metrics as Python numbers, or lists of them where several runs train at once), once on the host.
    evaluate, ask: (step, state), while nothing else is under way.
    save: (step, state, wait); has copied the state when it returns, and with `wait` it is on the disk by then.
    stop: whether to save and leave now; asked once a step.
    enough: whether the run is to end here; asked after a validation.
    """

    log: Callable[[int, dict[str, Any]], None]
    evaluate: Callable[[int, State], None]
    ask: Callable[[int, State], None]
    save: Callable[[int, State, bool], None]
    stop: Callable[[], bool]
    enough: Callable[[], bool]


def train(
    step: Callable[[State, Any], tuple[State, Any]], state: State, batches: Iterator[Any], *,
    start: int, steps: int, every: Every, max_skipped: int, hooks: Hooks,
) -> State:  # fmt: skip
    """Runs updates `start` + 1 to `steps` and returns the last state.

    A step's metrics are fetched after the next step is under way, so that reading them never stalls the device.

    Raises:
      Preempted: `hooks.stop` said so; the state is saved.
      Diverged: `max_skipped` non-finite steps in a row; nothing is saved.
    """
    pending: tuple[int, Any] | None = None

    def read() -> None:
        nonlocal pending
        if pending is None:
            return
        done, metrics = pending
        pending = None
        values = {name: value.tolist() for name, value in jax.device_get(metrics).items()}
        hooks.log(done, values)
        skipped = int(np.min(values['skipped_in_row']))  # where several runs train at once, the best of them
        if skipped >= max_skipped:
            raise Diverged(f'{skipped} steps in a row up to step {done} were not finite')

    def due(done: int, interval: int) -> bool:
        return done == steps or (interval > 0 and done % interval == 0)

    if start and hooks.enough():  # it was ended here, and its summary was not written
        return state
    for done in range(start + 1, steps + 1):
        state, metrics = step(state, next(batches))
        read()
        if due(done, every.log):
            pending = done, metrics
        stop = hooks.stop() and done < steps
        evaluate, ask = due(done, every.evaluate), due(done, every.ask)
        save = due(done, every.save) or done in every.save_at
        if evaluate or ask or save or stop:
            read()
        enough = False
        if ask:
            hooks.ask(done, state)
        if evaluate:
            hooks.evaluate(done, state)
            enough = done < steps and hooks.enough()
        if save or stop or enough:
            hooks.save(done, state, stop)
        if enough:
            if not ask:
                hooks.ask(done, state)
            break
        if stop:
            raise Preempted(f'stopped and saved at step {done} of {steps}')
    return state
