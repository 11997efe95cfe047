"""Import of a Hugging Face model as a run's folder: config, tokenizer and first checkpoint."""

import copy
import dataclasses
import re
import shlex
from pathlib import Path
from typing import Any

import jax

from gpt_jax.core import config_fields, files, trees
from gpt_jax.core.config import Config, RawConfig, parse_config
from gpt_jax.core.errors import UserError
from gpt_jax.core.formatting import format_short_count
from gpt_jax.core.progress import LogFn
from gpt_jax.data.tokenizer import describe_missing_files, make_tokenizer
from gpt_jax.inference.pretrained import IMPORTED_TOKENIZER, limit_vocabulary, weight_letters
from gpt_jax.interop import huggingface, tokenizer_files
from gpt_jax.train.build import build_trainer_parts
from gpt_jax.train.checkpoint import CheckpointManager
from gpt_jax.train.step import State
from gpt_jax.trainer.hooks import make_checkpoint_meta

DEFAULT_CONTEXT = 1024  # tokens, for models whose positions allow any length


def render_config(
    name: str,
    model: dict[str, Any],
    base: dict[str, Any],
    source: str,
    workdir: Path,
    tokenizer: Path,
) -> str:
    """Render a config file in the style of configs/.

    Args:
      name: the new run's name.
      model: the model section of the imported weights.
      base: the model section of the base config; fields with equal values are left out.
      source: the source of the import, as given by the user.
      workdir: the folder of the imported run.
      tokenizer: the folder of the imported tokenizer.

    Returns:
      Python source.
    """
    changed = {field: value for field, value in model.items() if value != base[field]}
    context_note = ''
    if model['position'] != 'learned' and model['context'] > DEFAULT_CONTEXT:
        changed['context'], context_note = DEFAULT_CONTEXT, f'  # up to {model["context"]}'
    lines = '\n'.join(
        f'    config.model.{field} = {_literal(value)}{context_note if field == "context" else ""}'
        for field, value in changed.items()
    )
    return f'''"""Continues training from {_escape(source)}.

python run.py --config={_escape(shlex.quote(_relative(workdir / 'config.py')))} \\\\
    --workdir=runs/{name} \\\\
    '--config.data.source=files:corpus/*.txt'
"""

from ml_collections import ConfigDict

from gpt_jax import base_config


def get_config() -> ConfigDict:
    config = base_config()
    config.name = {name!r}
    config.init_from = {str(workdir)!r}
    config.data.tokenizer = {str(tokenizer)!r}

    config.train.batch_size = 8
    config.train.tokens = 1_000_000
    config.optimizer.learning_rate = 2e-5
    config.optimizer.warmup_fraction = 0.05

    # The architecture is that of the weights; only how it is computed may change.
{lines}
    return config
'''


def _literal(value: Any) -> str:
    return repr(tuple(value)) if isinstance(value, list) else repr(value)


def _escape(text: str) -> str:
    """Escape text for a docstring."""
    return text.replace('\\', '\\\\').replace('"', "'")


def _relative(path: Path) -> str:
    """Return the path relative to the current folder, if it is inside that folder."""
    current = Path.cwd()
    return str(path.relative_to(current)) if path.is_relative_to(current) else str(path)


def make_run_name(source: str) -> str:
    """Make a run's name from the last part of a path or of a hub name, without its revision."""
    path = source.partition('@')[0] if huggingface.is_hub_name(source) else source
    return _clean_name(files.check_path(path, 'SOURCE').name)


def _clean_name(name: str) -> str:
    return re.sub(r'[^A-Za-z0-9._-]', '_', name).lstrip('.')[:64] or 'imported'


