"""Initialization from pretrained weights (config.init_from): model config and params.

The source is a run folder, a Hugging Face folder or a name on its hub. A text run takes the params
of a run with the same model. A task run takes the model and the tokenizer from the source; its
params may gain vocabulary rows and a head.
"""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from gpt_jax.core import config_fields, files
from gpt_jax.core.config import Config, RawConfig, resolve_model
from gpt_jax.core.errors import UserError
from gpt_jax.core.progress import LogFn
from gpt_jax.train import finetune_checkpoint, manifest
from gpt_jax.train.build import TrainerParts
from gpt_jax.train.checkpoint import RestoredCheckpoint, load_checkpoint
from gpt_jax.train.step import State

# Fields that change neither the shape nor the meaning of the weights: how the model is computed,
# how it was initialized, and auxiliary losses.
NON_WEIGHT_FIELDS = (
    'attention_kernel',
    'attention_chunk',
    'activation_dtype',
    'matmul_dtype',
    'scan_layers',
    'remat',
    'loss_chunk',
    'dropout',
    'init_std',
    'capacity_factor',
    'load_balance',
    'router_z',
    'z_loss',
)
MUP_BASE_FIELDS = ('base_width', 'base_layers', 'base_head_dim')
# The rotary scalings that depend on the context of the original model.
SCALINGS_OF_ORIGINAL_CONTEXT = ('llama3', 'yarn')


def model_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """List the differences that keep two model sections from sharing weights.

    The sections may be resolved or as in a config (0: automatic), and that of an older run may lack
    fields, which then have the values that change nothing. The context is compared only with
    learned positions, and the vocabulary only if both sections give its size; otherwise a mismatch
    shows in the shapes of the weights.

    Returns:
      Lines such as 'model.width: 128 -> 256'.
    """
    before_fields, after_fields = _weight_fields(before), _weight_fields(after)
    if not before['vocab_size'] or not after['vocab_size']:
        before_fields.pop('vocab_size', None)
        after_fields.pop('vocab_size', None)
    return [f'model.{line}' for line in config_fields.diff_configs(before_fields, after_fields)]


def _weight_fields(section: Mapping[str, Any]) -> dict[str, Any]:
    complete = config_fields.add_later_fields({'model': section})['model']
    resolved = dict(config_fields.flatten_config(resolve_model(complete, 1)))
    ignored = {*NON_WEIGHT_FIELDS}
    if resolved['position'] != 'learned':
        ignored.add('context')
    if resolved['parametrization'] == 'standard':
        ignored.update(MUP_BASE_FIELDS)
    if resolved.get('rotary_scaling') not in SCALINGS_OF_ORIGINAL_CONTEXT:
        ignored.add('rotary_original_context')
    return {field: value for field, value in resolved.items() if field not in ignored}


def config_from_pretrained(raw_config: RawConfig, log: LogFn) -> RawConfig:
    """Return a task's config with the model and the tokenizer of its `init_from`.

    The config keeps the fields that do not affect the weights (kernels, dtypes, dropout), and its
    own context if that is shorter. A config without a task or `init_from` is returned unchanged.

    Raises:
      UserError: there is no such model.
    """
    if not raw_config['init_from'] or raw_config['task']['kind'] == 'none':
        return raw_config
    # Imported here, since pre-training needs neither these modules nor the tasks' libraries.
    from gpt_jax.inference.pretrained import find_pretrained
    from gpt_jax.tasks.encoding import task_vocab_size

    pretrained = find_pretrained(raw_config['init_from'], argument='config.init_from', log=log)
    section = dataclasses.asdict(pretrained.model_config)
    model = {field: value for field, value in section.items() if field not in NON_WEIGHT_FIELDS}
    # The marks around a task's texts are extra tokens, which the pretrained vocabulary may lack.
    model['vocab_size'] = max(
        pretrained.model_config.vocab_size,
        task_vocab_size(raw_config['task']['kind'], pretrained.tokenizer),
    )
    model['context'] = min(pretrained.model_config.context, raw_config['model']['context'])
    if model['context'] < raw_config['model']['context']:
        name, context = raw_config['name'], model['context']
        log(f'{name}: the pretrained model has a context of {context}, which this run uses too')
    raw_config = copy.deepcopy(raw_config)
    raw_config['model'] |= {
        field: list(value) if isinstance(value, tuple) else value for field, value in model.items()
    }
    raw_config['data']['tokenizer'] = pretrained.tokenizer_spec
    return raw_config


def load_pretrained_state(config: Config, parts: TrainerParts, log: LogFn) -> State:
    """Load the params of `init_from` into a state before its first update.

    Raises:
      UserError: there is no such run or no intact checkpoint, or it holds another model.
    """
    if config.task.kind != 'none':
        log(f'{config.name}: begins with the weights of {config.init_from}')
        return parts.make_state(load_pretrained_params(config, parts, log))
    path = files.check_path(config.init_from, 'config.init_from')
    folder = manifest.select_checkpoint_folder(path, None)
    meta = manifest.read_newest_meta(folder / 'checkpoints')
    if meta is None:
        raise UserError(f'config.init_from: {folder} holds no checkpoint; name the folder of a run')
    changes = model_differences(meta['config']['model'], dataclasses.asdict(config.model))
    if changes:
        raise UserError(f'config.init_from: {folder} holds another model ({"; ".join(changes)})')
    params_only = State(
        step=parts.abstract_state.step,
        params=parts.abstract_params,
        opt_state=None,
        skipped_steps=None,
        skipped_in_row=None,
    )
    restored = load_checkpoint(folder / 'checkpoints', params_only, log=log)
    log(f'{config.name}: begins with the weights of {folder} at step {restored.step}')
    return parts.make_state(restored.state.params)


def load_pretrained_params(config: Config, parts: TrainerParts, log: LogFn) -> Any:
    """Load the params of `init_from`, with new rows for a larger vocabulary and the task's head."""
    from gpt_jax.inference.pretrained import find_pretrained

    pretrained = find_pretrained(config.init_from, argument='config.init_from', log=log)
    return finetune_checkpoint.resize_params(
        pretrained.load_params,
        pretrained.model_config,
        config.model,
        config.task,
        config.seed,
        parts.abstract_params,
    )


def restore_frozen(
    config: Config, parts: TrainerParts, restored: RestoredCheckpoint, log: LogFn
) -> State:
    """Return a checkpoint's state with its frozen params, which are reloaded from `init_from`.

    Raises:
      UserError: the pretrained weights have changed since the run began.
    """
    state: State = restored.state
    if not config.init_from or parts.abstract_state.frozen is None:
        return state
    frozen = parts.select_frozen(load_pretrained_params(config, parts, log))
    finetune_checkpoint.verify_frozen(restored.meta, frozen, config.init_from)
    return state.replace(frozen=frozen)
