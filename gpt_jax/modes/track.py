"""What does a run write while it trains? Rows, scores and checkpoints, as the loop asks for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax import identity, runtime, tuned
from gpt_jax.assemble import Program, Settings
from gpt_jax.modes import material, suite
from gpt_jax.modes.best import Best
from gpt_jax.modes.material import Material
from gpt_jax.modes.recorder import Recorder
from gpt_jax.observe.progress import Progress
from gpt_jax.train.checkpoint import Checkpoints
from gpt_jax.train.loop import Every, Hooks
from gpt_jax.train.state import State

Config = dict[str, Any]


class Run(NamedTuple):
    """What a run is made of. asked: tasks, while it is trained. say: receives lines for the user."""

    config: Config
    settings: Settings
    corpus: Material
    program: Program
    asked: list[suite.Asked]
    workdir: Path
    line: Progress
    say: Callable[[str], None]


class Track:
    """The loop's hooks for one run; the clock of its throughput stands still while they are at work."""

    def __init__(self, run: Run, checkpoints: Checkpoints, recorder: Recorder, best: Best, state: State):
        self._run, self._checkpoints, self._recorder, self._best = run, checkpoints, recorder, best
        self._kept = tuned.sum_of(state, run.settings.init_from)  # of what no update changes

    def every(self) -> Every:
        train = self._run.settings.train
        asking = self._run.settings.suite.every
        return Every(train.log_every, train.evaluate_every, asking, train.checkpoint_every, train.keep_steps)

    def hooks(self, stop: Callable[[], bool]) -> Hooks:
        return Hooks(self._recorder.log, self.evaluate, self.ask, self._save, stop, self._best.enough)

    def evaluate(self, done: int, state: State) -> None:
        run = self._run
        with self._recorder.meter.paused():
            found = material.validation(run.settings, run.program, run.corpus, run.program.whole(state), run.line)
            self._recorder.add(done, found)
            self._best.see(done, found, tuned.saved(state, run.settings.init_from), self._about(done))

    def ask(self, done: int, state: State) -> None:
        run = self._run
        with self._recorder.meter.paused():
            found = suite.scores(run.settings, run.program, run.corpus, run.asked, run.program.whole(state), run.line)
            self._recorder.add(done, found)

    def _save(self, done: int, state: State, wait: bool) -> None:
        with self._recorder.meter.paused():
            self._recorder.commit()
            self._checkpoints.save(done, tuned.saved(state, self._run.settings.init_from), self._about(done))
            if wait:
                self._checkpoints.wait()

    def _about(self, done: int) -> dict[str, Any]:
        found = meta(self._run.config, self._run.corpus, done, self._recorder.seconds())
        return found | ({tuned.KEPT: self._kept} if self._kept else {})


def meta(config: Config, corpus: Material, done: int, seconds: float) -> dict[str, Any]:
    """What a checkpoint holds beside the state."""
    return {
        'next_batch': done,
        'fingerprint': corpus.fingerprint,
        'config': config,
        'config_hash': identity.config_hash(config),
        'seconds': seconds,
        'versions': runtime.versions(),
    }
