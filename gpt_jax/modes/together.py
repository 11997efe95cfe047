"""How do several small trials train at once? Those that differ in seed and learning rate alone, in one process.

Each keeps a folder of its own with all that a run leaves, so that nobody who reads it need know. They save together,
and go on together from the newest step that all of them have saved. Their numbers equal those of trials trained one by
one to rounding, not to the bit: a device takes whole runs where it would take a part of one run's batch.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax import assemble, files, identity
from gpt_jax.assemble import Program, Settings
from gpt_jax.data.prepare import Corpus, prepare
from gpt_jax.errors import Diverged, UserError
from gpt_jax.launch.trial import PROGRESS
from gpt_jax.modes import material
from gpt_jax.modes.recorder import Recorder
from gpt_jax.modes.summary import finish, summary
from gpt_jax.modes.track import meta
from gpt_jax.modes.train import finished
from gpt_jax.observe import writers
from gpt_jax.observe.progress import Progress
from gpt_jax.observe.writers import Metrics
from gpt_jax.train import checkpoint, loop, manifest
from gpt_jax.train.many import Many, many_states, pick
from gpt_jax.train.preempt import Preemption

OWN = ('seed', 'optimizer.learning_rate')  # what trials that train together may differ in
# A run that sets one of these has a process of its own.
ALONE = ('train.keep_steps', 'train.branch_from', 'train.patience', 'init_from', 'task.source', 'suite.tasks')
Config = dict[str, Any]


def shared(config: Config) -> str:
    """What trials must have in common to train together, as text."""
    return json.dumps({key: value for key, value in identity.fixed(config).items() if key not in OWN})


def _alone(config: Config) -> list[str]:
    flat = dict(identity.flatten(config))
    return [field for field in ALONE if flat[field]]


def groups(trials: dict[str, Config], limit: int) -> list[list[str]]:
    """The names of the trials by process: at most `limit` that may train together, in the order they were given."""
    made: list[list[str]] = []
    for name, config in trials.items():
        alone = any(_alone(config))
        for group in [] if alone else made:
            if len(group) < limit and shared(trials[group[0]]) == shared(config):
                group.append(name)
                break
        else:
            made.append([name])
    return made


def train(configs: dict[str, Config], sweep: Path, say: Callable[[str], None]) -> None:
    """Trains the trials of one group, each into `sweep`/trials/NAME, from where they stopped.

    Raises:
      UserError: they may not train together, bad data, or a folder in use.
      Preempted: a signal stopped them; all are saved.
      Diverged: some did; the others are done.
    """
    names = list(configs)
    if len({shared(config) for config in configs.values()}) > 1:
        raise UserError(f'--trial={",".join(names)}: these differ in more than {" and ".join(OWN)}; train them singly')
    for field, name in ((field, one) for one in names for field in _alone(configs[one])):
        raise UserError(f'--trial={",".join(names)}: {field} ({name}) takes a process of its own; train it singly')
    corpus = prepare(assemble.data_config(configs[names[0]]), say)
    settings = [assemble.settings(config, corpus.vocab_size) for config in configs.values()]
    program, everything = assemble.build(settings[0]), assemble.build_many(settings[0], len(names))
    with contextlib.ExitStack() as stack:
        preemption = stack.enter_context(Preemption())
        line = Progress(
            sys.stderr, trial=None, name=f'{names[0]} and {len(names) - 1} more', steps=settings[0].steps,
            report=sweep / 'trials' / names[0] / PROGRESS,
        )  # fmt: skip
        stack.callback(line.close)
        runs = [
            _Run(stack, config, one, corpus, program, sweep / 'trials' / name, line, len(names), name == names[0], say)
            for (name, config), one in zip(configs.items(), settings, strict=True)
        ]
        _train(runs, program, everything, preemption, say)


class _Run:
    """One of the trials: its folder and all that writes into it."""

    def __init__(
        self, stack: contextlib.ExitStack, config: Config, settings: Settings, corpus: Corpus, program: Program,
        folder: Path, line: Progress, count: int, first: bool, say: Callable[[str], None],
    ):  # fmt: skip
        stack.enter_context(files.lock(folder / 'lock', wait=False))
        if finished(config, folder):
            raise UserError(f'{folder}: already done; leave it out of --trial')
        files.write_json(folder / 'config.json', config)
        material.keep_tokenizer(settings, corpus, folder)
        self.config, self.settings, self.corpus, self.program = config, settings, corpus, program
        self.folder, self.line, self.count, self.first = folder, line, count, first
        self.checkpoints = stack.enter_context(
            checkpoint.Checkpoints(folder / 'checkpoints', keep=settings.train.keep_checkpoints, announce=say)
        )
        self.metrics = stack.enter_context(Metrics(folder, tensorboard=settings.train.tensorboard))
        self.recorder: Any = None

    def begin(self, start: int, spent: float) -> None:
        self.metrics.resume(start)
        shown = self.line if self.first else None  # one of them speaks for all
        self.recorder = Recorder(
            self.settings, lambda loss: material.units(self.corpus, loss), self.metrics, shown, start, spent
        )

    def save(self, done: int, state: Any) -> None:
        self.recorder.commit()
        self.checkpoints.save(done, state, meta(self.config, self.corpus, done, self.recorder.seconds()))

    def evaluate(self, done: int, params: Any) -> None:
        self.recorder.add(done, material.validation(self.settings, self.program, self.corpus, params, self.line))

    def finish(self, state: Any) -> None:
        self.recorder.commit()
        self.checkpoints.wait()
        seconds = self.recorder.seconds() / self.count  # its share: the clock ran for all of them
        known = material.counts(self.corpus) | {'fingerprint': self.corpus.fingerprint}
        made = summary(self.config, self.settings, self.program, state, self.recorder.last, seconds, known)
        finish(made | {'together': self.count}, self.folder)


def _train(
    runs: list[_Run], program: Program, everything: Many, preemption: Preemption, say: Callable[[str], None]
) -> None:
    settings, train = runs[0].settings, runs[0].settings.train
    seeds = jnp.array([run.settings.seed for run in runs], jnp.uint32)
    rates = jnp.array([run.settings.optimizer.learning_rate for run in runs], jnp.float32)
    start, spent, states = _restored(runs, program, everything)
    if states is None:
        states = everything.init(seeds)
    for run in runs:
        run.begin(start, spent)

    def one(states: Any, index: int) -> Any:
        shardings = jax.tree.map(lambda leaf: leaf.sharding, program.abstract_state)
        return jax.device_put(pick(states, index), shardings)

    def log(done: int, values: dict[str, Any]) -> None:
        for index, run in enumerate(runs):
            run.recorder.log(done, {name: value[index] for name, value in values.items()})

    @contextlib.contextmanager
    def paused() -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for run in runs:
                stack.enter_context(run.recorder.meter.paused())
            yield

    def evaluate(done: int, states: Any) -> None:
        with paused():
            for index, run in enumerate(runs):
                run.evaluate(done, program.whole(one(states, index)))

    def save(done: int, states: Any, wait: bool) -> None:
        with paused():
            for index, run in enumerate(runs):
                run.save(done, one(states, index))
            for run in runs if wait else []:
                run.checkpoints.wait()

    began = time.monotonic()
    feed = _batches(runs, start)
    step = everything.step.lower(states, next(_batches(runs, 0)), seeds, rates).compile()
    say(f'{len(runs)} runs at once on {everything.mesh.size} devices; compiled in {time.monotonic() - began:.1f} s')
    hooks = loop.Hooks(log, evaluate, lambda *_: None, save, preemption.requested_anywhere, lambda: False)
    every = loop.Every(train.log_every, train.evaluate_every, 0, train.checkpoint_every, ())
    states = loop.train(
        lambda states, batch: step(states, batch, seeds, rates), states, feed, start=start, steps=settings.steps,
        every=every, max_skipped=train.max_skipped_in_row, hooks=hooks,
    )  # fmt: skip
    if settings.steps == start:  # killed between the last checkpoint and the summaries
        for run in runs:
            run.recorder.last |= writers.read(run.folder / 'metrics.jsonl')[-1]
        evaluate(start, states)
    _finish(runs, states, one)


def _finish(runs: list[_Run], states: Any, one: Callable[[Any, int], Any]) -> None:
    """Writes the summaries of those that came to their end; raises Diverged where some did not."""
    most = runs[0].settings.train.max_skipped_in_row
    diverged = [int(count) >= most for count in jax.device_get(states.in_row)]
    for index, run in enumerate(runs):
        if not diverged[index]:
            run.finish(one(states, index))
    if any(diverged):
        names = ', '.join(run.settings.name for run, bad in zip(runs, diverged, strict=True) if bad)
        raise Diverged(f'{names}: not finite to the end; the others are done')


def _restored(runs: list[_Run], program: Program, everything: Many) -> tuple[int, float, Any]:
    """(step, seconds, states) of the newest step that every run has saved; (0, 0, None) where there is none."""
    common = set.intersection(*(set(manifest.steps(run.folder / 'checkpoints')) for run in runs))
    for step in sorted(common, reverse=True):
        try:
            loaded = [checkpoint.load(run.folder / 'checkpoints', program.abstract_state, step=step) for run in runs]
        except UserError:
            continue  # one of them is damaged: an older step may be whole in all
        if any(one.meta['fingerprint'] != runs[0].corpus.fingerprint for one in loaded):
            raise UserError(f'{runs[0].folder.parent}: began with other data; choose another --workdir')
        states = many_states([one.state for one in loaded], everything.mesh)
        return step, max(one.meta['seconds'] for one in loaded), states
    return 0, 0.0, None


def _batches(runs: list[_Run], start: int) -> Iterator[dict[str, np.ndarray]]:
    """Each run's own batch k, stacked; runs of one seed share theirs."""
    seeds = [run.settings.seed for run in runs]
    feeds = {run.settings.seed: material.batches_of(run.settings, run.corpus, start, (0, 1)) for run in runs}
    while True:
        batch = {seed: next(feed) for seed, feed in feeds.items()}
        yield {name: np.stack([batch[seed][name] for seed in seeds]) for name in batch[seeds[0]]}
