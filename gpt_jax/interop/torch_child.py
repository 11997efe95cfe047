"""Writes a PyTorch checkpoint as safetensors; run as a process of its own by torch_files.py.

`python -m gpt_jax.interop.torch_child FILE OUTPUT` imports PyTorch, which the rest of the library
does not need. A failure is one line on standard error, and exit code 1.
"""

import pickle
import re
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from gpt_jax.interop.safetensors_files import LazyTensor, write_tensors

DAMAGED = 'is damaged or incomplete; copy or download it again'
DAMAGE_ERRORS = (OSError, EOFError, LookupError, ValueError, struct.error)  # of a cut pickle
LFS_START = b'version https://git-lfs'
ZIP_START, PICKLE_START = b'PK\x03\x04', b'\x80'  # of the formats since PyTorch 1.6, and before
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
    _check_start(path)
    state = _load(path)
    if not isinstance(state, dict):
        raise SystemExit(f'must hold a state dict, got {type(state).__name__}')
    for name, value in state.items():
        if _is_state_dict(value):
            raise SystemExit(
                f'has its tensors under the key {name!r}; to save them as safetensors: '
                f'{_make_unwrap_command(path, name)}'
            )
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise SystemExit(
                f'must hold a plain state dict of tensors, got {type(value).__name__} as {name!r}'
            )
    write_tensors(output, [_describe(name, tensor) for name, tensor in state.items()])


def _check_start(path: Path) -> None:
    """Raise SystemExit if the first bytes, or a zip file's directory, show that it is damaged."""
    try:
        with open(path, 'rb') as file:
            start = file.read(len(LFS_START))
    except OSError as error:
        raise SystemExit(f'cannot be read ({error.strerror})') from None
    if start == LFS_START:
        raise SystemExit('is a pointer of Git LFS, not the file; git lfs pull')
    if not start or (start.startswith(ZIP_START) and not zipfile.is_zipfile(path)):
        raise SystemExit(DAMAGED)
    if not start.startswith((ZIP_START, PICKLE_START)):
        raise SystemExit(f'is not a PyTorch checkpoint, or {DAMAGED}')


def _load(path: Path) -> Any:
    import torch

    options: dict[str, Any] = {'map_location': 'cpu', 'weights_only': True}
    try:
        try:
            return torch.load(path, mmap=True, **options)
        except RuntimeError:  # the format before PyTorch 1.6 cannot be mapped
            return torch.load(path, **options)
    except pickle.UnpicklingError as error:
        # 'Unsupported global: GLOBAL a.B was not ...', 'Trying to load unsupported GLOBAL a.B ...'
        match = re.search(r'GLOBAL ([\w.]+)', str(error))
        if match is None:
            raise SystemExit(f'is not a file that torch.save wrote, or {DAMAGED}') from None
        raise SystemExit(
            f'holds Python objects other than tensors ({match[1]}), which is not read; in the '
            f"program that made it, save the tensors: torch.save(model.state_dict(), '{path}')"
        ) from None
    except Exception as error:  # zipfile, pickle and PyTorch raise many kinds
        if 'TorchScript' in str(error):
            raise SystemExit(
                'is a TorchScript program, which is not read; where it was made, save the tensors: '
                f"torch.save(model.state_dict(), '{path}')"
            ) from None
        if isinstance(error, DAMAGE_ERRORS) or re.search('PytorchStream|EOF', str(error)):
            raise SystemExit(DAMAGED) from None
        kind = type(error).__name__
        raise SystemExit(
            f'cannot be read by PyTorch ({kind}); if it is damaged, copy or download it again'
        ) from None


def _is_state_dict(value: Any) -> bool:
    import torch

    return (
        isinstance(value, dict)
        and len(value) > 0
        and all(isinstance(tensor, torch.Tensor) for tensor in value.values())
    )


def _make_unwrap_command(path: Path, key: Any) -> str:
    name = path.stem.replace('pytorch_model', 'model')
    return (
        'python -c "import torch; from safetensors.torch import save_file; '
        f"state = torch.load('{path}', map_location='cpu', weights_only=True)[{key!r}]; "
        'save_file({name: state[name].clone().contiguous() for name in state}, '
        f"'{path.with_name(name)}.safetensors', {{'format': 'pt'}})\""
    )


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
    if tensor.layout != torch.strided:
        raise SystemExit(f'{name!r} is a sparse tensor, which is not read; save its to_dense()')
    if tensor.dtype not in dtypes:
        dtype = str(tensor.dtype).removeprefix('torch.')
        raise SystemExit(
            f'{name!r} is stored as {dtype}, which is not read; convert it to float32 or bfloat16'
        )

    def read() -> np.ndarray:
        values = tensor.detach().contiguous()
        if values.dtype == torch.bfloat16:
            raw: np.ndarray = values.view(torch.int16).numpy()
            return raw.view(ml_dtypes.bfloat16)
        return np.asarray(values.numpy())

    return LazyTensor(name, dtypes[tensor.dtype], tuple(tensor.shape), read)


if __name__ == '__main__':
    main(Path(sys.argv[1]), Path(sys.argv[2]))
