"""Where does a run begin? At its own last checkpoint, another run's, another's weights, or its first values."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from gpt_jax import tuned
from gpt_jax.errors import UserError
from gpt_jax.model import accounting
from gpt_jax.modes import branch, material, warm_start
from gpt_jax.modes.track import Run
from gpt_jax.observe.progress import count
from gpt_jax.train.checkpoint import Checkpoints
from gpt_jax.train.state import State


class Begun(NamedTuple):
    """step: compiled. start: updates that the state has seen. spent: seconds that they took."""

    step: Callable[..., Any]
    state: State
    start: int
    spent: float


def begin(run: Run, checkpoints: Checkpoints) -> Begun:
    """Compiles the step and finds the state, side by side: a first state takes a compiler too.

    Raises:
      UserError: the data or the weights are not what the run began with.
    """
    with ThreadPoolExecutor(max_workers=1) as other:
        found = other.submit(_state, run, checkpoints)
        step, seconds = _compiled(run)
        state, start, spent = found.result()
    name = run.settings.name
    if run.program.why:
        run.say(f'{name}: {run.program.why}')
    run.say(f'{name}: {_describe(run)}; compiled in {seconds:.1f} s')
    return Begun(step, state, start, spent)


def _state(run: Run, checkpoints: Checkpoints) -> tuple[State, int, float]:
    settings, program, fingerprint = run.settings, run.program, run.corpus.fingerprint
    restored = checkpoints.restore(tuned.saved(program.abstract_state, settings.init_from))
    if restored is None and settings.train.branch_from:
        state = branch.state(run.config, settings, fingerprint, program, run.workdir, run.say)
        return state, settings.train.branch_step, 0.0
    if restored is None and settings.init_from:
        return warm_start.state(settings, program, run.say), 0, 0.0
    if restored is None:
        return program.init(), 0, 0.0
    if restored.meta['fingerprint'] not in ('', fingerprint):  # '': imported, and not trained on here yet
        raise UserError(
            f'{material.source(settings)} is not the data that this run began with '
            f'({fingerprint[:12]}, not {restored.meta["fingerprint"][:12]}); restore it or change --workdir'
        )
    run.say(f'{settings.name}: going on from the checkpoint of step {restored.step}')
    state = warm_start.with_kept(settings, program, restored, run.say)
    return state, restored.meta['next_batch'], restored.meta['seconds']


def _compiled(run: Run) -> tuple[Callable[..., Any], float]:
    """The compiled step, and how long compiling took."""
    program = run.program
    batch = next(program.on_devices(material.batches_of(run.settings, run.corpus, 0, program.share())))
    began = time.monotonic()
    step = program.step.lower(program.abstract_state, batch).compile()
    return step, time.monotonic() - began


def _describe(run: Run) -> str:
    settings, mesh = run.settings, run.program.mesh
    counts = accounting.parameters(settings.model)
    active = f'{count(counts["active"])} active, ' if counts['active'] < counts['total'] else ''
    return (
        f'{count(counts["total"])} parameters ({active}{count(counts["non_embedding"])} without embeddings), '
        f'{count(settings.steps * settings.tokens_per_step)} tokens in {settings.steps:,} steps '
        f'on {mesh.size} x {mesh.devices.flat[0].device_kind}'
    )
