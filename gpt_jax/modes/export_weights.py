"""How does a run's folder become one that transformers loads? Its newest weights, its tokenizer, and a config.json."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gpt_jax import assemble, files, pretrained, trees
from gpt_jax.assemble import Settings
from gpt_jax.data import tokenizer
from gpt_jax.data.encoded import vocab_size
from gpt_jax.data.prepare import prepare
from gpt_jax.data.tokenizer import Tokenizer
from gpt_jax.data.tokens import TOKENIZER
from gpt_jax.errors import UserError
from gpt_jax.interop import huggingface, tokenizer_files
from gpt_jax.model import weights
from gpt_jax.pretrained import CARRIED, letters_of
from gpt_jax.train import manifest

Config = dict[str, Any]
Say = Callable[[str], None]


def export(run: Path, output: Path, defaults: Config, dtype: str, say: Say) -> dict[str, Any]:
    """Writes the folder `output`; returns what it is.

    Args:
      run: the folder of a run, trained here or imported.
      defaults: configs/base.py as nested dicts: what a run of an older version says nothing of.
      dtype: float32, bfloat16 or float16.

    Raises:
      UserError: no checkpoint in `run`, or a model that no layout has.
    """
    run = pretrained.chosen(files.path(str(run), '--checkpoint'), None)
    meta = manifest.newest_meta(run / 'checkpoints')
    if meta is None:
        raise UserError(f'--checkpoint={run}: holds no checkpoint; name the folder of a run')
    step = _newest(run / 'checkpoints', say)
    config = {
        key: defaults.get(key, {}) | part if isinstance(part, dict) else part for key, part in meta['config'].items()
    }
    carried, made = _tokenizer(run, config, say)
    size = 1 if made is None else vocab_size(config['task']['kind'], made)
    settings = assemble.settings(config, size)
    kind = huggingface.layout_of(settings.model)
    params = _params(run, config, settings, step, say)
    huggingface.write(
        output, settings.model, lambda path: np.asarray(params[path]), letters_of(settings.model),
        tokens=tokenizer_files.ids(carried), dtype=dtype, extra=carried,
    )  # fmt: skip
    say(f'{output}: the weights of {run} at step {step}, as {kind} in {dtype}')
    return {'output': str(output), 'model_type': kind, 'dtype': dtype, 'step': step, 'files': sorted(_names(output))}


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _newest(checkpoints: Path, say: Say) -> int:
    found = manifest.newest_good(
        checkpoints, lambda step, damage: say(f'{checkpoints}/{step}: damaged ({damage}); skipped')
    )
    if found is None:
        raise UserError(f'{checkpoints}: no checkpoint is whole; train that run again')
    return found


def _params(run: Path, config: Config, settings: Settings, step: int, say: Say) -> dict[str, jax.Array]:
    """The weights by path, on one device; adapters are merged, and the head of a task stays behind."""
    _, load = pretrained.weights_in(run, config, settings.model, step, say)
    alone = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    params = load(jax.tree.map(lambda _: alone, weights.unbox(assemble.declarations(settings.model))))
    return dict(zip(trees.names(params), jax.tree.leaves(params), strict=True))


def _tokenizer(run: Path, config: Config, say: Say) -> tuple[dict[str, bytes], Tokenizer | None]:
    """The files of the run's tokenizer, and itself; None where it is not there.

    They are those that came with the weights, if they are of the tokenizer that the run was trained with.
    """
    spec, own = str(config['data']['tokenizer']), run / TOKENIZER
    context = config['model']['context']
    found: dict[str, bytes] = {}
    for folder in (run / CARRIED, Path(spec).expanduser()):
        found = found or (tokenizer_files.read(folder) if folder.is_dir() else {})
        if folder.is_dir() and tokenizer_files.usable(found):
            made = tokenizer.make(str(folder), lambda: ())
            if not own.is_file() or tokenizer.load(own).fingerprint == made.fingerprint:
                return found, made
    if own.is_file():
        made = tokenizer.load(own)
    elif spec == 'bytes' or Path(spec).expanduser().is_file():
        made = tokenizer.make(spec, lambda: ())
    elif spec.startswith('bpe:'):
        made = prepare(assemble.data_config(config), say).tokenizer()
    elif config['model']['vocab_size']:
        say(f'warning: {spec} holds no tokenizer; the folder is written without one')
        return found, None
    else:
        raise UserError(f'config.data.tokenizer: {spec} is gone, and only it knows the size of the vocabulary')
    return tokenizer_files.made(made, context), made
