"""Are the tensors of a folder found whole, in one file or in many, and nothing outside of it?"""

import json
import os

import numpy as np
import pytest

from gpt_jax.errors import UserError
from gpt_jax.interop import tensors
from gpt_jax.interop.tensor_file import Written

VALUES = {name: np.full(size, size, np.float32) for size, name in enumerate('abcde', 1)}


def write(folder, shard_bytes=10**9, values=VALUES):
    folder.mkdir(exist_ok=True)
    tensors.write(folder, [Written(n, 'F32', v.shape, lambda v=v: v) for n, v in values.items()], shard_bytes)
    return folder


def reindex(folder, change):
    path = folder / tensors.INDEX
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


def test_one_file_and_many_hold_the_same(tmp_path):
    whole, cut = write(tmp_path / 'whole'), write(tmp_path / 'cut', shard_bytes=20)
    assert sorted(os.listdir(whole)) == ['model.safetensors']
    assert sorted(os.listdir(cut)) == [
        *(f'model-0000{n}-of-00004.safetensors' for n in range(1, 5)), 'model.safetensors.index.json',
    ]  # fmt: skip
    assert json.loads((cut / tensors.INDEX).read_text())['metadata'] == {'total_size': 60}
    for folder in (whole, cut):
        found = tensors.find(folder)
        assert {name: found.weight(name).tolist() for name in found.where} == {n: v.tolist() for n, v in VALUES.items()}


def test_shards_are_as_full_as_they_may_be(tmp_path):
    folder = write(tmp_path / 'x', shard_bytes=24)
    index = json.loads((folder / tensors.INDEX).read_text())['weight_map']
    assert [sorted(n for n in index if index[n] == file) for file in sorted(set(index.values()))] == [
        ['a', 'b', 'c'], ['d'], ['e'],
    ]  # fmt: skip


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_broken_numbers_are_refused(tmp_path, value):
    write(tmp_path / 'x', values={'a': np.array([0, value], np.float32)})
    found = tensors.find(tmp_path / 'x')
    with pytest.raises(UserError, match="'a' holds NaN or infinity"):
        found.weight('a')


def test_a_folder_of_pickles_is_not_touched(tmp_path):
    (tmp_path / 'pytorch_model.bin').write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(UserError, match=r'pytorch_model\.bin can run code when it is read, so it is not'):
        tensors.find(tmp_path)
    (tmp_path / 'pytorch_model.bin').unlink()
    write(tmp_path / 'x')
    with pytest.raises(UserError, match=r'holds neither model\.safetensors nor'):
        tensors.find(tmp_path)


def test_both_forms_at_once_are_refused(tmp_path):
    write(tmp_path / 'x', shard_bytes=20)
    write(tmp_path / 'x')
    with pytest.raises(UserError, match='holds both'):
        tensors.find(tmp_path / 'x')


@pytest.mark.parametrize('name', [
    '../outside.safetensors', '/etc/passwd', 'sub/model.safetensors', '..', '.', '', '.hidden.safetensors',
    'a\0.safetensors', 'gone.safetensors', 'two\nlines', 'folder.safetensors',
])  # fmt: skip
def test_an_index_names_files_of_its_own_folder(tmp_path, name):
    write(tmp_path / 'x', shard_bytes=20)
    (tmp_path / 'x' / 'folder.safetensors').mkdir()
    write(tmp_path / 'outside')
    (tmp_path / 'outside' / 'model.safetensors').rename(tmp_path / 'outside.safetensors')
    reindex(tmp_path / 'x', lambda index: index['weight_map'].update(a=name))
    with pytest.raises(UserError, match=r'is not the name of a file|no such file'):
        tensors.find(tmp_path / 'x')


def test_an_index_and_its_files_agree(tmp_path):
    folder = write(tmp_path / 'x', shard_bytes=20)
    index = (folder / tensors.INDEX).read_text()
    for change, message in (
        (lambda at: at.update(f='model-00001-of-00004.safetensors'), r"'f' is not in it, and .* says so"),
        (lambda at: at.pop('b'), r"'b' is in it, and .* has it in None"),
        (lambda at: at.update(a='model-00004-of-00004.safetensors'), r"'a' is in it, and .* has it in 'model-00004"),
    ):
        (folder / tensors.INDEX).write_text(index)
        reindex(folder, lambda index, change=change: change(index['weight_map']))
        with pytest.raises(UserError, match=message):
            tensors.find(folder)
    for content in ('{}', '{"weight_map": []}', '{"weight_map": {"a": 3}}'):
        (folder / tensors.INDEX).write_text(content)
        with pytest.raises(UserError, match='wants a weight_map'):
            tensors.find(folder)
    (folder / tensors.INDEX).write_text('[]')
    with pytest.raises(UserError, match='wants a JSON object'):
        tensors.find(folder)


def test_links_lead_nowhere_else(tmp_path):
    real = write(tmp_path / 'real') / 'model.safetensors'
    linked = tmp_path / 'linked'
    linked.mkdir()
    (linked / 'model.safetensors').symlink_to(real)
    with pytest.raises(UserError, match='is a link that leads out of the folder'):
        tensors.find(linked)
    (linked / 'model.safetensors').unlink()
    (linked / 'model.safetensors').symlink_to(linked / 'model.safetensors')
    with pytest.raises(UserError):
        tensors.find(linked)
    os.mkfifo(linked / 'pipe.json')
    with pytest.raises(UserError, match='no such file'):
        tensors.read_json(linked, 'pipe.json')


def test_the_hubs_cache_is_made_of_links(tmp_path):
    blobs, snapshot = tmp_path / 'blobs', tmp_path / 'snapshots' / '0123'
    snapshot.mkdir(parents=True)
    write(blobs)
    (blobs / 'model.safetensors').rename(blobs / 'abcd')
    (snapshot / 'model.safetensors').symlink_to('../../blobs/abcd')
    assert list(tensors.find(snapshot).where) == list(VALUES)
    (tmp_path / 'other').write_text('{}')
    (snapshot / 'config.json').symlink_to('../../other')
    with pytest.raises(UserError, match='leads out of the folder'):
        tensors.read_json(snapshot, 'config.json')


def test_json_too_large_to_be_meant(tmp_path, monkeypatch):
    monkeypatch.setattr(tensors, 'LONGEST', 10)
    (tmp_path / 'config.json').write_text('{"a": "0123456789"}')
    with pytest.raises(UserError, match='are too many for such a file'):
        tensors.read_json(tmp_path, 'config.json')
