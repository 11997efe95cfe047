"""How does a config become a trained model in a folder? From its last checkpoint on, to its summary."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from gpt_jax import assemble, files, identity, trees
from gpt_jax.assemble import Settings
from gpt_jax.data.task_corpus import TaskCorpus
from gpt_jax.errors import Diverged, UserError
from gpt_jax.evaluate import metrics
from gpt_jax.launch.trial import PROGRESS
from gpt_jax.modes import answers, material, suite, warm_start
from gpt_jax.modes.begin import begin
from gpt_jax.modes.best import Best
from gpt_jax.modes.material import Material, batches_of
from gpt_jax.modes.recorder import Recorder
from gpt_jax.modes.summary import finish, summary
from gpt_jax.modes.track import Config, Run, Track
from gpt_jax.observe import writers
from gpt_jax.observe.progress import Progress
from gpt_jax.observe.writers import Metrics
from gpt_jax.train import loop
from gpt_jax.train.checkpoint import Checkpoints
from gpt_jax.train.preempt import Preemption
from gpt_jax.train.state import State
from gpt_jax.watchdog import Watchdog

Say = Callable[[str], None]
MANY_REPEATS = 4  # up to here repeated data is worth nearly what new data is (Muennighoff et al. 2023, section 5)


def train(config: Config, workdir: Path, *, say: Say, trial: tuple[int, int] | None) -> dict[str, Any]:
    """Trains the config's model, or goes on from its last checkpoint, or finds it done; returns its summary.

    Args:
      config: nested dict, checked.
      workdir: the run's folder.
      say: receives lines for the user.
      trial: (k, n) where the run is trial k of the n of a sweep.

    Raises:
      UserError: bad config or data, a folder that holds another run, or one that is in use.
      Preempted: a signal stopped the run; it is saved.
      Diverged: too many non-finite steps in a row; the last checkpoint is as it was.
    """
    # Whatever can be wrong with the input is found before the folder is made.
    task = assemble.task_config(config)
    metrics.installed(task.metrics, task.kind)
    corpus = material.material(config, say)
    settings = assemble.settings(config, corpus.vocab_size)
    program = assemble.build(settings)
    next(batches_of(settings, corpus, 0, program.share()))  # raises where there is too little text
    asked = suite.asked(settings, corpus, say)
    with _sole_writer(workdir):
        done = finished(config, workdir)
        if done is not None:
            say(f'{workdir}: already done; delete the folder to run it again')
            return done
        _warn_of_repeats(settings, corpus, say)
        if jax.process_index() == 0:
            files.write_json(workdir / 'config.json', config)
            material.keep_tokenizer(settings, corpus, workdir)
        line = Progress(sys.stderr, trial=trial, name=settings.name, steps=settings.steps, report=workdir / PROGRESS)
        return _run(Run(config, settings, corpus, program, asked, workdir, line, say))


def finished(config: Config, workdir: Path) -> dict[str, Any] | None:
    """The summary of this very run, if it is done.

    Raises:
      UserError: the folder holds a run of another config; names what differs.
    """
    summary = workdir / 'summary.json'
    if (workdir / 'config.json').exists() and (summary.exists() or any((workdir / 'checkpoints').glob('*'))):
        before = files.read_json(workdir / 'config.json')
        changes = identity.difference(identity.fixed(before), identity.fixed(config))
        if changes:
            raise UserError(
                f'{workdir}: holds a run of another config ({"; ".join(changes)}); choose another --workdir'
            )
    return files.read_json(summary) if summary.exists() else None


@contextlib.contextmanager
def _sole_writer(workdir: Path) -> Iterator[None]:
    """The folder's lock, held by the first process for all."""
    if jax.process_index() > 0:
        yield
        return
    with files.lock(workdir / 'lock', wait=False):
        yield


def _warn_of_repeats(settings: Settings, corpus: Material, say: Say) -> None:
    epochs = material.epochs(settings, corpus)
    if epochs.times > MANY_REPEATS:
        say(
            f'warning: {settings.steps:,} steps repeat {epochs.unique:,} {epochs.unit} of {material.source(settings)} '
            f'{epochs.times:.1f} times; beyond {MANY_REPEATS} times, repeated text is worth much less than new text'
        )


def _run(run: Run) -> dict[str, Any]:
    settings, workdir = run.settings, run.workdir
    first = jax.process_index() == 0
    keep, keep_steps = settings.train.keep_checkpoints, settings.train.keep_steps
    with (
        _watchdog(settings) as dog,
        Preemption() as preemption,  # outermost: a second signal must not end the last save
        Checkpoints(workdir / 'checkpoints', keep=keep, keep_steps=keep_steps, announce=run.say) as checkpoints,
        Metrics(workdir, tensorboard=settings.train.tensorboard, enabled=first) as metrics,
        contextlib.ExitStack() as stack,
    ):
        began = time.monotonic()
        step, state, start, spent = begin(run, checkpoints)
        metrics.resume(start)
        run = run._replace(
            corpus=warm_start.compared(settings, run.corpus, run.program, workdir, start, run.line, run.say)
        )
        spent += time.monotonic() - began
        recorder = Recorder(settings, lambda loss: material.units(run.corpus, loss), metrics, run.line, start, spent)
        best = stack.enter_context(Best(settings, run.corpus, workdir, start, run.say))
        track = Track(run, checkpoints, recorder, best, state)
        feed = run.program.on_devices(batches_of(settings, run.corpus, start, run.program.share()))
        run.line.on_note = dog.beat
        try:
            state = loop.train(
                step, state, feed, start=start, steps=settings.steps, every=track.every(),
                max_skipped=settings.train.max_skipped_in_row, hooks=track.hooks(lambda: _stop(preemption, dog)),
            )  # fmt: skip
            if int(state.step) == start:  # killed between the last checkpoint and the summary
                recorder.last |= writers.read(workdir / 'metrics.jsonl')[-1] if first else {}
                track.evaluate(start, state)
                track.ask(start, state)
            recorder.last |= material.contamination(settings, run.corpus, ['validation'], run.line, run.say)
        except Diverged:
            recorder.commit()  # the row of the step that diverged is the one to look at
            raise
        finally:
            run.line.close()
        checkpoints.wait()
        return _summarized(run, state, recorder, best)


def _summarized(run: Run, state: State, recorder: Recorder, best: Best) -> dict[str, Any]:
    """The summary; every process takes part, and the first one writes it."""
    settings, corpus = run.settings, run.corpus
    known = material.counts(corpus) | {'fingerprint': corpus.fingerprint} | best.known()
    known |= {'params_trained': trees.size(run.program.abstract_state.params), 'tune_rank': settings.tune.rank}
    if isinstance(corpus, TaskCorpus):
        known |= answers.of_run(settings, corpus, run.workdir, run.say)
    done = summary(run.config, settings, run.program, state, recorder.last, recorder.seconds(), known)
    return finish(done, run.workdir) if jax.process_index() == 0 else done


def _watchdog(settings: Settings) -> Watchdog:
    """Alone, a process waits for nobody."""
    who = f'process {jax.process_index()} of {jax.process_count()}'
    return Watchdog(60 * settings.train.stall_minutes if jax.process_count() > 1 else 0.0, who)


def _stop(preemption: Preemption, dog: Watchdog) -> bool:
    asked = preemption.requested_anywhere()  # from the second call on, all processes have come as far
    dog.beat()
    return asked
