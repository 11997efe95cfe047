"""Writes a PyTorch checkpoint as safetensors; run as a process of its own by torch_files.py.

`python -m gpt_jax.interop.torch_child FILE OUTPUT` imports PyTorch, which the rest of the library
does not need. A failure is one line on standard error, and exit code 1.
"""

import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from gpt_jax.interop.safetensors_files import LazyTensor, write_tensors

MIN_TORCH = (2, 6)  # before it, weights_only=True could be circumvented (CVE-2025-32434)


def main(path: Path, output: Path) -> None:
    """Convert a file; one tensor at a time is in memory, unless the file has PyTorch's old format.

    Raises:
      SystemExit: it is not a state dict; the text says why.
    """
    import torch

    version = tuple(int(part) for part in torch.__version__.split('.')[:2])
    if version < MIN_TORCH:
        raise SystemExit(
            f'needs PyTorch 2.6 or later to be read safely, got {torch.__version__}; '
            "pip install -U 'torch>=2.6'"
        )
    state = _load(path)
    if not isinstance(state, dict):
        raise SystemExit(f'must hold a state dict, got {type(state).__name__}')
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise SystemExit(
                f'must hold a plain state dict of tensors, got {type(value).__name__} as {name!r}'
            )
    write_tensors(output, [_describe(name, tensor) for name, tensor in state.items()])


def _load(path: Path) -> Any:
    import torch

    options: dict[str, Any] = {'map_location': 'cpu', 'weights_only': True}
    try:
        try:
            return torch.load(path, mmap=True, **options)
        except RuntimeError:  # the format before PyTorch 1.6 cannot be mapped
            return torch.load(path, **options)
    except Exception as error:  # pickle, zipfile and PyTorch raise many kinds
        reason = ' '.join(str(error).split())[:160] or type(error).__name__
        raise SystemExit(f'is not a plain state dict, so that it is not read ({reason})') from None


def _describe(name: str, tensor: Any) -> LazyTensor:
    import torch

    dtypes = {
        torch.float64: 'F64',
        torch.float32: 'F32',
        torch.float16: 'F16',
        torch.bfloat16: 'BF16',
        torch.int64: 'I64',
        torch.int32: 'I32',
        torch.int16: 'I16',
        torch.int8: 'I8',
        torch.uint8: 'U8',
        torch.bool: 'BOOL',
    }
    if tensor.layout != torch.strided or tensor.dtype not in dtypes:
        raise SystemExit(f'{name!r}: {tensor.layout} of {tensor.dtype} is not supported')

    def read() -> np.ndarray:
        values = tensor.detach().contiguous()
        if values.dtype == torch.bfloat16:
            raw: np.ndarray = values.view(torch.int16).numpy()
            return raw.view(ml_dtypes.bfloat16)
        return np.asarray(values.numpy())

    return LazyTensor(name, dtypes[tensor.dtype], tuple(tensor.shape), read)


if __name__ == '__main__':
    main(Path(sys.argv[1]), Path(sys.argv[2]))
