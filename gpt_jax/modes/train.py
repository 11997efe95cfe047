"""How does a config become a trained model in a folder? From its last checkpoint on, to its summary."""

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from gpt_jax import assemble, files, identity, runtime, trees, tuned
from gpt_jax.assemble import Program, Settings
from gpt_jax.data.task_corpus import TaskCorpus
from gpt_jax.data.tokens import TOKENIZER
from gpt_jax.errors import Diverged, UserError
from gpt_jax.evaluate import metrics
from gpt_jax.launch.trial import PROGRESS
from gpt_jax.model import accounting
from gpt_jax.modes import answers, branch, material, suite, warm_start
from gpt_jax.modes.best import Best
from gpt_jax.modes.material import Material, batches_of
from gpt_jax.modes.recorder import Recorder
from gpt_jax.modes.summary import summary
from gpt_jax.observe import writers
from gpt_jax.observe.curve import curve
from gpt_jax.observe.progress import Progress, count
from gpt_jax.observe.writers import Metrics
from gpt_jax.train import checkpoint, loop
from gpt_jax.train.preempt import Preemption
from gpt_jax.train.state import State
from gpt_jax.watchdog import Watchdog

Say = Callable[[str], None]
Config = dict[str, Any]
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
            files.write_bytes(workdir / TOKENIZER, material.tokenizer_content(corpus))  # the folder needs no other
        line = Progress(sys.stderr, trial=trial, name=settings.name, steps=settings.steps, report=workdir / PROGRESS)
        return _run(config, settings, corpus, program, asked, workdir, say, line)


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


def outcome(done: dict[str, Any]) -> str:
    """What a summary says of the validation, in a few words."""
    loss = f'validation loss {done["validation_loss"]:.4f} nats/'
    if 'bits_per_byte' in done:
        return f'{loss}token, {done["bits_per_byte"]:.4f} bits/byte'
    if 'validation_accuracy' in done:
        return f'{loss}question, accuracy {done["validation_accuracy"]:.2%}'
    scores = [name for name in done if name.startswith('validation_') and not name.startswith('validation_examples')]
    said = [f'{name.removeprefix("validation_")} {done[name]:.4g}' for name in scores if name != 'validation_loss']
    return ', '.join([f'{loss}token of the answers', *said])


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


def _run(
    config: Config, settings: Settings, corpus: Material, program: Program, asked: list[suite.Asked], workdir: Path,
    say: Say, line: Progress,
) -> dict[str, Any]:  # fmt: skip
    first = jax.process_index() == 0
    keep, keep_steps = settings.train.keep_checkpoints, settings.train.keep_steps
    with (
        _watchdog(settings) as dog,
        Preemption() as preemption,  # outermost: a second signal must not end the last save
        checkpoint.Checkpoints(workdir / 'checkpoints', keep=keep, keep_steps=keep_steps, announce=say) as checkpoints,
        Metrics(workdir, tensorboard=settings.train.tensorboard, enabled=first) as metrics,
        contextlib.ExitStack() as stack,
    ):
        began = time.monotonic()
        with ThreadPoolExecutor(max_workers=1) as other:  # a first state takes a compiler too
            begun = other.submit(_begin, config, settings, corpus, program, checkpoints, workdir, say)
            step, compile_seconds = _compiled(program, settings, corpus)
            state, start, spent = begun.result()
        metrics.resume(start)
        corpus = warm_start.compared(settings, corpus, program, workdir, start, line, say)
        recorder = Recorder(
            settings, lambda loss: material.units(corpus, loss), metrics, line, start, spent + time.monotonic() - began
        )
        best = stack.enter_context(Best(settings, workdir, material.tokenizer_content(corpus), start, say))
        feed = program.on_devices(batches_of(settings, corpus, start, program.share()))
        if program.why:
            say(f'{settings.name}: {program.why}')
        say(f'{settings.name}: {_describe(settings, program)}; compiled in {compile_seconds:.1f} s')

        saved = functools.partial(tuned.saved, init_from=settings.init_from)
        kept = tuned.sum_of(state, settings.init_from)

        def about(done: int) -> dict[str, Any]:
            return meta(config, corpus, done, recorder.seconds()) | ({tuned.KEPT: kept} if kept else {})

        def evaluate(done: int, state: State) -> None:
            with recorder.meter.paused():
                found = material.validation(settings, program, corpus, program.whole(state), line)
                recorder.add(done, found)
                best.see(done, found, saved(state), about(done))

        def ask(done: int, state: State) -> None:
            with recorder.meter.paused():
                recorder.add(done, suite.scores(settings, program, corpus, asked, program.whole(state), line))

        def save(done: int, state: State, wait: bool) -> None:
            with recorder.meter.paused():
                recorder.commit()
                checkpoints.save(done, saved(state), about(done))
                if wait:
                    checkpoints.wait()

        line.on_note = dog.beat
        hooks = loop.Hooks(recorder.log, evaluate, ask, save, lambda: _stop(preemption, dog), best.enough)
        every = loop.Every(
            settings.train.log_every, settings.train.evaluate_every, settings.suite.every,
            settings.train.checkpoint_every, keep_steps,
        )  # fmt: skip
        try:
            state = loop.train(
                step, state, feed, start=start, steps=settings.steps, every=every,
                max_skipped=settings.train.max_skipped_in_row, hooks=hooks,
            )  # fmt: skip
            if int(state.step) == start:  # killed between the last checkpoint and the summary
                recorder.last |= writers.read(workdir / 'metrics.jsonl')[-1] if first else {}
                evaluate(start, state)
                ask(start, state)
        except Diverged:
            recorder.commit()  # the row of the step that diverged is the one to look at
            raise
        finally:
            line.close()
        checkpoints.wait()
        known = material.counts(corpus) | {'fingerprint': corpus.fingerprint} | best.known()
        known |= {'params_trained': trees.size(program.abstract_state.params), 'tune_rank': settings.tune.rank}
        known |= _answered(settings, corpus, workdir, say)
        done = summary(config, settings, program, state, recorder.last, recorder.seconds(), known)
        if first:
            done = finish(done, workdir)
        return done


