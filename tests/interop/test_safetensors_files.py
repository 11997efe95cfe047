"""Safetensors files and folders: reading, writing, and rejection of malformed ones."""

import contextlib
import functools
import json
import os
import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt_jax.core.errors import UserError
from gpt_jax.interop import safetensors_files
from gpt_jax.interop.safetensors_files import DTYPES, INDEX_FILE, LazyTensor

VALUES = {
    'a': np.arange(6, dtype=np.float32).reshape(2, 3),
    'b': np.array([1.5, -0.0, 3e38], ml_dtypes.bfloat16),
    'c': np.array(7, np.float16),
    'd': np.zeros((0, 4), np.float32),
    'e': np.array([True, False]),
    'f': np.array([2**60], np.int64),
}
# Tensors of 4, 8, 12, 16 and 20 bytes.
FOLDER_VALUES = {name: np.full(size, size, np.float32) for size, name in enumerate('abcde', 1)}
DTYPE_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}


def make_tensors(values):
    return [
        LazyTensor(
            name, DTYPE_NAMES[value.dtype], value.shape, functools.partial(np.asarray, value)
        )
        for name, value in values.items()
    ]


def write_raw(path, header, data=b''):
    """Write a file with this header, given as JSON or as an object."""
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack('<Q', len(content)) + content + data)
    return path


def entry(**changes):
    """The header of a file with one tensor."""
    return {'x': {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 8]} | changes}


def test_written_tensors_are_read_back(tmp_path):
    safetensors_files.write_tensors(tmp_path / 'x.safetensors', make_tensors(VALUES))
    entries = safetensors_files.read_header(tmp_path / 'x.safetensors')
    assert list(entries) == list(VALUES)
    for name, value in VALUES.items():
        tensor = safetensors_files.map_tensor(tmp_path / 'x.safetensors', entries[name])
        assert (tensor.dtype, tensor.shape) == (value.dtype, value.shape)
        assert tensor.tobytes() == value.tobytes()


def test_file_format(tmp_path):
    safetensors_files.write_tensors(tmp_path / 'x.safetensors', make_tensors({'a': VALUES['a']}))
    content = (tmp_path / 'x.safetensors').read_bytes()
    length = struct.unpack('<Q', content[:8])[0]
    assert length % 8 == 0
    assert json.loads(content[8 : 8 + length]) == {
        '__metadata__': {'format': 'pt'},
        'a': {'dtype': 'F32', 'shape': [2, 3], 'data_offsets': [0, 24]},
    }
    assert content[8 + length :] == VALUES['a'].tobytes()


def test_safetensors_library_reads_and_writes_the_same(tmp_path):
    library = pytest.importorskip('safetensors.numpy', reason='the comparison')
    safetensors_files.write_tensors(tmp_path / 'ours.safetensors', make_tensors(VALUES))
    loaded = library.load_file(tmp_path / 'ours.safetensors')
    library.save_file(VALUES, tmp_path / 'theirs.safetensors', {'format': 'pt'})
    entries = safetensors_files.read_header(tmp_path / 'theirs.safetensors')
    assert loaded.keys() == entries.keys() == VALUES.keys()
    for name, value in VALUES.items():
        mapped = safetensors_files.map_tensor(tmp_path / 'theirs.safetensors', entries[name])
        for tensor in (mapped, loaded[name]):
            assert (tensor.dtype, tensor.shape) == (value.dtype, value.shape)
            assert tensor.tobytes() == value.tobytes()


def test_written_values_must_match_the_declaration(tmp_path):
    with pytest.raises(ValueError, match=r'a: must be F32 \(3, 2\), got float32 \(2, 3\)'):
        safetensors_files.write_tensors(
            tmp_path / 'x', [LazyTensor('a', 'F32', (3, 2), lambda: VALUES['a'])]
        )
    with pytest.raises(ValueError, match='must be F16'):
        safetensors_files.write_tensors(
            tmp_path / 'x', [LazyTensor('a', 'F16', (2, 3), lambda: VALUES['a'])]
        )


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'not a safetensors file, or truncated'),
        (b'\x02\0\0\0\0\0\0', 'not a safetensors file, or truncated'),
        (struct.pack('<Q', 2**63) + b'{}', 'not a safetensors file, or truncated'),
        (struct.pack('<Q', 3) + b'{}', 'not a safetensors file, or truncated'),
        (struct.pack('<Q', 2) + b'[]', 'is not a JSON object'),
        (struct.pack('<Q', 2) + b'{x', 'not JSON'),
        (struct.pack('<Q', 2) + b'{}x', 'has 11 bytes, but its tensors end at 10'),
        (b'\x80\x04\x95' + b'\0' * 40, 'not a safetensors file'),  # the beginning of a pickle
    ],
)
def test_other_files_are_rejected(tmp_path, content, message):
    (tmp_path / 'x').write_bytes(content)
    with pytest.raises(UserError, match=message):
        safetensors_files.read_header(tmp_path / 'x')


