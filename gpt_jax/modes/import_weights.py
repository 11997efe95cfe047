"""How do weights from elsewhere become a run's folder? With a config, a tokenizer and a checkpoint, like any run."""

import copy
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from gpt_jax import assemble, files, identity, runtime, trees
from gpt_jax.assemble import Settings
from gpt_jax.data import tokenizer
from gpt_jax.errors import UserError
from gpt_jax.interop import config_file, hub, huggingface, tokenizer_files
from gpt_jax.observe.progress import count
from gpt_jax.pretrained import CARRIED, letters_of
from gpt_jax.train import checkpoint
from gpt_jax.train.state import State

Config = dict[str, Any]
Say = Callable[[str], None]


def name(source: str) -> str:
    """A run's name, made of the last part of the source's; what stands after the @ of a hub's name is none."""
    return _allowed(Path(source.partition('@')[0] if hub.named(source) else source).expanduser().name)


def _allowed(last: str) -> str:
    return re.sub(r'[^A-Za-z0-9._-]', '_', last).lstrip('.')[:64] or 'imported'


def import_weights(source: str, defaults: Config, workdir: Path, say: Say) -> None:
    """Writes config.json, config.py, tokenizer/ and checkpoints/0 with a fresh optimizer into `workdir`.

    Args:
      source: a folder, or a name on the hub.
      defaults: configs/base.py as nested dicts.

    Raises:
      UserError: the source is not understood to the last field and tensor, or `workdir` holds a run already.
    """
    if any((workdir / 'checkpoints').glob('*')) or (workdir / 'summary.json').exists():
        raise UserError(f'--workdir={workdir}: holds a run already; choose another one, or delete it')
    found = huggingface.read(source)
    carried = tokenizer_files.read(found.folder)
    config = _config(found, defaults, workdir)
    settings = assemble.settings(config, vocab_size=1)
    _check_vocabulary(found, carried, settings, workdir, say)
    whole = tokenizer_files.with_generation(carried, found.tokens)
    tokenizer_files.ends(whole, found.folder / tokenizer_files.speaker(carried), settings.model.vocab_size)
    # Arranged as on one device: whoever reads a checkpoint spreads it as they want it.
    alone = dataclasses.replace(settings.mesh, strategy='replicated', data=1, fsdp=1)
    program = assemble.build(dataclasses.replace(settings, mesh=alone))
    letters = letters_of(settings.model)
    load = huggingface.params(found, letters, settings.model.dims)
    say(f'{found.folder}: {found.kind}, {count(trees.size(program.abstract_params))} parameters')
    with files.lock(workdir / 'lock', wait=False):
        tokenizer_files.write(workdir / CARRIED, whole)
        text = config_file.text(
            f'{config["name"][:58]}_tuned', config['model'], defaults['model'], source, workdir, workdir / CARRIED
        )
        files.write_text(workdir / 'config.py', text)
        files.write_json(workdir / 'config.json', config)
        wanted = program.abstract_params
        placed = [
            jax.device_put(load(path), leaf.sharding)
            for path, leaf in zip(trees.names(wanted), jax.tree.leaves(wanted), strict=True)
        ]
        state = program.begin(jax.tree.unflatten(jax.tree.structure(wanted), placed))
        _save(state, config, source, workdir, say)
    say(f'{workdir}: imported; {workdir / "config.py"} trains on from it')


def _config(found: huggingface.Source, defaults: Config, workdir: Path) -> Config:
    config = copy.deepcopy(defaults)
    config['name'] = _allowed(workdir.name)
    config['model'] |= found.model
    config['data']['tokenizer'] = str(workdir / CARRIED)
    return config


def _check_vocabulary(
    found: huggingface.Source, carried: dict[str, bytes], settings: Settings, workdir: Path, say: Say
) -> None:
    if not tokenizer_files.usable(carried):
        say(
            f'warning: {found.folder} holds neither tokenizer.json nor vocab.json and merges.txt; put one into '
            f'{workdir / CARRIED} before text is needed'
        )
        return
    size = tokenizer.make(str(found.folder), lambda: ()).vocab_size
    if size > settings.model.vocab_size:
        raise UserError(
            f'{found.folder}: its tokenizer has ids up to {size - 1}, and config.json has '
            f'vocab_size {settings.model.vocab_size}'
        )


def _save(state: State, config: Config, source: str, workdir: Path, say: Say) -> None:
    meta = {
        'next_batch': 0,
        'fingerprint': '',  # of no data here
        'config': config,
        'config_hash': identity.config_hash(config),
        'seconds': 0.0,
        'versions': runtime.versions(),
        'imported_from': source,
    }
    with checkpoint.Checkpoints(workdir / 'checkpoints', keep=1, announce=say) as checkpoints:
        checkpoints.save(0, state, meta)