def _answered(settings: Settings, corpus: Material, workdir: Path, say: Say) -> dict[str, Any]:
    if settings.task.kind != 'answer' or not settings.task.written:
        return {}
    if jax.process_count() > 1:
        if jax.process_index() == 0:
            say(f'{settings.name}: its answers are written and scored by one process: --mode=evaluate')
        return {}
    assert isinstance(corpus, TaskCorpus)
    return dict(answers.scores(settings, corpus, ['validation'], workdir, say))


def _watchdog(settings: Settings) -> Watchdog:
    """Alone, a process waits for nobody."""
    who = f'process {jax.process_index()} of {jax.process_count()}'
    return Watchdog(60 * settings.train.stall_minutes if jax.process_count() > 1 else 0.0, who)


def _stop(preemption: Preemption, dog: Watchdog) -> bool:
    asked = preemption.requested_anywhere()  # from the second call on, all processes have come as far
    dog.beat()
    return asked


def finish(done: dict[str, Any], workdir: Path) -> dict[str, Any]:
    """Writes summary.json, which says that the run is done: the summary and the curve of its loss."""
    done = done | {'curve': curve(writers.read(workdir / 'metrics.jsonl'))}
    files.write_json(workdir / 'summary.json', done)
    return done


def _begin(
    config: Config, settings: Settings, corpus: Material, program: Program, checkpoints: checkpoint.Checkpoints,
    workdir: Path, say: Say,
) -> tuple[State, int, float]:  # fmt: skip
    """The state to go on from, how many updates it has seen, and the seconds that were spent on them."""
    restored = checkpoints.restore(tuned.saved(program.abstract_state, settings.init_from))
    if restored is None and settings.train.branch_from:
        return (
            branch.state(config, settings, corpus.fingerprint, program, workdir, say),
            settings.train.branch_step,
            0.0,
        )
    if restored is None and settings.init_from:
        return warm_start.state(settings, program, say), 0, 0.0
    if restored is None:
        return program.init(), 0, 0.0
    if restored.meta['fingerprint'] not in ('', corpus.fingerprint):  # '': imported, and not trained on here yet
        raise UserError(
            f'{material.source(settings)} is not the data that this run began with '
            f'({corpus.fingerprint[:12]}, not {restored.meta["fingerprint"][:12]}); restore it or change --workdir'
        )
    say(f'{settings.name}: going on from the checkpoint of step {restored.step}')
    return warm_start.with_kept(settings, program, restored, say), restored.meta['next_batch'], restored.meta['seconds']


def _compiled(program: Program, settings: Settings, corpus: Material) -> tuple[Callable[..., Any], float]:
    """The compiled step, and how long compiling took."""
    batch = next(program.on_devices(batches_of(settings, corpus, 0, program.share())))
    began = time.monotonic()
    step = program.step.lower(program.abstract_state, batch).compile()
    return step, time.monotonic() - began


def _describe(settings: Settings, program: Program) -> str:
    counts = accounting.parameters(settings.model)
    device = program.mesh.devices.flat[0]
    active = f'{count(counts["active"])} active, ' if counts['active'] < counts['total'] else ''
    return (
        f'{count(counts["total"])} parameters ({active}{count(counts["non_embedding"])} without embeddings), '
        f'{count(settings.steps * settings.tokens_per_step)} tokens in {settings.steps:,} steps '
        f'on {program.mesh.size} x {device.device_kind}'
    )


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
