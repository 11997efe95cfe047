"""Are a row's fields those that its documents say?"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_jax.data.packing import PACKINGS
from gpt_jax.data.tokens import Tokens

END = 9


def stream(*documents):
    ids = [i for document in documents for i in [*document, END]]
    starts = np.cumsum([0] + [len(document) + 1 for document in documents[:-1]])
    return Tokens(np.array(ids, np.uint16), starts.astype(np.int64), sum(map(len, documents)))


# ids 1 2 3 9 4 9 5 6 7 8 9, documents at 0, 4, 6
THREE = stream([1, 2, 3], [4], [5, 6, 7, 8])


def test_isolate_by_hand():
    fields = PACKINGS['isolate'](THREE, np.array([0, 5]), 5)
    expected = {
        'inputs': [[1, 2, 3, 9, 4], [9, 5, 6, 7, 8]],
        'targets': [[2, 3, 9, 4, 9], [5, 6, 7, 8, 9]],
        'segments': [[1, 1, 1, 1, 2], [1, 2, 2, 2, 2]],
        'positions': [[0, 1, 2, 3, 0], [0, 0, 1, 2, 3]],
        'weights': [[1, 1, 1, 0, 1], [0, 1, 1, 1, 1]],
    }
    assert {name: value.tolist() for name, value in fields.items()} == expected


def test_beyond_the_end_is_padding():
    fields = PACKINGS['isolate'](THREE, np.array([8, 13]), 5)
    expected = {
        'inputs': [[7, 8, 9, 0, 0], [0, 0, 0, 0, 0]],
        'targets': [[8, 9, 0, 0, 0], [0, 0, 0, 0, 0]],
        'segments': [[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]],
        'weights': [[1, 1, 0, 0, 0], [0, 0, 0, 0, 0]],
    }
    assert {name: fields[name].tolist() for name in expected} == expected


@pytest.mark.parametrize('packing', PACKINGS)
def test_types_and_memory(packing):
    fields = PACKINGS[packing](THREE, np.array([0, 3]), 4)
    for name, value in fields.items():
        assert value.shape == (2, 4)
        assert value.dtype == (np.float32 if name == 'weights' else np.int32)
        assert value.flags.c_contiguous
        assert value.flags.writeable


def test_concatenate_has_ids_only():
    fields = PACKINGS['concatenate'](THREE, np.array([2]), 3)
    assert {name: value.tolist() for name, value in fields.items()} == {'inputs': [[3, 9, 4]], 'targets': [[9, 4, 9]]}


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=9), data=st.data())
def test_isolate_follows_the_ends_of_documents(lengths, data):
    tokens = stream(*([1] * length for length in lengths))
    context = data.draw(st.integers(1, 12))
    offset = data.draw(st.integers(0, len(tokens) - 1))
    row = {name: value[0].tolist() for name, value in PACKINGS['isolate'](tokens, np.array([offset]), context).items()}
    segment, position = 1, 0
    for at in range(context):
        if offset + at >= len(tokens):
            assert (row['segments'][at], row['weights'][at]) == (0, 0)
            continue
        ends = row['inputs'][at] == END
        assert (row['segments'][at], row['positions'][at]) == (segment, position)
        assert row['weights'][at] == (not ends and offset + at + 1 < len(tokens))
        segment, position = (segment + 1, 0) if ends else (segment, position + 1)
