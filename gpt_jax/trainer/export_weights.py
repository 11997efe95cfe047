"""Export of a run: its weights as a Hugging Face folder, or its adapters as a PEFT folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gpt_jax.core import files, trees
from gpt_jax.core.config import Config, ModelConfig, RawConfig, parse_config, parse_section
from gpt_jax.core.errors import UserError
from gpt_jax.core.progress import LogFn
from gpt_jax.data import tokenizer as tokenizers
from gpt_jax.data.tokenized_dataset import prepare_dataset
from gpt_jax.data.tokenizer import TOKENIZER_FILE, Tokenizer
from gpt_jax.finetune import heads
from gpt_jax.inference.pretrained import (
    IMPORTED_TOKENIZER,
    find_pretrained,
    find_run_weights,
    weight_letters,
)
from gpt_jax.interop import huggingface, peft, peft_config, tokenizer_files
from gpt_jax.model import weights
from gpt_jax.model.low_rank import Adapter, BaseWeight
from gpt_jax.tasks.encoding import task_vocab_size
from gpt_jax.train import finetune_checkpoint, manifest
from gpt_jax.train.build import declare_params


def export_weights(
    run: Path, output: Path, defaults: RawConfig, dtype: str, log: LogFn
) -> dict[str, Any]:
    """Write a run's newest weights and its tokenizer as a folder for transformers.

    Args:
      run: the folder of a run, trained here or imported.
      output: the folder to write.
      defaults: the default config, for fields that a run of an older version lacks.
      dtype: float32, bfloat16 or float16.

    Returns:
      output, model_type, dtype, step and the names of the files.

    Raises:
      UserError: `run` holds no checkpoint, or a model that no Hugging Face layout can represent.
    """
    run = manifest.select_checkpoint_folder(files.check_path(str(run), 'RUN'), None)
    meta = manifest.read_newest_meta(run / 'checkpoints')
    if meta is None:
        raise UserError(f'{run}: holds no checkpoint; name the folder of a run')
    step = _find_newest_step(run / 'checkpoints', log)
    raw_config = {
        key: defaults.get(key, {}) | section if isinstance(section, dict) else section
        for key, section in meta['config'].items()
    }
    tokenizer_content, tokenizer = _find_tokenizer(run, raw_config, log)
    kind = raw_config['task']['kind']
    # A tokenizer may have more ids than the model, for added tokens that the data lacks.
    vocab_size = 1
    if tokenizer is not None and not raw_config['model']['vocab_size']:
        vocab_size = task_vocab_size(kind, tokenizer)
    config = parse_config(raw_config, vocab_size)
    model_type = huggingface.select_layout(config.model)
    params = _load_params(run, raw_config, config, step, log)
    huggingface.write_model_folder(
        output,
        config.model,
        lambda path: np.asarray(params[path]),
        weight_letters(config.model),
        special_ids=tokenizer_files.special_token_ids(tokenizer_content),
        dtype=dtype,
        extra=tokenizer_content,
    )
    log(f'{output}: the weights of {run} at step {step}, as {model_type} in {dtype}')
    return {
        'output': str(output),
        'model_type': model_type,
        'dtype': dtype,
        'step': step,
        'files': sorted(path.name for path in output.iterdir()),
    }


def _find_newest_step(checkpoints: Path, log: LogFn) -> int:
    step = manifest.find_newest_valid(
        checkpoints, lambda step, damage: log(f'{checkpoints}/{step}: damaged ({damage}); skipped')
    )
    if step is None:
        raise UserError(f'{checkpoints}: holds no valid checkpoint; train the run again')
    return step


def _load_params(
    run: Path, raw_config: RawConfig, config: Config, step: int, log: LogFn
) -> dict[str, jax.Array]:
    """Load the params by path, on one device, with adapters merged and without a task's head."""
    _, load_params = find_run_weights(run, raw_config, config.model, step, log)
    params = load_params(_single_device_shardings(config.model))
    return dict(zip(trees.name_leaves(params), jax.tree.leaves(params), strict=True))


def _single_device_shardings(model_config: ModelConfig) -> Any:
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda _: sharding, weights.unbox(declare_params(model_config)))


