"""PyTorch checkpoints are read as safetensors are, without running code from them."""

import importlib.util
import json
import os
import shlex
import subprocess

import jax
import ml_dtypes
import numpy as np
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.interop import peft, safetensors_files, torch_child, torch_files
from gpt_jax.interop.safetensors_files import TORCH_FILE, TORCH_INDEX_FILE
from tests.interop import golden, test_peft

torch = pytest.importorskip('torch', reason='writes checkpoints of PyTorch')


class Attack:
    def __reduce__(self):
        return os.mkdir, ('ran',)


def make_state():
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    return {
        'float': base,
        'transposed': base.T,
        'shared': base,
        'half': base.to(torch.bfloat16) / 3,
        'buffer': torch.tril(torch.ones(2, 2, dtype=torch.bool)),
        'parameter': torch.nn.Parameter(torch.tensor(2.5)),
        'empty': torch.zeros(0, 3),
    }


def assert_equal_to_state(tensors):
    state = make_state()
    assert tensors.entries.keys() == state.keys()
    for name, tensor in state.items():
        expected = tensor.detach()
        value = tensors.map(name)
        if tensor.dtype == torch.bfloat16:
            assert value.dtype == ml_dtypes.bfloat16
            expected, value = expected.float(), value.astype(np.float32)
        np.testing.assert_array_equal(value, expected.numpy())


@pytest.fixture
def in_process(monkeypatch):
    """Converts in this process, in which PyTorch is imported already."""

    def run(command, **_):
        try:
            torch_child.main(*command[-2:])
        except SystemExit as error:
            return subprocess.CompletedProcess(command, 1, '', f'{error}\n')
        return subprocess.CompletedProcess(command, 0, '', '')

    monkeypatch.setattr(torch_files.subprocess, 'run', run)


def test_one_file(tmp_path):
    torch.save(make_state(), tmp_path / TORCH_FILE)
    assert_equal_to_state(safetensors_files.index_folder(tmp_path))


@pytest.mark.usefixtures('in_process')
def test_shards(tmp_path):
    state, folder = make_state(), tmp_path
    weight_map = {name: f'pytorch_model-{len(name) % 2}.bin' for name in state}
    for file in set(weight_map.values()):
        part = {name: value for name, value in state.items() if weight_map[name] == file}
        # The second is written in the format before PyTorch 1.6.
        torch.save(part, folder / file, _use_new_zipfile_serialization='0' in file)
    (folder / TORCH_INDEX_FILE).write_text(json.dumps({'weight_map': weight_map}))
    assert_equal_to_state(safetensors_files.index_folder(folder))
    weight_map['gone'] = weight_map['float']
    (folder / TORCH_INDEX_FILE).write_text(json.dumps({'weight_map': weight_map}))
    with pytest.raises(UserError, match=r"'gone' is missing, but pytorch_model\.bin\.index\.json"):
        safetensors_files.index_folder(folder)


@pytest.mark.usefixtures('in_process')
def test_adapters(tmp_path):
    ours = test_peft.import_base('llama3', tmp_path / 'base')
    folder = tmp_path / 'adapter'
    test_peft.write_adapters(folder, ours, test_peft.make_adapters(ours, ['query']))
    expected = test_peft.read_adapters(folder, ours)
    path = folder / peft.ADAPTER_FILE
    tensors = safetensors_files.index_file(path)
    torch.save(
        {name: torch.tensor(tensors.map(name)) for name in tensors.entries},
        folder / peft.TORCH_FILE,
    )
    path.unlink()
    read = test_peft.read_adapters(folder, ours)
    jax.tree.map(np.testing.assert_array_equal, read.pairs, expected.pairs)


def test_no_code_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'torch.py').write_text('raise SystemExit("imported from the current folder")')
    torch.save(Attack(), tmp_path / TORCH_FILE)
    with pytest.raises(UserError, match='is not a plain state dict, so that it is not read'):
        safetensors_files.index_folder(tmp_path)
    assert not (tmp_path / 'ran').exists()


@pytest.mark.usefixtures('in_process')
@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (torch.zeros(2), 'must hold a state dict, got Tensor'),
        ({'model': {'a': torch.zeros(2)}}, "plain state dict of tensors, got dict as 'model'"),
        ({'a': torch.zeros(2, dtype=torch.complex64)}, "'a': .*complex64 is not supported"),
        (None, 'is not a plain state dict'),
    ],
)
def test_other_contents_are_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / TORCH_FILE
    torch.save(content, path)
    if content is None:
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=message) as error:
        safetensors_files.index_folder(tmp_path)
    assert '\n' not in str(error.value)
    assert str(error.value).startswith(f'{path}: ')


def test_without_pytorch_the_command_that_converts_is_named(tmp_path, monkeypatch):
    """And the command, run where PyTorch is, makes a folder that is read."""
    golden.make_example('llama3', tmp_path)
    expected = read_all(tmp_path)
    state = {name: torch.from_numpy(value) for name, value in expected.items()}
    torch.save(state, tmp_path / TORCH_FILE)
    (tmp_path / 'model.safetensors').unlink()
    with monkeypatch.context() as patch:
        find_spec = importlib.util.find_spec
        patch.setattr(
            importlib.util, 'find_spec', lambda name: None if name == 'torch' else find_spec(name)
        )
        with pytest.raises(UserError, match=r'needs PyTorch.*pip install -e ..\[torch\]') as error:
            safetensors_files.index_folder(tmp_path)
    python, option, code = shlex.split(str(error.value).partition('installed: ')[2])
    assert (python, option) == ('python', '-c')
    exec(code, {})
    assert (tmp_path / 'model.safetensors').exists()
    converted = read_all(tmp_path)
    assert converted.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(converted[name], value)


def read_all(folder):
    tensors = safetensors_files.index_folder(folder)
    return {name: tensors.map(name).copy() for name in tensors.entries}