@pytest.mark.parametrize(
    ('header', 'message'),
    [
        (entry(dtype='F8_E4M3'), "'x': dtype 'F8_E4M3' is not supported"),
        (entry(dtype=['F32']), 'is not supported'),
        (entry(shape=[3]), r"'x': F32 of shape \[3\] must have 12 bytes, got 8"),
        (entry(shape=[2**62, 2**62]), 'must have .* bytes, got 8'),
        (entry(shape=[-2, -1]), 'is not a shape'),
        (entry(shape=[True, 2]), 'is not a shape'),
        (entry(shape=[2.0]), 'is not a shape'),
        (entry(shape=[1] * 33 + [2]), 'is not a shape'),
        (entry(shape='2'), 'is not a shape'),
        (entry(data_offsets=[8, 0]), 'must have 8 bytes, got -8'),
        (entry(data_offsets=[0]), 'are not offsets'),
        (entry(data_offsets=[-8, 0]), 'are not offsets'),
        (entry(data_offsets=[8, 16]), "'x' begins at byte"),
        (entry(other=1), 'must have dtype, shape and data_offsets'),
        ({'x': 3}, 'must have dtype, shape and data_offsets'),
        (entry() | {'y': entry()['x']}, "'y' begins at byte"),  # both have the same bytes
        (b'{"x": 1, "x": 2}', "'x' occurs twice"),
        (b'{"x": NaN}', 'NaN is not a number'),
        (b'[' * 100_000, 'not JSON'),
    ],
)
def test_invalid_headers_are_rejected(tmp_path, header, message):
    with pytest.raises(UserError, match=message):
        safetensors_files.read_header(write_raw(tmp_path / 'x', header, bytes(8)))


def test_truncated_files_are_rejected(tmp_path):
    safetensors_files.write_tensors(tmp_path / 'whole', make_tensors(VALUES))
    content = (tmp_path / 'whole').read_bytes()
    for size in range(len(content)):
        (tmp_path / 'x').write_bytes(content[:size])
        with pytest.raises(UserError):
            safetensors_files.read_header(tmp_path / 'x')


@settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.binary(max_size=60), size=st.integers(0, 60))
def test_random_bytes_are_read_or_rejected(tmp_path, content, size):
    (tmp_path / 'x').write_bytes(struct.pack('<Q', size) + content)
    with contextlib.suppress(UserError):
        entries = safetensors_files.read_header(tmp_path / 'x')
        assert max((entry.end for entry in entries.values()), default=8 + size) == 8 + len(content)


def write_folder(folder, shard_bytes=10**9, values=FOLDER_VALUES):
    folder.mkdir(exist_ok=True)
    safetensors_files.write_shards(folder, make_tensors(values), shard_bytes)
    return folder


def reindex(folder, change):
    path = folder / INDEX_FILE
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


def test_single_file_and_shards_have_the_same_tensors(tmp_path):
    single = write_folder(tmp_path / 'single')
    sharded = write_folder(tmp_path / 'sharded', shard_bytes=20)
    assert sorted(os.listdir(single)) == ['model.safetensors']
    assert sorted(os.listdir(sharded)) == [
        *(f'model-0000{n}-of-00004.safetensors' for n in range(1, 5)),
        'model.safetensors.index.json',
    ]
    index = json.loads((sharded / INDEX_FILE).read_text())
    assert index['metadata'] == {'total_size': 60}
    for folder in (single, sharded):
        tensors = safetensors_files.index_folder(folder)
        assert tensors.entries.keys() == FOLDER_VALUES.keys()
        for name, value in FOLDER_VALUES.items():
            assert tensors.read_weight(name).tolist() == value.tolist()


def test_shards_are_as_large_as_allowed(tmp_path):
    folder = write_folder(tmp_path / 'x', shard_bytes=24)
    index = json.loads((folder / INDEX_FILE).read_text())['weight_map']
    shards = [
        sorted(name for name in index if index[name] == file)
        for file in sorted(set(index.values()))
    ]
    assert shards == [['a', 'b', 'c'], ['d'], ['e']]


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_rejected(tmp_path, value):
    write_folder(tmp_path / 'x', values={'a': np.array([0, value], np.float32)})
    tensors = safetensors_files.index_folder(tmp_path / 'x')
    with pytest.raises(UserError, match="'a' has NaN or infinite values"):
        tensors.read_weight('a')


def test_other_weights_are_not_read(tmp_path):
    (tmp_path / 'model.pth').write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(UserError, match=r'model\.pth is not read; save the model with transf'):
        safetensors_files.index_folder(tmp_path)
    (tmp_path / 'model.pth').unlink()
    write_folder(tmp_path / 'x')
    with pytest.raises(UserError, match=r'holds neither model\.safetensors nor'):
        safetensors_files.index_folder(tmp_path)


