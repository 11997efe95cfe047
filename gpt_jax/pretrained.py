"""Where does a trained model come from? From a run's folder, from a folder of Hugging Face's, or from its hub.

runs/gpt_tiny              the newest checkpoint of a run, trained here or imported
runs/ladder/trials/4x128   of a trial of a sweep
folder/                    a folder with config.json and safetensors, or with adapter_config.json (PEFT)
gpt2                       a name on the hub, where no such folder is here; also openai-community/gpt2
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from gpt_jax import assemble, files, inference, overrides, trees, tuned
from gpt_jax.data import tokenizer
from gpt_jax.data.encoded import vocab_size
from gpt_jax.data.prepare import cached_tokenizer
from gpt_jax.data.tokenizer import Tokenizer
from gpt_jax.data.tokens import TOKENIZER
from gpt_jax.errors import UserError
from gpt_jax.finetune import lora
from gpt_jax.interop import adapter_config, adapters, hub, huggingface, tensors, tokenizer_files
from gpt_jax.model import weights
from gpt_jax.model.config import ModelConfig
from gpt_jax.train import checkpoint, manifest
from gpt_jax.train.state import State

CARRIED = 'tokenizer'  # the folder of an import's tokenizer, in its run's
BEST = 'best'  # the folder of a run's best checkpoint
Say = Callable[[str], None]


class Pretrained(NamedTuple):
    """A model that was found; its weights are not read yet.

    ends: ids that end a text. beginning: ids that go before one. spec: the tokenizer as `data.tokenizer` names it.
    params: shardings of the weights -> the weights on their devices, as stored.
    partly: of a run that keeps some weights as they were, which.
    """

    model: ModelConfig
    tokenizer: Tokenizer
    ends: tuple[int, ...]
    beginning: tuple[int, ...]
    params: Callable[[Any], Any]
    spec: str
    partly: tuned.Run | None


def find(source: str, *, step: int | None = None, asked: str = 'checkpoint', say: Say) -> Pretrained:
    """The model that `source` names.

    Args:
      step: of a run, the checkpoint of this step; None: the newest.
      asked: what the user gave `source` to, for the message where the hub does not give it.

    Raises:
      UserError: there is none, or it is damaged or not understood.
    """
    folder = files.path(source, asked)
    if (folder / 'checkpoints').is_dir():
        return _run(folder, step, say)
    if (folder / adapter_config.NAME).is_file():
        return _adapted(folder, say)
    if (folder / 'trials').is_dir():
        there = sorted(path.name for path in (folder / 'trials').iterdir() if (path / 'checkpoints').is_dir())
        raise UserError(f'{source}: a sweep; name one of its trials, {folder}/trials/{there[0] if there else "NAME"}')
    published = (folder / huggingface.CONFIG).is_file()
    if not published and not hub.named(source):
        raise UserError(f'{source}: holds no checkpoint; name the folder of a run, such as runs/gpt_tiny')
    if step is not None:
        raise UserError(f'{source}: has no steps; leave the step out')
    return _published(source, asked, say)


def _run(folder: Path, step: int | None, say: Say) -> Pretrained:
    folder = chosen(folder, step)
    meta = manifest.newest_meta(folder / 'checkpoints')
    if meta is None:
        raise UserError(f'{folder}: holds no checkpoint yet; train it, or name another')
    # What a run of an older version says nothing of is as it was: the default.
    defaults = overrides.defaults()
    config = {key: part | meta['config'].get(key, {}) if isinstance(part, dict) else meta['config'].get(key, part)
              for key, part in defaults.items()}  # fmt: skip
    made = _tokenizer(folder, config)
    model = inference.model_config(config['model'], vocab_size(config['task']['kind'], made))
    imported = folder / CARRIED
    carried = tokenizer_files.read(imported) if imported.is_dir() else {}
    ends = _ends(made, carried, imported / tokenizer_files.GENERATION, model, say)

    partly, params = weights_in(folder, config, model, step, say)
    # As it was published, and so are its prompts; or tuned, with the prompts of its task.
    as_published = (imported.is_dir() and not meta['fingerprint']) or config['task']['kind'] != 'none'
    return Pretrained(
        model,
        made,
        ends,
        tokenizer.beginning(made) if as_published else (),
        params,
        _spec(folder, made, config),
        partly,
    )


def chosen(folder: Path, step: int | None) -> Path:
    """Of a run's folder, the one whose checkpoints are meant: the best one's, where one is kept."""
    return folder / BEST if step is None and (folder / BEST / 'checkpoints').is_dir() else folder


def weights_in(
    folder: Path, config: Mapping[str, Any], model: ModelConfig, step: int | None, say: Say
) -> tuple[tuned.Run | None, Callable[[Any], Any]]:  # fmt: skip
    """`partly` and `params` of a run's folder, as `Pretrained` has them.

    Args:
      config: of the run, whole.
    """
    partly = tuned.run(folder, config, model, functools.partial(_base, say=say))

    def params(shardings: Any) -> Any:
        if partly is not None:
            return tuned.params(partly, shardings, step, say)
        abstract = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            weights.unbox(assemble.declarations(model)), shardings,
        )  # fmt: skip
        nothing: Any = None
        wanted = State(step=nothing, params=abstract, optimizer=None, skipped=None, in_row=None)
        return checkpoint.load(folder / 'checkpoints', wanted, step=step, announce=say).state.params

    return partly, params


def _base(source: str, say: Say) -> tuned.Base:
    """What a run that keeps some weights as they were began with."""
    found = find(source, asked='config.init_from', say=say)
    return found.model, found.params


def _spec(folder: Path, made: Tokenizer, config: Mapping[str, Any]) -> str:
    if made.content == tokenizer.BYTES_CONTENT:
        return 'bytes'
    if (folder / TOKENIZER).is_file():
        return str(folder / TOKENIZER)
    return str(folder / CARRIED) if (folder / CARRIED).is_dir() else str(config['data']['tokenizer'])


def _tokenizer(folder: Path, config: Mapping[str, Any]) -> Tokenizer:
    if (folder / TOKENIZER).is_file():
        return tokenizer.load(folder / TOKENIZER)
    spec = str(config['data']['tokenizer'])
    if (folder / CARRIED).is_dir():
        return tokenizer.make(str(folder / CARRIED), lambda: ())
    if not spec.startswith('bpe:'):
        return tokenizer.make(spec, lambda: ())
    try:
        found = cached_tokenizer(assemble.data_config(config))
    except UserError:  # its source is gone
        found = None
    if found is None:
        raise UserError(
            f'{folder}: its tokenizer, {spec} of {config["data"]["source"]}, is neither here nor in the cache of '
            f'tokens; copy that tokenizer.json to {folder / TOKENIZER}'
        )
    return found


def _ends(
    made: Tokenizer, carried: dict[str, bytes], where: Path, model: ModelConfig, say: Say
) -> tuple[int, ...]:  # fmt: skip
    """What ends a text: as the model's files say, or the end of a document. What else they say is not followed."""
    if unfollowed := tokenizer_files.unfollowed(carried):
        say(f'{where}: {", ".join(unfollowed)}: not followed; give as options what is wanted')
    said = tokenizer_files.ends(carried, where, model.vocab_size)
    if said is None:
        return () if made.end_of_document is None else (made.end_of_document,)
    return said


