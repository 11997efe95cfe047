"""Evaluation of a trained run on its held-out splits, with its best or newest checkpoint."""

import sys
from pathlib import Path
from typing import Any

from gpt_jax.core.config import Config, RawConfig, parse_config
from gpt_jax.core.errors import UserError
from gpt_jax.core.progress import LogFn, Progress
from gpt_jax.evaluation import generated_answers
from gpt_jax.finetune.lora import merge_adapted
from gpt_jax.inference import placement
from gpt_jax.train import finetune_checkpoint, manifest
from gpt_jax.train.build import TrainerParts, build_trainer_parts
from gpt_jax.train.checkpoint import RestoredCheckpoint, load_checkpoint
from gpt_jax.trainer import init_from
from gpt_jax.trainer.dataset import Dataset, load_dataset
from gpt_jax.trainer.task_data import TaskData


def evaluate_run(
    raw_config: RawConfig,
    workdir: Path,
    log: LogFn,
    weight_dtype: str = 'float32',
    run_code: bool = False,
) -> dict[str, Any]:
    """Evaluate the run in `workdir`.

    Args:
      weight_dtype: dtype of the model's matrices (gpt_jax/inference/placement.py), to measure
        what lower precision costs.
      run_code: run the programs that the model generates (pass@k).

    Returns:
      The metrics by split, the checkpoint's step and the data's fingerprint.

    Raises:
      UserError: `workdir` holds no intact checkpoint, or one of another model.
    """
    kind = raw_config['task']['kind']
    if weight_dtype != 'float32' and kind not in ('none', 'completion'):
        raise UserError(f'--weight_dtype: must be float32 for task.kind={kind}, got {weight_dtype}')
    dataset = load_dataset(raw_config, log)
    config = parse_config(raw_config, dataset.vocab_size)
    parts = build_trainer_parts(config)
    restored = _load_weights(raw_config, config, parts, dataset, workdir, log)
    results: dict[str, Any] = {
        'name': config.name,
        'step': restored.step,
        'fingerprint': dataset.fingerprint,
    }
    state = init_from.restore_frozen(config, parts, restored, log)
    params = parts.combine_params(state)
    if weight_dtype != 'float32':
        params = merge_adapted(params)
        params = placement.quantize_params(params, config.model, weight_dtype)
        parts = placement.make_inference_parts(config, parts)
        results['weights'] = weight_dtype
    progress = Progress(sys.stderr, trial=None, name=config.name, steps=restored.step)
    for split in dataset.eval_splits:
        metrics = dataset.evaluate(config, parts, split, params, progress)
        results |= {f'{split}_{name}': value for name, value in metrics.items()}
    results |= dataset.measure_contamination(config, dataset.eval_splits, progress, log)
    progress.close()
    if isinstance(dataset, TaskData) and kind == 'completion' and config.task.eval_generations:
        results |= generated_answers.score_answers(
            config,
            dataset.examples,
            dataset.eval_splits,
            workdir,
            log,
            run_code=run_code,
            weight_dtype=weight_dtype,
        )
    return results


def _load_weights(
    raw_config: RawConfig,
    config: Config,
    parts: TrainerParts,
    dataset: Dataset,
    workdir: Path,
    log: LogFn,
) -> RestoredCheckpoint:
    """Load the params of the best or newest checkpoint, without the optimizer's state."""
    abstract = parts.abstract_state
    weights_only = abstract.replace(opt_state=None, skipped_steps=None, skipped_in_row=None)
    restored = load_checkpoint(
        manifest.select_checkpoint_folder(workdir, None) / 'checkpoints',
        finetune_checkpoint.drop_unsaved(weights_only, config.init_from),
        log=log,
    )
    if restored.meta['fingerprint'] not in ('', dataset.fingerprint):
        log(
            f'warning: {dataset.describe_source(config)} as tokenized now is not the data that '
            f'{workdir} was trained on'
        )
    changes = init_from.model_differences(restored.meta['config']['model'], raw_config['model'])
    if changes:
        raise UserError(f'{workdir}: holds another model ({"; ".join(changes)})')
    return restored
