"""How do a run's adapters become a folder of PEFT's? They alone, a few megabytes, for whoever has the base model."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gpt_jax import assemble, pretrained, tuned
from gpt_jax.errors import UserError
from gpt_jax.finetune import head
from gpt_jax.interop import adapter_config, adapters
from gpt_jax.interop.adapters import Adapters
from gpt_jax.model import weights
from gpt_jax.model.lowrank import Adapter, Base
from gpt_jax.train import manifest


def export(run: Path, output: Path, dtype: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Writes the folder `output`; returns what it is.

    Args:
      run: the folder of a run with adapters (tune.rank).
      dtype: float32, bfloat16 or float16.

    Raises:
      UserError: a run without adapters, or one that trains weights besides, or a model that no layout has.
    """
    found = pretrained.find(str(run), asked='--checkpoint', say=say)
    if found.partly is None or not found.partly.config['tune']['rank']:
        raise UserError(f'--adapters: {run} has none (config.tune.rank); leave the flag out to export its weights')
    alone = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shardings = jax.tree.map(lambda _: alone, weights.unbox(assemble.declarations(found.model)))
    trained, kept, meta = tuned.parts(found.partly, shardings, None, say)
    mine, bases = _flat(trained, Adapter), _flat(kept, Base)
    pairs = {path: node for path, node in mine.items() if isinstance(node, Adapter)}
    besides = [path for path in mine if path not in pairs and not path.startswith(f'{head.NAME}/')]
    if besides:
        raise UserError(
            f'--adapters: {run} also trains {", ".join(besides[:3])}, which has no place beside adapters; leave the '
            'flag out to export all of its weights'
        )
    if len(mine) > len(pairs):
        say(f'warning: the head of its task, which no other program knows, stays in {run}')
    config = found.partly.config
    base = base_name(config['init_from'], say)
    scales = {path: np.asarray(bases[path].scale) for path in pairs}
    adapters.write(
        output, found.model, Adapters(pairs, scales, base, config['tune']['dropout']),
        pretrained.letters_of(found.model), stabilized=config['tune']['rank_stabilized'], dtype=dtype,
    )  # fmt: skip
    say(f'{output}: {len(pairs)} adapters of {run}, in {dtype}, for the weights of {base}')
    names = sorted(path.name for path in output.iterdir())
    return {'output': str(output), 'adapters': len(pairs), 'dtype': dtype, 'base': base,
            'step': meta['next_batch'], 'files': names}  # fmt: skip


def base_name(init_from: str, say: Callable[[str], None]) -> str:
    """The name that PEFT is to find the base by: of what was imported, where it came from."""
    folder = pretrained.chosen(Path(init_from), None) / 'checkpoints'
    meta = manifest.newest_meta(folder) if folder.is_dir() else None
    if meta is not None and not meta.get('imported_from'):
        say(
            f'{init_from}: a run, which PEFT cannot read; --mode=export --checkpoint={init_from} makes a folder of it, '
            f'to be named in {adapter_config.NAME}'
        )
    return init_from if meta is None else str(meta.get('imported_from') or init_from)


def _flat(tree: Any, kind: type) -> Mapping[str, Any]:
    """By path; a node of the kind is one value."""
    leaves = jax.tree.leaves_with_path(tree, is_leaf=lambda node: isinstance(node, kind))
    return {jax.tree_util.keystr(path, simple=True, separator='/'): node for path, node in leaves}