def letters_of(model: ModelConfig) -> dict[str, str]:
    """The letters of all the model's weights, by path ('blocks/attention/query': 'NDHK'), in the tree's order."""
    boxed = assemble.declarations(model)
    paths, letters = trees.names(weights.unbox(boxed)), jax.tree.leaves(weights.letters(boxed))
    return dict(zip(paths, letters, strict=True))


def _published(source: str, asked: str, say: Say) -> Pretrained:
    found = huggingface.read(source, asked)
    carried = tokenizer_files.read(found.folder)
    if not tokenizer_files.usable(carried):
        raise UserError(f'{found.folder}: holds neither tokenizer.json nor vocab.json and merges.txt')
    made = tokenizer.make(str(found.folder), lambda: ())
    model = inference.model_config(overrides.defaults()['model'] | found.model, made.vocab_size)
    whole = tokenizer_files.with_generation(carried, found.tokens)
    ends = _ends(made, whole, found.folder / tokenizer_files.speaker(carried), model, say)

    def params(shardings: Any) -> Any:
        letters = letters_of(model)
        load = huggingface.params(found, letters, model.dims)
        placed = [jax.device_put(load(path), at) for path, at in zip(letters, jax.tree.leaves(shardings), strict=True)]
        return jax.tree.unflatten(jax.tree.structure(shardings), placed)

    return Pretrained(model, made, ends, tokenizer.beginning(made), params, str(found.folder), None)


def _adapted(folder: Path, say: Say) -> Pretrained:
    """A folder of PEFT's: the model that it names, its adapters merged into the weights."""
    said = adapter_config.read(folder / adapter_config.NAME, tensors.read_json(folder, adapter_config.NAME))
    if not said.base:
        raise UserError(f'{folder / adapter_config.NAME}: base_model_name_or_path: names no model to put these on')
    found = find(said.base, asked=f'{folder / adapter_config.NAME}: base_model_name_or_path', say=say)

    def params(shardings: Any) -> Any:
        whole = found.params(shardings)
        weight = lambda path: np.asarray(trees.host_array(_at(whole, path)), np.float32)  # noqa: E731
        these = adapters.read(folder, found.model, letters_of(found.model), weight)
        merge = jax.jit(lora.merge, out_shardings=shardings, donate_argnums=0)
        return merge(whole, dict(these.pairs), dict(these.scales))

    return found._replace(params=params, partly=None)


def _at(tree: Any, path: str) -> Any:
    return functools.reduce(lambda node, name: node[name], path.split('/'), tree)
