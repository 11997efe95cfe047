"""Search space: pruned by memory, the fastest candidates first."""

import functools

import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.preflight.search import apply_changes, rank_candidates
from gpt_jax.preflight.topology import parse_machine


@functools.cache
def rank(config, topology):
    return rank_candidates(config, parse_machine(topology))


@pytest.fixture
def small(settings):
    """A model of which every device has room for all weights."""
    fields = {'model.layers': 1, 'model.width': 1024, 'model.vocab_size': 1000}
    return settings(fields | {'train.batch_size': 32})


def test_a_small_model_fits_with_every_strategy(small):
    candidates, pruned = rank(small, 'v5e:4x4')
    changes = [candidate.changes for candidate in candidates]
    assert {each['mesh.strategy'] for each in changes} == {'replicated', 'zero1', 'fsdp'}
    assert {each['mesh.tensor'] for each in changes} == {1, 2, 4}  # the model has four heads
    assert pruned
    assert {each['model.remat'] for each in changes} == {'none', 'dots', 'block'}
    without_tensor = [each for each in changes if each['mesh.tensor'] == 1]
    assert {each['train.microbatch_size'] for each in without_tensor} == {1, 2}
    seconds = [candidate.seconds for candidate in candidates]
    assert seconds == sorted(seconds)
    assert changes[0]['model.remat'] == 'none'


def test_candidates_that_cannot_fit_are_pruned(settings):
    """Weights and moments of 1.6 billion parameters alone exceed the memory of a v5e."""
    shape = {'model.width': 4096, 'model.layers': 8, 'model.vocab_size': 1000}
    large = settings(shape | {'model.scan_layers': True, 'train.batch_size': 16})
    candidates, pruned = rank(large, 'v5e:4x4')
    assert candidates
    assert pruned
    unsharded = {'mesh.strategy': 'replicated', 'mesh.tensor': 1}
    assert not any(unsharded.items() <= each.changes.items() for each in candidates)
    assert any(each.changes['mesh.tensor'] >= 2 for each in candidates)
    memory_bytes = parse_machine('v5e:4x4').chip.memory_bytes
    assert all(each.bytes < memory_bytes for each in candidates)


def test_changes_are_checked(settings):
    with pytest.raises(UserError, match=r'model\.remat'):
        apply_changes(settings(), {'model.remat': 'all'})


def test_tensor_parallel_devices_hold_their_share_of_the_state(small):
    """With several microbatches, the sum of gradients comes on top."""
    candidates, _ = rank(small, 'v5e:4x4')
    fields = {'mesh.strategy': 'replicated', 'model.remat': 'none', 'train.microbatch_size': 2}
    one, four = (
        next(
            each
            for each in candidates
            if (fields | {'mesh.tensor': tensor}).items() <= each.changes.items()
        )
        for tensor in (1, 4)
    )
    assert one.bytes / 4 <= four.bytes < one.bytes / 3
