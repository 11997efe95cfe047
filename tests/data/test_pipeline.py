"""Is batch k decided by (fingerprint, seed, k) alone, and is every target read as often as it should be?"""

import itertools
import subprocess
import sys

import grain
import numpy as np
import pytest

from gpt_jax.data.pipeline import batches, evaluation_batches, evaluation_steps, repeats
from gpt_jax.data.tokens import Tokens
from gpt_jax.errors import UserError

CONTEXT, BATCH, WINDOWS = 5, 8, 100


def numbered(length):
    """A stream whose ids are their own places, in documents of 7."""
    return Tokens(np.arange(length, dtype=np.uint32), np.arange(0, length, 7), length)


TOKENS = numbered(WINDOWS * CONTEXT + 3)


def take(count, tokens=TOKENS, **changes):
    arguments = {'fingerprint': 'f', 'context': CONTEXT, 'batch': BATCH, 'seed': 0, 'packing': 'isolate'} | changes
    return list(itertools.islice(batches(tokens, **arguments), count))


def windows(rows):
    return np.concatenate([batch['inputs'][:, 0] // CONTEXT for batch in rows]).tolist()


def same(a, b):
    return len(a) == len(b) and all(
        x.keys() == y.keys() and all(np.array_equal(x[name], y[name]) for name in x) for x, y in zip(a, b, strict=True)
    )


def test_same_arguments_same_batches_others_not():
    first = take(5)
    assert same(first, take(5))
    for change in ({'seed': 1}, {'fingerprint': 'g'}):
        assert not same(first, take(5, **change))


def test_another_process_gives_the_same():
    code = (
        'import numpy as np; from gpt_jax.data.pipeline import batches; from gpt_jax.data.tokens import Tokens;'
        f't = Tokens(np.arange({len(TOKENS)}, dtype=np.uint32), np.arange(0, {len(TOKENS)}, 7), 1);'
        f"b = batches(t, fingerprint='f', context={CONTEXT}, batch={BATCH}, seed=0, packing='isolate', start=40);"
        "print(next(b)['inputs'].tolist())"
    )
    other = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(take(1, start=40)[0]['inputs'].tolist())


@pytest.mark.parametrize('processes', [2, 4, 8])
def test_processes_hold_the_blocks_of_one_global_batch(processes):
    whole = take(30)
    parts = [take(30, process_index=index, process_count=processes) for index in range(processes)]
    joined = [{name: np.concatenate([part[name] for part in step]) for name in step[0]} for step in zip(*parts)]  # noqa: B905
    assert same(whole, joined)


@pytest.mark.parametrize('start', [1, 12, 13, 29])
def test_start_continues_where_the_run_was(start):
    assert same(take(30)[start:], take(30 - start, start=start))
    assert same(
        take(30, process_index=1, process_count=2)[start:],
        take(30 - start, start=start, process_index=1, process_count=2),
    )


def test_start_far_away_reads_only_its_batch():
    assert take(1, start=10**12)[0]['inputs'].shape == (BATCH, CONTEXT)


def test_every_epoch_has_every_window_once_in_its_own_order():
    order = windows(take(4 * WINDOWS // BATCH))
    epochs = [order[first : first + WINDOWS] for first in range(0, 4 * WINDOWS, WINDOWS)]
    assert all(sorted(epoch) == list(range(WINDOWS)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert all(sum(a == b for a, b in zip(epochs[0], epoch, strict=True)) < WINDOWS / 10 for epoch in epochs[1:])


def test_neighbouring_seeds_share_no_epoch():
    epochs = {
        tuple(windows(take(2 * WINDOWS // BATCH, seed=seed))[first : first + WINDOWS])
        for seed in range(3)
        for first in (0, WINDOWS)
    }
    assert len(epochs) == 6


def test_order_is_grains_own_shuffle_of_the_windows():
    """The order in the way that grain documents it: one shuffled record a time, the batch from strided shards."""
    from gpt_jax.data.pipeline import _order_seed

    shuffled = grain.MapDataset.range(WINDOWS).seed(_order_seed('f', 0)).shuffle().repeat(None)
    assert windows(take(30)) == [shuffled[i] for i in range(30 * BATCH)]
    shards = [shuffled[index::4].batch(BATCH // 4) for index in range(4)]
    for k, batch in enumerate(take(30)):
        assert sorted(np.concatenate([shard[k] for shard in shards])) == sorted(windows([batch]))


def test_the_order_that_runs_were_promised():
    """Pinned: another grain or another hash would feed a resumed run other batches."""
    assert windows(take(1)) == [23, 35, 31, 68, 34, 77, 52, 18]


def test_concatenated_windows_cover_every_target_once():
    rows = take(WINDOWS // 4, batch=4, packing='concatenate')
    assert all(batch.keys() == {'inputs', 'targets'} for batch in rows)
    targets = sorted(np.concatenate([batch['targets'].ravel() for batch in rows]).tolist())
    assert targets == list(range(1, WINDOWS * CONTEXT + 1))
    assert all((batch['targets'] == batch['inputs'] + 1).all() for batch in rows)


def test_less_than_a_window_or_a_batch_that_does_not_divide():
    assert take(1, tokens=numbered(CONTEXT + 1))[0]['inputs'].tolist() == [[0, 1, 2, 3, 4]] * BATCH
    with pytest.raises(UserError, match=r'^data\.source: 5 training tokens are less than one window of 6;'):
        batches(numbered(5), fingerprint='f', context=5, batch=8, seed=0, packing='isolate')
    with pytest.raises(UserError, match='8 rows cannot be divided among 3 processes'):
        batches(TOKENS, fingerprint='f', context=5, batch=8, seed=0, packing='isolate', process_count=3)


def evaluate(tokens=TOKENS, **changes):
    arguments = {'context': CONTEXT, 'batch': BATCH, 'packing': 'concatenate', 'limit_tokens': 0} | changes
    return list(evaluation_batches(tokens, **arguments))


@pytest.mark.parametrize('length', [2, 5, 6, 7, 40, 41, 42, 81, 503])
@pytest.mark.parametrize('processes', [1, 4])
def test_evaluation_counts_every_target_once(length, processes):
    parts = [evaluate(numbered(length), process_index=i, process_count=processes) for i in range(processes)]
    assert len({len(part) for part in parts}) == 1
    fields = [batch for part in parts for batch in part]
    assert all(value.shape == (BATCH // processes, CONTEXT) for batch in fields for value in batch.values())
    counted = np.concatenate([batch['targets'][batch['weights'] == 1] for batch in fields])
    assert sorted(counted.tolist()) == list(range(1, length))
    assert sum(batch['weights'].sum() for batch in fields) == length - 1


def test_evaluation_processes_hold_the_blocks_of_one_global_batch():
    parts = [evaluate(packing='isolate', process_index=i, process_count=2) for i in range(2)]
    joined = [{name: np.concatenate([a[name], b[name]]) for name in a} for a, b in zip(*parts, strict=True)]
    assert same(evaluate(packing='isolate'), joined)


def test_evaluation_limit_counts_the_first_targets():
    for limit in (1, 13, 40, 41):
        fields = evaluate(limit_tokens=limit)
        counted = np.concatenate([batch['targets'][batch['weights'] == 1] for batch in fields])
        assert counted.tolist() == list(range(1, limit + 1))
        assert len(fields) == -(-limit // (CONTEXT * BATCH))
        assert len(fields) == evaluation_steps(TOKENS, context=CONTEXT, batch=BATCH, limit_tokens=limit)
    assert same(evaluate(limit_tokens=10**9), evaluate())


def test_isolated_evaluation_leaves_out_targets_across_documents():
    fields = evaluate(packing='isolate')
    counted = np.concatenate([batch['targets'][batch['weights'] == 1] for batch in fields])
    assert sorted(counted.tolist()) == [i for i in range(1, len(TOKENS)) if i % 7]


def test_evaluation_refuses():
    with pytest.raises(UserError, match='1 tokens are too few'):
        evaluate(numbered(1))
    with pytest.raises(UserError, match='limit_tokens: must be 0'):
        evaluate(limit_tokens=-1)
    with pytest.raises(UserError, match='8 rows cannot be divided among 3'):
        evaluate(process_count=3)


def test_repeats():
    assert repeats(numbered(101), 250) == 2.5


def test_reading_ahead_stops_with_the_iterator():
    import gc
    import threading
    import time

    before = threading.active_count()
    iterator = batches(TOKENS, fingerprint='f', context=CONTEXT, batch=BATCH, seed=0, packing='isolate')
    next(iterator)
    assert threading.active_count() > before
    del iterator
    for _ in range(100):
        gc.collect()
        if threading.active_count() == before:
            return
        time.sleep(0.02)
    raise AssertionError(threading.enumerate())
