"""Reading of PyTorch checkpoints (`pytorch_model.bin`), which are pickles, through PyTorch.

A process of its own loads the file with `torch.load(weights_only=True)`, which runs no code from
it, and writes a temporary safetensors file.
"""

import atexit
import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from gpt_jax.core.errors import UserError

CHILD_MODULE = 'gpt_jax.interop.torch_child'


def convert_checkpoint(path: Path) -> Path:
    """Return a safetensors file with the tensors of a PyTorch checkpoint.

    It is deleted when this process ends.

    Raises:
      UserError: PyTorch is not installed, or the file is not a plain state dict of tensors.
    """
    if importlib.util.find_spec('torch') is None:
        raise UserError(
            f"{path}: needs PyTorch to be read; pip install -e '.[torch]', or where transformers "
            f'is installed: {_save_command(path.parent)}'
        )
    stat = path.stat()
    return _convert(path, stat.st_size, stat.st_mtime_ns)


def _save_command(folder: Path) -> str:
    """Return the command that saves a folder's model as safetensors."""
    kind = 'AutoModelForCausalLM'
    return (
        f'python -c "from transformers import {kind} as M; '
        f"M.from_pretrained('{folder}').save_pretrained('{folder}')\""
    )


@functools.cache
def _convert(path: Path, size: int, time: int) -> Path:
    del size, time  # a file that was changed is read again
    folder = Path(tempfile.mkdtemp(prefix='gpt_jax_'))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    output = folder / f'{path.name}.safetensors'
    # -P: a module in the current folder must not be imported in place of PyTorch.
    package = str(Path(__file__).parents[2])
    python_path = os.pathsep.join([package, *filter(None, [os.environ.get('PYTHONPATH')])])
    result = subprocess.run(
        [sys.executable, '-P', '-W', 'ignore', '-m', CHILD_MODULE, path.absolute(), output],
        env=os.environ | {'PYTHONPATH': python_path},
        capture_output=True,
        text=True,
    )
    if result.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        last = (result.stderr.strip().splitlines() or [f'exit code {result.returncode}'])[-1]
        raise UserError(f'{path}: {last}')
    return output
