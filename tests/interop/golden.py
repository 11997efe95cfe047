"""What transformers computes of the small models, kept in golden/NAME.json for machines without it.

    PYTHONPATH=. python -m tests.interop.golden        # writes them anew; takes torch and transformers

A file holds the config.json that transformers writes, the names and shapes of the tensors it writes, the logits of its
model in float64, and of the gradient of the mean loss by each tensor the component along a direction that its name
decides.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from gpt_jax.interop import tensors
from tests.interop import small_models
from tests.interop.small_models import EXAMPLES, direction, tokens

FOLDER = Path(__file__).with_name('golden')


def read(name: str) -> dict[str, Any]:
    found = json.loads((FOLDER / f'{name}.json').read_text())
    return found | {'logits': np.array(found['logits'])}


def theirs(name: str, folder: Path) -> Any:
    """Transformers' model in float32 with the weights that the names of its tensors decide, saved to the folder too."""
    return made(*EXAMPLES[name], folder)


def made(kind: str, fields: dict[str, Any], folder: Path) -> Any:
    """The same of that `model_type` and these fields of its config class."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(kind, **fields))
    model.save_pretrained(folder)  # the names on disk are not those in memory: experts
    found = tensors.find(folder)
    shapes = {one: found.shape(one) for one in found.where}
    small_models.write(folder, json.loads((folder / 'config.json').read_text()), shapes)
    return load(folder, 'float32')


def load(folder: Path, dtype: str) -> Any:
    """Transformers' model of that folder, computed in `dtype` and in the plainest way."""
    import torch
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation='eager', experts_implementation='eager',
        local_files_only=True,
    ).eval()  # fmt: skip


def logits(model: Any) -> np.ndarray:
    import torch

    with torch.no_grad():
        return np.asarray(model(torch.tensor(tokens(), dtype=torch.long), use_cache=False).logits.double())


def gradients(model: Any, folder: Path) -> dict[str, np.ndarray]:
    """Of the mean loss, under the names of the tensors on disk."""
    import torch

    ids = torch.tensor(tokens(), dtype=torch.long)
    model.zero_grad()
    model(ids, labels=ids, use_cache=False).loss.backward()
    gradient = {one: p.grad for one, p in model.named_parameters()}
    with torch.no_grad():
        for one, p in model.named_parameters():
            p.copy_(gradient[one])
    model.save_pretrained(folder)
    found = tensors.find(folder)
    return {one: np.array(found.raw(one)) for one in found.where}


def make(name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = theirs(name, folder / 'model').double()
        found = tensors.find(folder / 'model')
        computed = logits(model)
        slopes = gradients(model, folder / 'gradients')
        return {
            'config': json.loads((folder / 'model' / 'config.json').read_text()),
            'shapes': {one: list(found.shape(one)) for one in sorted(found.where)},
            'logits': np.round(computed, 7).tolist(),
            'slopes': {
                one: round(float(np.sum(slopes[one] * direction(one, slopes[one].shape))), 8) for one in sorted(slopes)
            },
        }


if __name__ == '__main__':
    FOLDER.mkdir(exist_ok=True)
    for example in EXAMPLES:
        content = json.dumps(make(example))
        (FOLDER / f'{example}.json').write_text(content.replace('], [', '],\n[') + '\n')
        print(example)
