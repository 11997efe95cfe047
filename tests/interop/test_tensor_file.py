"""Is a .safetensors file read and written as everybody else does, and is a broken or hostile one refused?"""

import contextlib
import json
import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt_jax.errors import UserError
from gpt_jax.interop import tensor_file
from gpt_jax.interop.tensor_file import DTYPES, Written

VALUES = {
    'a': np.arange(6, dtype=np.float32).reshape(2, 3),
    'b': np.array([1.5, -0.0, 3e38], ml_dtypes.bfloat16),
    'c': np.array(7, np.float16),
    'd': np.zeros((0, 4), np.float32),
    'e': np.array([True, False]),
    'f': np.array([2**60], np.int64),
}
WORDS = {np.dtype(dtype): word for word, dtype in DTYPES.items()}


def write(path, values=VALUES):
    tensor_file.write(
        path, [Written(name, WORDS[v.dtype], v.shape, lambda v=v: v) for name, v in values.items()]
    )  # fmt: skip


def raw(path, header, data=b''):
    """A file of that header, given as JSON text or as what JSON is made of."""
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack('<Q', len(content)) + content + data)
    return path


def one(**changes):
    return {'x': {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 8]} | changes}


def test_what_is_written_is_read(tmp_path):
    write(tmp_path / 'x.safetensors')
    entries = tensor_file.header(tmp_path / 'x.safetensors')
    assert list(entries) == list(VALUES)
    for name, value in VALUES.items():
        back = tensor_file.mapped(tmp_path / 'x.safetensors', entries[name])
        assert (back.dtype, back.shape, back.tobytes()) == (value.dtype, value.shape, value.tobytes())


def test_the_bytes_are_the_formats(tmp_path):
    write(tmp_path / 'x.safetensors', {'a': VALUES['a']})
    content = (tmp_path / 'x.safetensors').read_bytes()
    length = struct.unpack('<Q', content[:8])[0]
    assert length % 8 == 0
    assert json.loads(content[8 : 8 + length]) == {
        '__metadata__': {'format': 'pt'},
        'a': {'dtype': 'F32', 'shape': [2, 3], 'data_offsets': [0, 24]},
    }
    assert content[8 + length :] == VALUES['a'].tobytes()


def test_the_formats_own_library_agrees(tmp_path):
    theirs = pytest.importorskip('safetensors.numpy', reason='compares with the safetensors library')
    write(tmp_path / 'ours.safetensors')
    loaded = theirs.load_file(tmp_path / 'ours.safetensors')
    theirs.save_file(VALUES, tmp_path / 'theirs.safetensors', {'format': 'pt'})
    entries = tensor_file.header(tmp_path / 'theirs.safetensors')
    assert loaded.keys() == entries.keys() == VALUES.keys()
    for name, value in VALUES.items():
        back = tensor_file.mapped(tmp_path / 'theirs.safetensors', entries[name])
        assert back.tobytes() == loaded[name].tobytes() == value.tobytes()
        assert (back.dtype, back.shape) == (loaded[name].dtype, loaded[name].shape) == (value.dtype, value.shape)


def test_what_is_written_must_be_what_was_announced(tmp_path):
    with pytest.raises(ValueError, match=r'a: float32 \(2, 3\), not F32 \(3, 2\)'):
        tensor_file.write(tmp_path / 'x', [Written('a', 'F32', (3, 2), lambda: VALUES['a'])])
    with pytest.raises(ValueError, match='not F16'):
        tensor_file.write(tmp_path / 'x', [Written('a', 'F16', (2, 3), lambda: VALUES['a'])])


@pytest.mark.parametrize(('content', 'message'), [
    (b'', 'no safetensors file, or cut off'),
    (b'\x02\0\0\0\0\0\0', 'no safetensors file, or cut off'),
    (struct.pack('<Q', 2**63) + b'{}', 'no safetensors file, or cut off'),
    (struct.pack('<Q', 3) + b'{}', 'no safetensors file, or cut off'),
    (struct.pack('<Q', 2) + b'[]', 'is not a JSON object'),
    (struct.pack('<Q', 2) + b'{x', 'not JSON'),
    (struct.pack('<Q', 2) + b'{}x', 'has 11 bytes, and its tensors end at 10'),
    (b'\x80\x04\x95' + b'\0' * 40, 'no safetensors file'),  # the beginning of a pickle
])  # fmt: skip
def test_what_is_no_such_file_is_refused(tmp_path, content, message):
    (tmp_path / 'x').write_bytes(content)
    with pytest.raises(UserError, match=message):
        tensor_file.header(tmp_path / 'x')


@pytest.mark.parametrize(('header', 'message'), [
    (one(dtype='F8_E4M3'), "'x': dtype 'F8_E4M3' is not read here"),
    (one(dtype=['F32']), 'is not read here'),
    (one(shape=[3]), r"'x': F32 of shape \[3\] takes 12 bytes, not 8"),
    (one(shape=[2**62, 2**62]), 'takes .* bytes, not 8'),
    (one(shape=[-2, -1]), 'is no shape'),
    (one(shape=[True, 2]), 'is no shape'),
    (one(shape=[2.0]), 'is no shape'),
    (one(shape=[1] * 33 + [2]), 'is no shape'),
    (one(shape='2'), 'is no shape'),
    (one(data_offsets=[8, 0]), 'takes 8 bytes, not -8'),
    (one(data_offsets=[0]), 'are no offsets'),
    (one(data_offsets=[-8, 0]), 'are no offsets'),
    (one(data_offsets=[8, 16]), "'x' begins at byte"),
    (one(other=1), 'wants dtype, shape and data_offsets'),
    ({'x': 3}, 'wants dtype, shape and data_offsets'),
    (one() | {'y': one()['x']}, "'y' begins at byte"),  # both claim the same bytes
    (b'{"x": 1, "x": 2}', "'x' stands there twice"),
    (b'{"x": NaN}', 'NaN is no number'),
    (b'[' * 100_000, 'not JSON'),
])  # fmt: skip
def test_a_lying_header_is_refused(tmp_path, header, message):
    with pytest.raises(UserError, match=message):
        tensor_file.header(raw(tmp_path / 'x', header, bytes(8)))


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    write(tmp_path / 'whole')
    content = (tmp_path / 'whole').read_bytes()
    for size in range(len(content)):
        (tmp_path / 'x').write_bytes(content[:size])
        with pytest.raises(UserError):
            tensor_file.header(tmp_path / 'x')


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60), size=st.integers(0, 60))
def test_noise_is_read_or_refused_and_nothing_else(tmp_path, content, size):
    (tmp_path / 'x').write_bytes(struct.pack('<Q', size) + content)
    with contextlib.suppress(UserError):
        entries = tensor_file.header(tmp_path / 'x')
        assert max((entry.end for entry in entries.values()), default=8 + size) == 8 + len(content)