def _find_tokenizer(
    run: Path, raw_config: RawConfig, log: LogFn
) -> tuple[dict[str, bytes], Tokenizer | None]:
    """Find the run's tokenizer.

    The files that came with imported weights are used if they hold the tokenizer that the run was
    trained with.

    Returns:
      The content of the tokenizer's files by name, and the tokenizer; None if it is missing.
    """
    spec, own_path = str(raw_config['data']['tokenizer']), run / TOKENIZER_FILE
    content: dict[str, bytes] = {}
    spec_path = files.check_path(spec, 'config.data.tokenizer')
    for folder in (run / IMPORTED_TOKENIZER, spec_path):
        if not folder.is_dir():
            continue
        content = content or tokenizer_files.read_files(folder)
        if tokenizer_files.has_tokenizer(content):
            tokenizer = tokenizers.make_tokenizer(str(folder), lambda: ())
            if not own_path.is_file():
                return content, tokenizer
            if tokenizers.load_tokenizer(own_path).fingerprint == tokenizer.fingerprint:
                return content, tokenizer
    if own_path.is_file():
        tokenizer = tokenizers.load_tokenizer(own_path)
    elif spec == 'bytes' or spec_path.is_file():
        tokenizer = tokenizers.make_tokenizer(spec, lambda: ())
    elif spec.startswith('bpe:'):
        tokenizer = prepare_dataset(parse_section(raw_config, 'data'), log).load_tokenizer()
    elif raw_config['model']['vocab_size']:
        log(f'warning: {spec} holds no tokenizer; the folder is written without one')
        return content, None
    else:
        raise UserError(
            f'config.data.tokenizer: {spec} is missing; it is needed for the size of the vocabulary'
        )
    return tokenizer_files.make_files(tokenizer, raw_config['model']['context']), tokenizer


def export_adapters(run: Path, output: Path, dtype: str, log: LogFn) -> dict[str, Any]:
    """Write a run's adapters, without its base model, as a folder for PEFT.

    Args:
      run: the folder of a run with adapters (finetune.rank).
      output: the folder to write.
      dtype: float32, bfloat16 or float16.

    Returns:
      output, adapters (their number), dtype, base, step and the names of the files.

    Raises:
      UserError: the run has no adapters, or also trains other weights, or no Hugging Face layout
        can represent its model.
    """
    pretrained = find_pretrained(str(run), argument='RUN', log=log)
    finetuned_run = pretrained.finetuned_run
    if finetuned_run is None or not finetuned_run.raw_config['finetune']['rank']:
        raise UserError(
            f'--adapters: {run} has none (config.finetune.rank); omit it to export the weights'
        )
    raw_config = finetuned_run.raw_config
    shardings = _single_device_shardings(pretrained.model_config)
    trainable, frozen, meta = finetune_checkpoint.load_partition(
        finetuned_run, shardings, None, log
    )
    trained, bases = _flatten(trainable, Adapter), _flatten(frozen, BaseWeight)
    adapters = {path: node for path, node in trained.items() if isinstance(node, Adapter)}
    others = [path for path in trained if path not in adapters]
    other_weights = [path for path in others if not path.startswith(f'{heads.HEAD_NAME}/')]
    if other_weights:
        raise UserError(
            f'--adapters: {run} also trains {", ".join(other_weights[:3])}, which an adapter '
            'folder cannot hold; omit the flag to export all of its weights'
        )
    if others:
        log(f'warning: the task head of {run} is not exported, since no other program can use it')
    base = peft_base_name(raw_config['init_from'], log)
    scales = {path: np.asarray(bases[path].scale) for path in adapters}
    peft.write_adapters(
        output,
        pretrained.model_config,
        peft.PeftAdapters(adapters, scales, base, raw_config['finetune']['dropout']),
        weight_letters(pretrained.model_config),
        rank_stabilized=raw_config['finetune']['rank_stabilized'],
        dtype=dtype,
    )
    log(f'{output}: {len(adapters)} adapters of {run}, in {dtype}, for the weights of {base}')
    return {
        'output': str(output),
        'adapters': len(adapters),
        'dtype': dtype,
        'base': base,
        'step': meta['next_batch'],
        'files': sorted(path.name for path in output.iterdir()),
    }


def peft_base_name(init_from: str, log: LogFn) -> str:
    """Return the base model's name for PEFT; for an imported run, the source of the import."""
    path = files.check_path(init_from, 'config.init_from')
    folder = manifest.select_checkpoint_folder(path, None) / 'checkpoints'
    meta = manifest.read_newest_meta(folder) if folder.is_dir() else None
    if meta is None:
        return init_from
    if not meta.get('imported_from'):
        log(
            f'{init_from}: a run folder, which PEFT cannot read; gpt-jax export {init_from} OUTPUT '
            f'writes a folder that {peft_config.ADAPTER_CONFIG_FILE} can name instead'
        )
    return str(meta.get('imported_from') or init_from)


def _flatten(tree: Any, node_type: type) -> Mapping[str, Any]:
    """Return the leaves by path; a node of `node_type` counts as a leaf."""
    leaves = jax.tree.leaves_with_path(tree, is_leaf=lambda node: isinstance(node, node_type))
    return {jax.tree_util.keystr(path, simple=True, separator='/'): node for path, node in leaves}
