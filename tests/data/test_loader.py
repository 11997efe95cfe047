"""Tests of the loader: packing, the order of batches, and how often every target is read."""

import itertools
import subprocess
import sys

import grain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_jax.core.errors import UserError
from gpt_jax.data.loader import (
    PACKINGS,
    _order_seed,
    count_epochs,
    count_eval_batches,
    iterate_batches,
    iterate_eval_batches,
    read_batch,
)
from gpt_jax.data.token_cache import TokenSplit

CONTEXT, BATCH, WINDOWS = 5, 8, 100


def numbered(length):
    """A stream whose ids are their own positions, in documents of 7."""
    return TokenSplit(np.arange(length, dtype=np.uint32), np.arange(0, length, 7), length)


TOKENS = numbered(WINDOWS * CONTEXT + 3)


def take(count, tokens=TOKENS, **changes):
    arguments = {
        'fingerprint': 'f',
        'context': CONTEXT,
        'batch_size': BATCH,
        'seed': 0,
        'packing': 'isolate',
    } | changes
    return list(itertools.islice(iterate_batches(tokens, **arguments), count))


def windows(rows):
    return np.concatenate([batch['inputs'][:, 0] // CONTEXT for batch in rows]).tolist()


def same(a, b):
    return len(a) == len(b) and all(
        x.keys() == y.keys() and all(np.array_equal(x[name], y[name]) for name in x)
        for x, y in zip(a, b, strict=True)
    )


def test_batches_depend_on_seed_and_fingerprint():
    first = take(5)
    assert same(first, take(5))
    for change in ({'seed': 1}, {'fingerprint': 'g'}):
        assert not same(first, take(5, **change))


def test_another_process_gives_the_same_batches():
    code = (
        'import numpy as np;'
        'from gpt_jax.data.loader import iterate_batches;'
        'from gpt_jax.data.token_cache import TokenSplit;'
        f'ids = np.arange({len(TOKENS)}, dtype=np.uint32);'
        f'tokens = TokenSplit(ids, np.arange(0, {len(TOKENS)}, 7), 1);'
        f"batches = iterate_batches(tokens, fingerprint='f', context={CONTEXT}, "
        f"batch_size={BATCH}, seed=0, packing='isolate', start=40);"
        "print(next(batches)['inputs'].tolist())"
    )
    other = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(take(1, start=40)[0]['inputs'].tolist())


@pytest.mark.parametrize('shards', [2, 4, 8])
def test_shards_share_one_global_batch(shards):
    whole = take(30)
    parts = [take(30, shard_index=index, shard_count=shards) for index in range(shards)]
    joined = [
        {name: np.concatenate([part[name] for part in step]) for name in step[0]}
        for step in zip(*parts, strict=False)
    ]
    assert same(whole, joined)


@pytest.mark.parametrize('start', [1, 12, 13, 29])
def test_start_continues_the_order(start):
    assert same(take(30)[start:], take(30 - start, start=start))
    assert same(
        take(30, shard_index=1, shard_count=2)[start:],
        take(30 - start, start=start, shard_index=1, shard_count=2),
    )


def test_one_batch_is_read_alone():
    batches = take(30)
    for number in (0, 13, 29):
        arguments = {'fingerprint': 'f', 'context': CONTEXT, 'batch_size': BATCH, 'seed': 0}
        batch = read_batch(TOKENS, number, packing='isolate', **arguments)
        assert same([batch], batches[number : number + 1])


def test_distant_start_reads_only_its_batch():
    assert take(1, start=10**12)[0]['inputs'].shape == (BATCH, CONTEXT)


def test_every_epoch_has_every_window_once_in_its_own_order():
    order = windows(take(4 * WINDOWS // BATCH))
    epochs = [order[first : first + WINDOWS] for first in range(0, 4 * WINDOWS, WINDOWS)]
    assert all(sorted(epoch) == list(range(WINDOWS)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert all(
        sum(a == b for a, b in zip(epochs[0], epoch, strict=True)) < WINDOWS / 10
        for epoch in epochs[1:]
    )


def test_neighbouring_seeds_share_no_epoch():
    epochs = {
        tuple(windows(take(2 * WINDOWS // BATCH, seed=seed))[first : first + WINDOWS])
        for seed in range(3)
        for first in (0, WINDOWS)
    }
    assert len(epochs) == 6


def test_order_is_the_shuffle_of_grain():
    """Grain documents the order by shuffled records, with the batch taken from strided shards."""
    shuffled = grain.MapDataset.range(WINDOWS).seed(_order_seed('f', 0)).shuffle().repeat(None)
    assert windows(take(30)) == [shuffled[i] for i in range(30 * BATCH)]
    shards = [shuffled[index::4].batch(BATCH // 4) for index in range(4)]
    for k, batch in enumerate(take(30)):
        assert sorted(np.concatenate([shard[k] for shard in shards])) == sorted(windows([batch]))


def test_order_is_pinned():
    """Another version of grain or another hash would feed other batches to a resumed run."""
    assert windows(take(1)) == [23, 35, 31, 68, 34, 77, 52, 18]


def test_concatenated_windows_cover_every_target_once():
    rows = take(WINDOWS // 4, batch_size=4, packing='concatenate')
    assert all(batch.keys() == {'inputs', 'targets'} for batch in rows)
    targets = sorted(np.concatenate([batch['targets'].ravel() for batch in rows]).tolist())
    assert targets == list(range(1, WINDOWS * CONTEXT + 1))
    assert all((batch['targets'] == batch['inputs'] + 1).all() for batch in rows)


def test_invalid_sizes_are_rejected():
    assert take(1, tokens=numbered(CONTEXT + 1))[0]['inputs'].tolist() == [[0, 1, 2, 3, 4]] * BATCH
    with pytest.raises(
        UserError, match=r'^data\.source: must have at least 6 training tokens .*, got 5;'
    ):
        iterate_batches(
            numbered(5), fingerprint='f', context=5, batch_size=8, seed=0, packing='isolate'
        )
    with pytest.raises(
        UserError,
        match='batch_size: must be a positive multiple of the 3 shards of the batch, got 8',
    ):
        iterate_batches(
            TOKENS,
            fingerprint='f',
            context=5,
            batch_size=8,
            seed=0,
            packing='isolate',
            shard_count=3,
        )


def evaluate(tokens=TOKENS, **changes):
    arguments = {
        'context': CONTEXT,
        'batch_size': BATCH,
        'packing': 'concatenate',
        'max_tokens': 0,
    } | changes
    return list(iterate_eval_batches(tokens, **arguments))


@pytest.mark.parametrize('length', [2, 5, 6, 7, 40, 41, 42, 81, 503])
@pytest.mark.parametrize('shards', [1, 4])
def test_eval_counts_every_target_once(length, shards):
    parts = [evaluate(numbered(length), shard_index=i, shard_count=shards) for i in range(shards)]
    assert len({len(part) for part in parts}) == 1
    fields = [batch for part in parts for batch in part]
    assert all(
        value.shape == (BATCH // shards, CONTEXT) for batch in fields for value in batch.values()
    )
    counted = np.concatenate([batch['targets'][batch['weights'] == 1] for batch in fields])
    assert sorted(counted.tolist()) == list(range(1, length))
    assert sum(batch['weights'].sum() for batch in fields) == length - 1


def test_eval_shards_share_one_global_batch():
    parts = [evaluate(packing='isolate', shard_index=i, shard_count=2) for i in range(2)]
    joined = [
        {name: np.concatenate([a[name], b[name]]) for name in a}
        for a, b in zip(*parts, strict=True)
    ]
    assert same(evaluate(packing='isolate'), joined)


def test_max_tokens_counts_the_first_targets():
    for limit in (1, 13, 40, 41):
        fields = evaluate(max_tokens=limit)
        counted = np.concatenate([batch['targets'][batch['weights'] == 1] for batch in fields])
        assert counted.tolist() == list(range(1, limit + 1))
        assert len(fields) == -(-limit // (CONTEXT * BATCH))
        assert len(fields) == count_eval_batches(
            TOKENS, context=CONTEXT, batch_size=BATCH, max_tokens=limit
        )
    assert same(evaluate(max_tokens=10**9), evaluate())


def test_isolated_eval_skips_targets_across_documents():
    fields = evaluate(packing='isolate')
    counted = np.concatenate([batch['targets'][batch['weights'] == 1] for batch in fields])
    assert sorted(counted.tolist()) == [i for i in range(1, len(TOKENS)) if i % 7]


def test_invalid_eval_sizes_are_rejected():
    with pytest.raises(UserError, match='must have at least 2 tokens to evaluate on, got 1'):
        evaluate(numbered(1))
    with pytest.raises(UserError, match='max_tokens: must be 0'):
        evaluate(max_tokens=-1)
    with pytest.raises(
        UserError, match='must be a positive multiple of the 3 shards of the batch, got 8'
    ):
        evaluate(shard_count=3)


def test_count_epochs():
    assert count_epochs(numbered(101), 250) == 2.5


def test_prefetching_stops_with_the_iterator():
    import gc
    import threading
    import time

    before = threading.active_count()
    iterator = iterate_batches(
        TOKENS, fingerprint='f', context=CONTEXT, batch_size=BATCH, seed=0, packing='isolate'
    )
    next(iterator)
    assert threading.active_count() > before
    del iterator
    for _ in range(100):
        gc.collect()
        if threading.active_count() == before:
            return
        time.sleep(0.02)
    raise AssertionError(threading.enumerate())


END = 9


def stream(*documents):
    ids = [i for document in documents for i in [*document, END]]
    document_starts = np.cumsum([0] + [len(document) + 1 for document in documents[:-1]])
    return TokenSplit(
        np.array(ids, np.uint16), document_starts.astype(np.int64), sum(map(len, documents))
    )


# ids 1 2 3 9 4 9 5 6 7 8 9, documents at 0, 4, 6
THREE = stream([1, 2, 3], [4], [5, 6, 7, 8])


def test_isolated_rows():
    fields = PACKINGS['isolate'](THREE, np.array([0, 5]), 5)
    expected = {
        'inputs': [[1, 2, 3, 9, 4], [9, 5, 6, 7, 8]],
        'targets': [[2, 3, 9, 4, 9], [5, 6, 7, 8, 9]],
        'segments': [[1, 1, 1, 1, 2], [1, 2, 2, 2, 2]],
        'positions': [[0, 1, 2, 3, 0], [0, 0, 1, 2, 3]],
        'weights': [[1, 1, 1, 0, 1], [0, 1, 1, 1, 1]],
    }
    assert {name: value.tolist() for name, value in fields.items()} == expected


def test_padding_beyond_the_end():
    fields = PACKINGS['isolate'](THREE, np.array([8, 13]), 5)
    expected = {
        'inputs': [[7, 8, 9, 0, 0], [0, 0, 0, 0, 0]],
        'targets': [[8, 9, 0, 0, 0], [0, 0, 0, 0, 0]],
        'segments': [[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]],
        'weights': [[1, 1, 0, 0, 0], [0, 0, 0, 0, 0]],
    }
    assert {name: fields[name].tolist() for name in expected} == expected


@pytest.mark.parametrize('packing', PACKINGS)
def test_dtypes_and_memory_layout(packing):
    fields = PACKINGS[packing](THREE, np.array([0, 3]), 4)
    for name, value in fields.items():
        assert value.shape == (2, 4)
        assert value.dtype == (np.float32 if name == 'weights' else np.int32)
        assert value.flags.c_contiguous
        assert value.flags.writeable


def test_concatenated_rows_have_ids_only():
    fields = PACKINGS['concatenate'](THREE, np.array([2]), 3)
    assert {name: value.tolist() for name, value in fields.items()} == {
        'inputs': [[3, 9, 4]],
        'targets': [[9, 4, 9]],
    }


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=9), data=st.data())
def test_isolated_rows_follow_the_ends_of_documents(lengths, data):
    tokens = stream(*([1] * length for length in lengths))
    context = data.draw(st.integers(1, 12))
    offset = data.draw(st.integers(0, len(tokens) - 1))
    row = {
        name: value[0].tolist()
        for name, value in PACKINGS['isolate'](tokens, np.array([offset]), context).items()
    }
    segment, position = 1, 0
    for index in range(context):
        if offset + index >= len(tokens):
            assert (row['segments'][index], row['weights'][index]) == (0, 0)
            continue
        ends = row['inputs'][index] == END
        assert (row['segments'][index], row['positions'][index]) == (segment, position)
        assert row['weights'][index] == (not ends and offset + index + 1 < len(tokens))
        segment, position = (segment + 1, 0) if ends else (segment, position + 1)
