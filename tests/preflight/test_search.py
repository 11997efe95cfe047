"""Are meshes, rematerialization and microbatches pruned by memory, and the likely fastest tried first?"""

import pytest

from gpt_jax.errors import UserError
from gpt_jax.preflight.search import apply, candidates
from gpt_jax.preflight.topology import machine


def tried(settings, word, **fields):
    found, pruned = candidates(settings({'train.batch': 64, 'model.vocab_size': 1000} | fields), machine(word))
    return found, pruned


def test_a_small_model_may_be_had_every_way(settings):
    found, pruned = tried(settings, 'v5e:4x4')
    assert {each.changes['mesh.strategy'] for each in found} == {'replicated', 'zero1', 'fsdp'}
    assert {each.changes['mesh.tensor'] for each in found} == {1, 2, 4}  # it has four heads
    assert pruned
    assert {each.changes['model.remat'] for each in found} == {'none', 'dots', 'block'}
    assert {each.changes['train.microbatch'] for each in found if each.changes['mesh.tensor'] == 1} == {1, 2, 4}
    assert [each.seconds for each in found] == sorted(each.seconds for each in found)
    assert found[0].changes['model.remat'] == 'none'


def test_what_cannot_fit_is_not_compiled(settings):
    """Weights and moments of 1.6 billion parameters alone are more than a v5e holds."""
    found, pruned = tried(settings, 'v5e:4x4', **{'model.width': 4096, 'model.layers': 8})
    assert found
    assert pruned
    whole = {'mesh.strategy': 'replicated', 'mesh.tensor': 1}
    assert not any(whole.items() <= each.changes.items() for each in found)
    assert any(each.changes['mesh.tensor'] >= 2 for each in found)
    assert all(each.bytes < machine('v5e:4x4').chip.memory for each in found)


def test_changes_are_checked(settings):
    with pytest.raises(UserError, match=r'model\.remat'):
        apply(settings(), {'model.remat': 'all'})


def test_devices_that_share_tensors_hold_their_share_of_all(settings):
    found, _ = tried(settings, 'v5e:4x4', **{'model.width': 1024})
    one, four = (
        next(
            each for each in found
            if each.changes['mesh.strategy'] == 'replicated' and each.changes['mesh.tensor'] == tensor
            and each.changes['model.remat'] == 'none' and each.changes['train.microbatch'] == 4
        )
        for tensor in (1, 4)
    )  # fmt: skip
    assert one.bytes / 4 <= four.bytes < one.bytes / 3  # with microbatches, the sum of gradients comes on top