def test_single_file_and_index_of_others_are_rejected(tmp_path):
    write_folder(tmp_path / 'x', shard_bytes=20)
    write_folder(tmp_path / 'x')
    with pytest.raises(UserError, match=r'but model\.safetensors\.index\.json names other files'):
        safetensors_files.index_folder(tmp_path / 'x')


def test_an_index_of_the_single_file_is_read(tmp_path):
    folder = write_folder(tmp_path / 'x') or tmp_path / 'x'
    names = safetensors_files.index_folder(folder).entries
    weight_map = dict.fromkeys(names, 'model.safetensors')
    index = folder / 'model.safetensors.index.json'
    index.write_text(json.dumps({'weight_map': weight_map}))
    assert safetensors_files.index_folder(folder).entries == names


@pytest.mark.parametrize(
    'name',
    [
        '../outside.safetensors',
        '/etc/passwd',
        'sub/model.safetensors',
        '..',
        '.',
        '',
        '.hidden.safetensors',
        'a\0.safetensors',
        'gone.safetensors',
        'two\nlines',
        'folder.safetensors',
    ],
)
def test_index_must_name_files_of_its_folder(tmp_path, name):
    write_folder(tmp_path / 'x', shard_bytes=20)
    (tmp_path / 'x' / 'folder.safetensors').mkdir()
    write_folder(tmp_path / 'outside')
    (tmp_path / 'outside' / 'model.safetensors').rename(tmp_path / 'outside.safetensors')
    reindex(tmp_path / 'x', lambda index: index['weight_map'].update(a=name))
    with pytest.raises(UserError, match=r'is not the name of a file|no such file'):
        safetensors_files.index_folder(tmp_path / 'x')


def test_index_must_match_its_files(tmp_path):
    folder = write_folder(tmp_path / 'x', shard_bytes=20)
    index = (folder / INDEX_FILE).read_text()
    for change, message in (
        (
            lambda weight_map: weight_map.update(f='model-00001-of-00004.safetensors'),
            r"'f' is missing, but .* lists it",
        ),
        (lambda weight_map: weight_map.pop('b'), r"has 'b', but .* has it in None"),
        (
            lambda weight_map: weight_map.update(a='model-00004-of-00004.safetensors'),
            r"has 'a', but .* has it in 'model-00004",
        ),
    ):
        (folder / INDEX_FILE).write_text(index)
        reindex(folder, lambda index, change=change: change(index['weight_map']))
        with pytest.raises(UserError, match=message):
            safetensors_files.index_folder(folder)
    for content in ('{}', '{"weight_map": []}', '{"weight_map": {"a": 3}}'):
        (folder / INDEX_FILE).write_text(content)
        with pytest.raises(UserError, match='must have a weight_map'):
            safetensors_files.index_folder(folder)
    (folder / INDEX_FILE).write_text('[]')
    with pytest.raises(UserError, match='must be a JSON object'):
        safetensors_files.index_folder(folder)


def test_links_out_of_the_folder_are_rejected(tmp_path):
    real = write_folder(tmp_path / 'real') / 'model.safetensors'
    linked = tmp_path / 'linked'
    linked.mkdir()
    (linked / 'model.safetensors').symlink_to(real)
    with pytest.raises(UserError, match='is a link out of the folder'):
        safetensors_files.index_folder(linked)
    (linked / 'model.safetensors').unlink()
    (linked / 'model.safetensors').symlink_to(linked / 'model.safetensors')
    with pytest.raises(UserError):
        safetensors_files.index_folder(linked)
    os.mkfifo(linked / 'pipe.json')
    with pytest.raises(UserError, match='no such file'):
        safetensors_files.read_json(linked, 'pipe.json')


def test_links_in_the_cache_of_the_hub(tmp_path):
    blobs, snapshot = tmp_path / 'blobs', tmp_path / 'snapshots' / '0123'
    snapshot.mkdir(parents=True)
    write_folder(blobs)
    (blobs / 'model.safetensors').rename(blobs / 'abcd')
    (snapshot / 'model.safetensors').symlink_to('../../blobs/abcd')
    assert list(safetensors_files.index_folder(snapshot).entries) == list(FOLDER_VALUES)
    (snapshot / 'part').mkdir()
    (snapshot / 'part/model.safetensors').symlink_to('../../../blobs/abcd')
    assert list(safetensors_files.index_folder(snapshot / 'part').entries) == list(FOLDER_VALUES)
    (tmp_path / 'other').write_text('{}')
    (snapshot / 'config.json').symlink_to('../../other')
    with pytest.raises(UserError, match='is a link out of the folder'):
        safetensors_files.read_json(snapshot, 'config.json')


def test_too_large_files_are_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors_files, 'MAX_FILE_BYTES', 10)
    (tmp_path / 'config.json').write_text('{"a": "0123456789"}')
    with pytest.raises(UserError, match='must have at most 10 bytes, got 19'):
        safetensors_files.read_json(tmp_path, 'config.json')