def import_weights(source: str, defaults: RawConfig, workdir: Path, log: LogFn) -> None:
    """Import weights into a run folder: config.json, config.py, tokenizer/ and checkpoints/0.

    The checkpoint has a new optimizer state.

    Args:
      source: a folder, or a name on the Hugging Face hub.
      defaults: the default config.
      workdir: the run folder to write.
      log: receives lines for the user.

    Raises:
      UserError: a field or tensor of the source is not supported, or `workdir` holds a run.
    """
    if any((workdir / 'checkpoints').glob('*')) or (workdir / 'summary.json').exists():
        raise UserError(
            f'--workdir={workdir}: holds a run already; choose another one, or delete it'
        )
    model_folder = huggingface.read_folder(source)
    model_folder.log_unknown_fields(log)
    tokenizer_content = tokenizer_files.read_files(model_folder.folder)
    raw_config = _make_config(model_folder, defaults, workdir)
    config = parse_config(raw_config, vocab_size=1)
    _check_vocabulary(model_folder, tokenizer_content, config, workdir, log)
    generation_source = tokenizer_files.generation_source(tokenizer_content)
    content = tokenizer_files.add_generation_config(
        tokenizer_content, model_folder.generation_fields
    )
    tokenizer_files.read_end_ids(  # raises UserError for bad ids
        content, model_folder.folder / generation_source, config.model.vocab_size, log
    )
    state = _make_state(model_folder, config, log)
    with files.hold_lock(workdir / 'lock', wait=False):
        tokenizer_files.write_files(workdir / IMPORTED_TOKENIZER, content)
        _write_configs(raw_config, defaults, source, workdir)
        # The fingerprint is empty, so that the run may be trained on any data.
        config_hash = config_fields.config_hash(raw_config)
        meta = make_checkpoint_meta(raw_config, config_hash, fingerprint='', step=0, seconds=0.0)
        folder = workdir / 'checkpoints'
        with CheckpointManager(folder, max_to_keep=1, log=log) as checkpoints:
            checkpoints.save(0, state, meta | {'imported_from': source})
    log(f'{workdir}: imported; {workdir / "config.py"} continues training from it')


def _make_config(
    model_folder: huggingface.HuggingFaceFolder, defaults: RawConfig, workdir: Path
) -> RawConfig:
    raw_config = copy.deepcopy(defaults)
    raw_config['name'] = _clean_name(workdir.name)
    raw_config['model'] |= model_folder.model_section
    raw_config['data']['tokenizer'] = str(workdir / IMPORTED_TOKENIZER)
    return raw_config


def _check_vocabulary(
    model_folder: huggingface.HuggingFaceFolder,
    tokenizer_content: dict[str, bytes],
    config: Config,
    workdir: Path,
    log: LogFn,
) -> None:
    """Raise UserError if the tokenizer has more ids than the model, except for added tokens."""
    folder = model_folder.folder
    if not tokenizer_files.has_tokenizer(tokenizer_content):
        destination = workdir / IMPORTED_TOKENIZER
        log(
            f'warning: {folder}: {describe_missing_files(folder, destination)}; a tokenizer must '
            f'be in {destination} before text is used'
        )
        return
    text_tokenizer = make_tokenizer(str(folder), lambda: ())
    limit_vocabulary(text_tokenizer, config.model.vocab_size, folder, log)


def _write_configs(raw_config: RawConfig, defaults: RawConfig, source: str, workdir: Path) -> None:
    """Write config.json, and config.py for a run that continues from the imported weights."""
    text = render_config(
        f'{raw_config["name"][:58]}_tuned',
        raw_config['model'],
        defaults['model'],
        source,
        workdir,
        workdir / IMPORTED_TOKENIZER,
    )
    files.write_text(workdir / 'config.py', text)
    files.write_json(workdir / 'config.json', raw_config)


def _make_state(model_folder: huggingface.HuggingFaceFolder, config: Config, log: LogFn) -> State:
    """Read the weights into the state of a run before its first step, on one device."""
    # Any sharding will do: it is chosen again when the checkpoint is loaded.
    mesh = dataclasses.replace(config.mesh, strategy='replicated', data=1, fsdp=1)
    parts = build_trainer_parts(dataclasses.replace(config, mesh=mesh))
    abstract: Any = parts.abstract_params
    read_weight = huggingface.make_weight_reader(
        model_folder, weight_letters(config.model), config.model.dims
    )
    count = format_short_count(trees.count_elements(abstract))
    log(f'{model_folder.folder}: {model_folder.model_type}, {count} parameters')
    leaves = [
        jax.device_put(read_weight(path), leaf.sharding)
        for path, leaf in zip(trees.name_leaves(abstract), jax.tree.leaves(abstract), strict=True)
    ]
    return parts.make_state(jax.tree.unflatten(jax.tree.structure(abstract), leaves))
