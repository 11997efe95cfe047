"""Results of transformers for the small models, stored in golden/NAME.json.

    PYTHONPATH=. python -m tests.interop.golden    # writes the files; needs torch and transformers

A file has the config.json that transformers writes, the names and shapes of its tensors, the logits
of its model in float64, and of the gradient of the mean loss by each tensor the component along
small_models.direction.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from gpt_jax.interop import safetensors_files
from tests.interop import small_models
from tests.interop.small_models import EXAMPLES, direction, make_tokens

FOLDER = Path(__file__).with_name('golden')


def read_golden(name: str) -> dict[str, Any]:
    content = json.loads((FOLDER / f'{name}.json').read_text())
    return content | {'logits': np.array(content['logits'])}


def make_example(name: str, folder: Path) -> Any:
    """Make the model of transformers of an example, in float32, and save it to the folder."""
    return make_model(*EXAMPLES[name], folder)


def make_model(model_type: str, fields: dict[str, Any], folder: Path) -> Any:
    """Make a model of transformers with the weights of `make_tensor`, and save it to the folder.

    model_type, fields: of its config class.
    """
    import transformers

    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(model_type, **fields)
    )
    # Saved first, since the names of experts on disk differ from those in memory.
    model.save_pretrained(folder)
    config = json.loads((folder / 'config.json').read_text())
    small_models.write_folder(folder, config, list_shapes(folder))
    return load_model(folder, 'float32')


def list_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a folder's tensors, by name."""
    tensors = safetensors_files.index_folder(folder)
    return {name: tensors.shape(name) for name in sorted(tensors.entries)}


def load_model(folder: Path, dtype: str) -> Any:
    """Load a model of transformers that computes in `dtype` with the simplest kernels."""
    import torch
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, dtype),
        attn_implementation='eager',
        experts_implementation='eager',
        local_files_only=True,
    ).eval()


def compute_logits(model: Any) -> np.ndarray:
    """The logits of the tokens, float64."""
    import torch

    ids = torch.tensor(make_tokens(), dtype=torch.long)
    with torch.no_grad():
        return np.asarray(model(ids, use_cache=False).logits.double())


def compute_gradients(model: Any, folder: Path) -> dict[str, np.ndarray]:
    """The gradients of the mean loss by the names of the tensors on disk, saved in the folder."""
    import torch

    ids = torch.tensor(make_tokens(), dtype=torch.long)
    model.zero_grad()
    model(ids, labels=ids, use_cache=False).loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(gradients[name])
    model.save_pretrained(folder)
    tensors = safetensors_files.index_folder(folder)
    return {name: np.array(tensors.map(name)) for name in tensors.entries}


def make_golden(name: str) -> dict[str, Any]:
    """The content of a golden file."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = make_example(name, folder / 'model').double()
        logits = compute_logits(model)
        gradients = compute_gradients(model, folder / 'gradients')
        slopes = {
            tensor: np.sum(gradient * direction(tensor, gradient.shape))
            for tensor, gradient in sorted(gradients.items())
        }
        return {
            'config': json.loads((folder / 'model' / 'config.json').read_text()),
            'shapes': list_shapes(folder / 'model'),
            'logits': np.round(logits, 7).tolist(),
            'slopes': {tensor: round(float(slope), 8) for tensor, slope in slopes.items()},
        }


if __name__ == '__main__':
    FOLDER.mkdir(exist_ok=True)
    for example in EXAMPLES:
        content = json.dumps(make_golden(example))
        (FOLDER / f'{example}.json').write_text(content.replace('], [', '],\n[') + '\n')
        print(example)
