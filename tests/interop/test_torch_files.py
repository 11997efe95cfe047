"""PyTorch checkpoints are read as safetensors are, without running code from them."""

import argparse
import importlib.util
import json
import os
import pickle
import shlex
import subprocess
import warnings

import jax
import ml_dtypes
import numpy as np
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.interop import peft, safetensors_files, torch_child, torch_files
from gpt_jax.interop.safetensors_files import TORCH_FILE, TORCH_INDEX_FILE
from tests import peers
from tests.interop import golden, test_peft

torch = peers.find_or_skip('torch', 'writes checkpoints of PyTorch')


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
            with warnings.catch_warnings(action='ignore'):  # as -W ignore does in the child
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
    message = (
        r'\.bin: holds Python objects other than tensors \(posix\.mkdir\), which is not read; '
        r"in the program that made it, .*: torch\.save\(model\.state_dict\(\), '/.*\.bin'\)$"
    )
    with pytest.raises(UserError, match=message):
        safetensors_files.index_folder(tmp_path)
    assert not (tmp_path / 'ran').exists()


@pytest.mark.usefixtures('in_process')
@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (lambda: torch.zeros(2), 'must hold a state dict, got Tensor'),
        (
            lambda: {'a': torch.zeros(2), 'epoch': 3},
            "plain state dict of tensors, got int as 'epoch'",
        ),
        (
            lambda: {'a': torch.zeros(2, dtype=torch.complex64)},
            "'a' is stored as complex64, which is not",
        ),
        (
            lambda: {'a': torch.zeros(2).to(torch.float8_e4m3fn)},
            "'a' is stored as float8_e4m3fn, which is not read; convert it to float32 or bfloat16$",
        ),
        (
            lambda: {'a': torch.eye(2).to_sparse()},
            "'a' is a sparse tensor, which is not read; save its to_",
        ),
        (
            lambda: torch.nn.Linear(2, 2),
            r'other than tensors \(torch\.nn\.modules\.linear\.Linear\), which',
        ),
        (
            lambda: {'args': argparse.Namespace(a=1)},
            r'other than tensors \(argparse\.Namespace\), which is',
        ),
        (b'', 'bin: is damaged or incomplete; copy or download it again$'),
        (b'<!DOCTYPE html>', 'bin: is not a PyTorch checkpoint, or is damaged or incomplete; copy'),
        (b'version https://git-lfs.github.com/spec/v1', 'is a pointer of Git LFS, not the file'),
        (pickle.dumps({'a': 1}), 'bin: is not a file that torch.save wrote, or is damaged'),
    ],
)
def test_other_contents_are_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / TORCH_FILE
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content(), path)
    check_refused(path, message)


def check_refused(path, message):
    with pytest.raises(UserError, match=message) as error:
        safetensors_files.index_folder(path.parent)
    assert '\n' not in str(error.value)
    assert '\x1b' not in str(error.value)
    assert 'weights_only=False' not in str(error.value)
    assert str(error.value).startswith(f'{path}: ')


@pytest.mark.usefixtures('in_process')
@pytest.mark.filterwarnings('ignore')  # PyTorch has deprecated it
def test_a_torchscript_program_is_called_so(tmp_path):
    path = tmp_path / TORCH_FILE
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    check_refused(path, r'is a TorchScript program, which is not read; .*state_dict\(\), ')


@pytest.mark.usefixtures('in_process')
@pytest.mark.parametrize('is_zip', [True, False])
def test_a_truncated_file_is_called_so(tmp_path, is_zip):
    path = tmp_path / TORCH_FILE
    torch.save({'a': torch.zeros(200)}, path, _use_new_zipfile_serialization=is_zip)
    content = path.read_bytes()
    for size in (1, 3, 100, len(content) // 2, len(content) - 20):
        path.write_bytes(content[:size])
        check_refused(path, 'is damaged or incomplete; copy or download it again$')


@pytest.mark.usefixtures('in_process')
@pytest.mark.parametrize('key', ['state_dict', 'model'])
def test_the_command_that_unwraps_a_state_dict_makes_a_folder_that_is_read(tmp_path, key):
    path = tmp_path / TORCH_FILE
    torch.save({'epoch': 3, key: make_state()}, path)
    with pytest.raises(UserError, match=f"under the key '{key}'; to save them as safe") as error:
        safetensors_files.index_folder(tmp_path)
    python, option, code = shlex.split(str(error.value).partition('as safetensors: ')[2])
    assert (python, option) == ('python', '-c')
    exec(code, {})
    assert_equal_to_state(safetensors_files.index_folder(tmp_path))


@pytest.mark.usefixtures('in_process')
def test_errors_about_a_tensor_name_the_users_file(tmp_path):
    path = tmp_path / TORCH_FILE
    torch.save({'a': torch.tensor([1.0, np.nan])}, path)
    with pytest.raises(UserError) as error:
        safetensors_files.index_folder(tmp_path).read_weight('a')
    assert str(error.value).startswith(f"{path}: 'a' has NaN")


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
