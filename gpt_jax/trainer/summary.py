"""Summary of a finished run: one flat JSON object with each number's convention in its name."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from gpt_jax.core import files, jax_setup, model_counts, trees
from gpt_jax.core.config import Config
from gpt_jax.train import metrics
from gpt_jax.train.build import TrainerParts
from gpt_jax.train.step import State

SUMMARY_FILE = 'summary.json'
VALIDATION_BITS_PER_BYTE = 'validation_bits_per_byte'
SUITE_PREFIX = 'suite_'  # of the evaluation suite's metrics: suite_TASK_SCORE


def make_summary(
    config: Config,
    config_hash: str,
    parts: TrainerParts,
    state: State,
    values: dict[str, float],
    seconds: float,
    extra: dict[str, Any],
) -> dict[str, Any]:
    """Return the contents of summary.json. Every process must call this: params may be sharded.

    Losses are in nats per token (for a task's questions, per question); `bits_per_byte` is the
    validation loss. `parameters_sha256` is equal for two runs if and only if their final params
    are bitwise equal.

    Args:
      config_hash: of the run, with its partition (resume.describe_partition).
      values: the latest value of each metric.
      seconds: wall-clock seconds of the run.
      extra: further entries, such as those about the data and the best checkpoint.
    """
    steps = int(state.step)  # fewer than the config's after early stopping
    tokens = steps * config.tokens_per_step
    params = model_counts.parameters(config.model)
    flops = model_counts.flops_per_token(config.model)
    model, train = config.model, config.train
    return {
        'name': config.name,
        'status': 'done',
        'steps': steps,
        'tokens': tokens,
        'budget': train.flops if train.is_flop_budgeted else None,
        'role': _find_role(config),
        'branch_from': train.branch_from,
        'branch_step': train.branch_step,
        'init_from': config.init_from,
        'seconds': seconds,
        **_select_metrics(values),
        'skipped_steps': int(state.skipped_steps),
        **{f'params_{name}': number for name, number in params.items()},
        **{f'flops_per_token_{name}': number for name, number in flops.items()},
        **{f'flops_{name}': number * tokens for name, number in flops.items()},
        'layers': model.layers,
        'width': model.width,
        'heads': model.heads,
        'context': model.context,
        'vocab_size': model.vocab_size,
        'batch': train.batch_size,
        'learning_rate': config.optimizer.learning_rate,
        'schedule': config.optimizer.schedule,
        'parametrization': model.parametrization,
        'init_std': model.init_std,
        'seed': config.seed,
        'task': config.task.kind,
        'task_source': config.task.source,
        **extra,
        'config_hash': config_hash,
        'parameters_sha256': trees.hash_tree(state.params),
        'device': parts.mesh.devices.flat[0].device_kind,
        'devices': parts.mesh.size,
        'processes': jax.process_count(),
        'versions': jax_setup.find_versions(),
    }


def _select_metrics(values: dict[str, float]) -> dict[str, Any]:
    """Select the training loss and the metrics of the validation and the suite."""
    selected: dict[str, Any] = {'train_loss': values.get('loss')}
    selected |= {
        name: value
        for name, value in values.items()
        if name.startswith('validation_') and name != VALIDATION_BITS_PER_BYTE
    }
    if VALIDATION_BITS_PER_BYTE in values:
        selected['bits_per_byte'] = values[VALIDATION_BITS_PER_BYTE]
    selected |= {name: value for name, value in values.items() if name.startswith(SUITE_PREFIX)}
    return selected | mean_downstream_error(values)


def mean_downstream_error(values: dict[str, float]) -> dict[str, float]:
    """Return the suite's mean error, to which downstream laws are fitted (Gadre et al. 2024)."""
    errors = [
        value
        for name, value in values.items()
        if name.startswith(SUITE_PREFIX) and name.endswith('_error')
    ]
    return {'downstream_error': float(np.mean(errors))} if errors else {}


def _find_role(config: Config) -> str:
    """Return the kind of run; scaling laws are fitted to runs and branches only."""
    train = config.train
    if config.init_from:
        return 'finetuned'
    if config.task.kind != 'none':
        return 'task'
    return 'trunk' if train.keep_steps else 'branch' if train.branch_from else 'run'


def write_summary(summary: dict[str, Any], workdir: Path) -> dict[str, Any]:
    """Write summary.json with the loss curve; the file marks the run as finished."""
    rows = metrics.read_metrics(workdir / metrics.METRICS_FILE)
    summary = summary | {'curve': metrics.make_loss_curve(rows)}
    files.write_json(workdir / SUMMARY_FILE, summary)
    return summary


def describe_validation(summary: dict[str, Any]) -> str:
    """Describe a summary's validation metrics in a few words."""
    loss = f'validation loss {summary["validation_loss"]:.4f} nats/'
    if 'bits_per_byte' in summary:
        return f'{loss}token, {summary["bits_per_byte"]:.4f} bits/byte'
    if 'validation_accuracy' in summary:
        return f'{loss}question, accuracy {summary["validation_accuracy"]:.2%}'
    metrics_of_answers = [
        f'{name.removeprefix("validation_")} {value:.4g}'
        for name, value in summary.items()
        if name.startswith('validation_')
        and name != 'validation_loss'
        and not name.startswith('validation_examples')
    ]
    return ', '.join([f'{loss}token of the answers', *metrics_of_answers])
