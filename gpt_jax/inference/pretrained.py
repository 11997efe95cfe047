"""Pretrained models from a run folder, a Hugging Face or PEFT folder, or the hub.

runs/gpt_tiny              the newest checkpoint of a run, trained here or imported
runs/ladder/trials/4x128   the newest checkpoint of one trial of a sweep
folder/                    a folder with config.json and safetensors, or with adapter_config.json
gpt2                       a name on the hub, if there is no such folder; or openai-community/gpt2
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from gpt_jax.core import files, trees
from gpt_jax.core.config import ModelConfig, default_config, parse_section
from gpt_jax.core.errors import UserError
from gpt_jax.core.progress import LogFn
from gpt_jax.data.tokenized_dataset import load_cached_tokenizer
from gpt_jax.data.tokenizer import (
    BYTES_CONTENT,
    TOKENIZER_FILE,
    Tokenizer,
    describe_missing_files,
    find_added_tokens,
    find_prefix_ids,
    load_tokenizer,
    make_tokenizer,
    tokenizer_folder,
)
from gpt_jax.finetune import lora
from gpt_jax.inference.placement import make_inference_config
from gpt_jax.interop import huggingface, peft, safetensors_files, tokenizer_files
from gpt_jax.interop.peft_config import ADAPTER_CONFIG_FILE, read_adapter_config
from gpt_jax.model import weights
from gpt_jax.tasks import chat_template
from gpt_jax.tasks.encoding import task_vocab_size
from gpt_jax.train import build, checkpoint, finetune_checkpoint, manifest
from gpt_jax.train.finetune_checkpoint import FinetunedRun
from gpt_jax.train.manifest import select_checkpoint_folder
from gpt_jax.train.step import State

IMPORTED_TOKENIZER = 'tokenizer'  # folder of an imported tokenizer, in the run folder


class Pretrained(NamedTuple):
    """A pretrained model whose weights are not loaded yet.

    Attributes:
      model_config: the inference config.
      tokenizer: text to ids and back.
      end_ids: ids that end a text.
      prefix_ids: ids that the model expects before a text.
      load_params: shardings of the weights -> the weights on their devices, as stored.
      tokenizer_spec: the tokenizer, as named by the config field `data.tokenizer`.
      template_files: contents of the files of the chat template, by name (tasks/chat_template.py).
      finetuned_run: restores a run with frozen weights; None for other models.
    """

    model_config: ModelConfig
    tokenizer: Tokenizer
    end_ids: tuple[int, ...]
    prefix_ids: tuple[int, ...]
    load_params: Callable[[Any], Any]
    tokenizer_spec: str
    template_files: Mapping[str, bytes]
    finetuned_run: FinetunedRun | None


def find_pretrained(
    source: str, *, step: int | None = None, argument: str = 'checkpoint', log: LogFn
) -> Pretrained:
    """Find the model that `source` names; see the module docstring.

    Args:
      source: a folder or a name on the hub.
      step: step of a run's checkpoint; None: the newest.
      argument: name of the argument that the user gave `source` as, for error messages.
      log: receives lines for the user.

    Raises:
      UserError: there is no such model, it is damaged, or its files are not supported.
    """
    folder = files.find_snapshot(files.check_path(source, argument), argument)
    if (folder / 'checkpoints').is_dir():
        return _open_run(folder, step, log)
    if (folder / ADAPTER_CONFIG_FILE).is_file():
        return _open_adapters(folder, log)
    if (folder / 'trials').is_dir():
        trials = sorted(
            path.name for path in (folder / 'trials').iterdir() if (path / 'checkpoints').is_dir()
        )
        raise UserError(
            f'{source}: must be a single run, got a sweep; give one of its trials, '
            f'{folder}/trials/{trials[0] if trials else "NAME"}'
        )
    is_published = (folder / huggingface.CONFIG_FILE).is_file()
    if not is_published and not huggingface.is_hub_name(source):
        raise UserError(
            f'{source}: holds no checkpoint; give the folder of a run, such as runs/gpt_tiny'
        )
    if step is not None:
        raise UserError(f'{source}: has no steps, since it is not a run; remove the step')
    return _open_published(source, argument, log)


def _open_run(folder: Path, step: int | None, log: LogFn) -> Pretrained:
    folder = select_checkpoint_folder(folder, step)
    meta = manifest.read_newest_meta(folder / 'checkpoints')
    if meta is None:
        raise UserError(f'{folder}: holds no checkpoint yet; train it, or give another folder')
    # Fields added since the run was made get their defaults, which do not change its behavior.
    config = {
        key: default | meta['config'].get(key, {})
        if isinstance(default, dict)
        else meta['config'].get(key, default)
        for key, default in default_config().items()
    }
    task_kind = config['task']['kind']
    tokenizer = _load_tokenizer(folder, config)
    vocab_size = task_vocab_size(task_kind, tokenizer)
    if config['model']['vocab_size']:
        vocab_size = limit_vocabulary(tokenizer, config['model']['vocab_size'], folder, log)
    model_config = make_inference_config(config['model'], vocab_size)
    imported = folder / IMPORTED_TOKENIZER
    tokenizer_contents = tokenizer_files.read_files(imported) if imported.is_dir() else {}
    end_ids = _find_end_ids(
        tokenizer,
        tokenizer_contents,
        imported / tokenizer_files.GENERATION_CONFIG_FILE,
        model_config,
        log,
    )
    finetuned_run, load_params = find_run_weights(folder, config, model_config, step, log)
    # A model that was imported and not trained further, or was fine-tuned on a task, expects
    # prefix ids before a text; a model trained on documents does not.
    is_imported = imported.is_dir() and not meta['fingerprint']
    expects_prefix = is_imported or task_kind != 'none'
    tokenizer_spec = _find_tokenizer_spec(folder, tokenizer, config)
    return Pretrained(
        model_config=model_config,
        tokenizer=tokenizer,
        end_ids=end_ids,
        prefix_ids=find_prefix_ids(tokenizer) if expects_prefix else (),
        load_params=load_params,
        tokenizer_spec=tokenizer_spec,
        template_files=chat_template.read_template_files(tokenizer_folder(tokenizer_spec)),
        finetuned_run=finetuned_run,
    )


def limit_vocabulary(tokenizer: Tokenizer, size: int, folder: Path, log: LogFn) -> int:
    """Return how many of a tokenizer's ids a model with `size` of them uses.

    Ids beyond are those of added tokens, often one for padding. A text that contains such a token
    is refused when it is used.

    Args:
      folder: the folder of the model, for messages.
      log: receives a line that names the tokens beyond.

    Raises:
      UserError: ordinary tokens have ids beyond, so that the tokenizer is that of another model.
    """
    if tokenizer.vocab_size <= size:
        return tokenizer.vocab_size
    names = find_added_tokens(tokenizer, size)
    ids = f'{folder}: its tokenizer has ids up to {tokenizer.vocab_size - 1}'
    if names is None:
        raise UserError(
            f'{ids}, but the model has vocab_size {size}; put the tokenizer of this model there'
        )
    shown = ', '.join([*names[:3], *(['...'] if len(names) > 3 else [])])
    log(f'{ids}, but the model has only {size}: the added tokens {shown} cannot be used')
    return size


def find_run_weights(
    folder: Path, config: Mapping[str, Any], model_config: ModelConfig, step: int | None, log: LogFn
) -> tuple[FinetunedRun | None, Callable[[Any], Any]]:
    """Return `finetuned_run` and `load_params` of a run folder, as in `Pretrained`.

    Args:
      folder: the run folder.
      config: the complete raw config of the run.
      model_config: the inference config.
      step: step of the checkpoint; None: the newest.
      log: receives lines for the user.
    """
    finetuned_run = finetune_checkpoint.open_finetuned_run(
        folder, config, model_config, functools.partial(_find_base, log=log)
    )

    def load_params(shardings: Any) -> Any:
        if finetuned_run is not None:
            return finetune_checkpoint.load_merged_params(finetuned_run, shardings, step, log)
        abstract_params = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            weights.unbox(build.declare_params(model_config)),
            shardings,
        )
        absent: Any = None
        abstract_state = State(
            step=absent,
            params=abstract_params,
            opt_state=None,
            skipped_steps=None,
            skipped_in_row=None,
        )
        loaded = checkpoint.load_checkpoint(
            folder / 'checkpoints', abstract_state, step=step, log=log
        )
        return loaded.state.params

    return finetuned_run, load_params


def _find_base(source: str, log: LogFn) -> finetune_checkpoint.PretrainedBase:
    """Return the model that a run with frozen weights started from."""
    base = find_pretrained(source, argument='config.init_from', log=log)
    return base.model_config, base.load_params


def _find_tokenizer_spec(folder: Path, tokenizer: Tokenizer, config: Mapping[str, Any]) -> str:
    if tokenizer.content == BYTES_CONTENT:
        return 'bytes'
    for path in (folder / TOKENIZER_FILE, folder / IMPORTED_TOKENIZER):
        if path.exists():
            return str(path)
    return str(config['data']['tokenizer'])


def _load_tokenizer(folder: Path, config: Mapping[str, Any]) -> Tokenizer:
    if (folder / TOKENIZER_FILE).is_file():
        return load_tokenizer(folder / TOKENIZER_FILE)
    spec = str(config['data']['tokenizer'])
    if (folder / IMPORTED_TOKENIZER).is_dir():
        return make_tokenizer(str(folder / IMPORTED_TOKENIZER), lambda: ())
    if not spec.startswith('bpe:'):
        return make_tokenizer(spec, lambda: ())
    try:
        cached = load_cached_tokenizer(parse_section(config, 'data'))
    except UserError:  # the data source no longer exists
        cached = None
    if cached is None:
        raise UserError(
            f'{folder}: its tokenizer, {spec} of {config["data"]["source"]}, is neither in this '
            f'folder nor in the token cache; copy its tokenizer.json to {folder / TOKENIZER_FILE}'
        )
    return cached


def _find_end_ids(
    tokenizer: Tokenizer,
    contents: dict[str, bytes],
    source: Path,
    model_config: ModelConfig,
    log: LogFn,
) -> tuple[int, ...]:
    """Return the ids that end a text, according to the model's files or else the tokenizer.

    Args:
      contents: contents of the tokenizer's files, by name.
      source: the file that names the ids, for messages. Its other generation options are ignored.
    """
    if ignored := tokenizer_files.list_ignored_options(contents):
        log(f'{source}: {", ".join(ignored)}: ignored; use generation options instead')
    end_ids = tokenizer_files.read_end_ids(contents, source, model_config.vocab_size, log)
    if end_ids is not None:
        return end_ids
    return () if tokenizer.end_of_document is None else (tokenizer.end_of_document,)


def weight_letters(model_config: ModelConfig) -> dict[str, str]:
    """Return the letters of all weights by path, in tree order.

    For example 'blocks/attention/query': 'NDHK'.
    """
    boxed = build.declare_params(model_config)
    paths = trees.name_leaves(weights.unbox(boxed))
    return dict(zip(paths, jax.tree.leaves(weights.logical_axes(boxed)), strict=True))


def _open_published(source: str, argument: str, log: LogFn) -> Pretrained:
    published = huggingface.read_folder(source, argument)
    published.log_unknown_fields(log)
    folder = published.folder
    contents = tokenizer_files.read_files(folder)
    if not tokenizer_files.has_tokenizer(contents):
        raise UserError(f'{folder}: {describe_missing_files(folder)}')
    tokenizer = make_tokenizer(str(folder), lambda: ())
    section = default_config()['model'] | published.model_section
    vocab_size = limit_vocabulary(tokenizer, section['vocab_size'], folder, log)
    model_config = make_inference_config(section, vocab_size)
    with_generation = tokenizer_files.add_generation_config(contents, published.generation_fields)
    generation_file = folder / tokenizer_files.generation_source(contents)
    end_ids = _find_end_ids(tokenizer, with_generation, generation_file, model_config, log)

    def load_params(shardings: Any) -> Any:
        letters = weight_letters(model_config)
        read_weight = huggingface.make_weight_reader(published, letters, model_config.dims)
        leaves = [
            jax.device_put(read_weight(path), sharding)
            for path, sharding in zip(letters, jax.tree.leaves(shardings), strict=True)
        ]
        return jax.tree.unflatten(jax.tree.structure(shardings), leaves)

    return Pretrained(
        model_config=model_config,
        tokenizer=tokenizer,
        end_ids=end_ids,
        prefix_ids=find_prefix_ids(tokenizer),
        load_params=load_params,
        tokenizer_spec=str(folder),
        template_files=chat_template.read_template_files(folder),
        finetuned_run=None,
    )


def replace_weights(params: Any, weights: Mapping[str, np.ndarray]) -> Any:
    """Return the params with other values for some weights, by path, on the same devices."""

    def replace(path: str, leaf: jax.Array) -> jax.Array:
        value = weights.get(path)
        return leaf if value is None else jax.device_put(value.astype(leaf.dtype), leaf.sharding)

    leaves = map(replace, trees.name_leaves(params), jax.tree.leaves(params))
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


def _open_adapters(folder: Path, log: LogFn) -> Pretrained:
    """Open a PEFT folder: the base model that it names, with the adapters merged into it.

    Its tokenizer and its chat template are those in the folder, or else the base model's.
    """
    path = folder / ADAPTER_CONFIG_FILE
    adapter_config = read_adapter_config(
        path, safetensors_files.read_json(folder, ADAPTER_CONFIG_FILE)
    )
    if adapter_config.unknown_fields:
        fields = ', '.join(adapter_config.unknown_fields)
        log(f'{path}: ignored, since PEFT has no {fields}')
    if not adapter_config.base:
        raise UserError(f'{path}: base_model_name_or_path: must name the base model, got none')
    base = find_pretrained(
        adapter_config.base, argument=f'{path}: base_model_name_or_path', log=log
    )

    def load_params(shardings: Any) -> Any:
        params = base.load_params(shardings)

        def read_weight(weight_path: str) -> np.ndarray:
            leaf = functools.reduce(lambda node, name: node[name], weight_path.split('/'), params)
            return np.asarray(trees.host_array(leaf), np.float32)

        adapters = peft.read_adapters(
            folder, base.model_config, weight_letters(base.model_config), read_weight
        )
        params = replace_weights(params, adapters.saved)
        merge = jax.jit(lora.merge_adapters, out_shardings=shardings, donate_argnums=0)
        return merge(params, dict(adapters.pairs), dict(adapters.scales))

    model = base._replace(load_params=load_params, finetuned_run=None)
    return _use_tokenizer_of(folder, model, log)


def _use_tokenizer_of(folder: Path, model: Pretrained, log: LogFn) -> Pretrained:
    """Return the model with the tokenizer and the chat template of a folder, if it has them."""
    contents = tokenizer_files.read_files(folder)
    template_files = chat_template.read_template_files(folder)
    if not tokenizer_files.has_tokenizer(contents):
        if chat_template.parse_chat_template(template_files, str(folder)) is None:
            return model
        # The names of special tokens may still be in the base model's files.
        base = dict(model.template_files)
        base.pop(chat_template.TEMPLATE_FILE, None)
        return model._replace(template_files=base | template_files)
    tokenizer = make_tokenizer(str(folder), lambda: ())
    if tokenizer.vocab_size > model.model_config.vocab_size:
        # Often only a token for padding. A prompt that contains one of them is refused.
        log(
            f'{folder}: its tokenizer has ids up to {tokenizer.vocab_size - 1}, but the base model '
            f'has only {model.model_config.vocab_size}: those beyond cannot be used'
        )
    end_ids = model.end_ids
    if tokenizer.fingerprint != model.tokenizer.fingerprint:
        generation_file = folder / tokenizer_files.generation_source(contents)
        end_ids = _find_end_ids(tokenizer, contents, generation_file, model.model_config, log)
    return model._replace(
        tokenizer=tokenizer,
        end_ids=end_ids,
        prefix_ids=find_prefix_ids(tokenizer),
        tokenizer_spec=str(folder),
        template_files=template_files,
    )
