"""What does a finished run leave behind? One flat JSON object, every number with its convention in its name."""

from pathlib import Path
from typing import Any

import jax

from gpt_jax import files, identity, runtime, trees
from gpt_jax.assemble import Program, Settings
from gpt_jax.model import accounting
from gpt_jax.modes.suite import SUITE, downstream
from gpt_jax.observe import writers
from gpt_jax.observe.curve import curve
from gpt_jax.train.state import State

BITS = 'validation_bits_per_byte'


def summary(
    config: dict[str, Any], settings: Settings, program: Program, state: State, values: dict[str, float],
    seconds: float, known: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """The contents of summary.json.

    Losses are in nats per token (of a task's questions, per question); `bits_per_byte` is the validation loss.
    `known` is what is to be said of the data. `parameters_sha256` is equal for two runs if
    and only if their final parameters are bitwise equal. Every process must call this (parameters may be spread).
    """
    steps = int(state.step)  # of a run that ended early, less than the config's
    tokens = steps * settings.tokens_per_step
    flops = accounting.flops_per_token(settings.model)
    device = program.mesh.devices.flat[0]
    return {
        'name': settings.name,
        'status': 'done',
        'steps': steps,
        'tokens': tokens,
        'budget': settings.train.flops if settings.train.budgeted else None,
        'role': _role(settings),
        'branch_from': settings.train.branch_from,
        'branch_step': settings.train.branch_step,
        'init_from': settings.init_from,
        'seconds': seconds,
        'train_loss': values.get('loss'),
        **{name: value for name, value in values.items() if name.startswith('validation_') and name != BITS},
        **({'bits_per_byte': values[BITS]} if BITS in values else {}),
        **{name: value for name, value in values.items() if name.startswith(SUITE)},
        **downstream(values),
        'skipped_steps': int(state.skipped),
        **{f'params_{name}': number for name, number in accounting.parameters(settings.model).items()},
        **{f'flops_per_token_{name}': number for name, number in flops.items()},
        **{f'flops_{name}': number * tokens for name, number in flops.items()},
        'layers': settings.model.layers,
        'width': settings.model.width,
        'heads': settings.model.heads,
        'context': settings.model.context,
        'vocab_size': settings.model.vocab_size,
        'batch': settings.train.batch,
        'learning_rate': settings.optimizer.learning_rate,
        'schedule': settings.optimizer.schedule,
        'parametrization': settings.model.parametrization,
        'init_std': settings.model.init_std,
        'seed': settings.seed,
        'task': settings.task.kind,
        'task_source': settings.task.source,
        **known,
        'config_hash': identity.config_hash(config),
        'parameters_sha256': trees.sha256(state.params),
        'device': device.device_kind,
        'devices': program.mesh.size,
        'processes': jax.process_count(),
        'versions': runtime.versions(),
    }


def _role(settings: Settings) -> str:
    """What kind of run it was, for those who fit laws: only runs and branches lie on one."""
    train = settings.train
    if settings.init_from:
        return 'tuned'
    if settings.task.kind != 'none':
        return 'task'
    return 'trunk' if train.keep_steps else 'branch' if train.branch_from else 'run'


def finish(done: dict[str, Any], workdir: Path) -> dict[str, Any]:
    """Writes summary.json, which says that the run is done: the summary and the curve of its loss."""
    done = done | {'curve': curve(writers.read(workdir / 'metrics.jsonl'))}
    files.write_json(workdir / 'summary.json', done)
    return done


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
