"""What crosses between devices in a step? Read in the compiled program: these collectives on these bytes alone."""

from collections import Counter

import jax
import pytest

from gpt_jax import assemble
from gpt_jax.compiled.collectives import collectives
from gpt_jax.compiled.text import parse
from gpt_jax.model import weights

BATCH, LENGTH, WIDTH, LAYERS, HEADS, FLOAT = 8, 16, 32, 2, 8, 4
STREAM = BATCH * LENGTH * WIDTH * FLOAT  # the residual stream of the whole batch
SMALL = {'model.heads': HEADS, 'model.vocab_multiple': 8, 'model.scan_layers': True}
SCALARS = 64  # bytes; losses and norms


def compiled(settings, fields):
    """Every collective of the step but those of a few scalars, and the abstract params by their letters."""
    s = settings(SMALL | fields)
    program = assemble.build(s)
    text = program.step.lower(program.abstract_state, assemble.abstract_batch(s, program.mesh)).compile().as_text()
    return [one for one in collectives(parse(text)) if one.bytes > SCALARS], sizes(s)


def sizes(s):
    """Bytes of the weights by their letters."""
    boxed, found = assemble.declarations(s.model), Counter()
    pairs = zip(jax.tree.leaves(weights.unbox(boxed)), jax.tree.leaves(weights.letters(boxed)), strict=True)
    for leaf, letters in pairs:
        found[letters] += leaf.size * FLOAT
    return found


def by_kind(found):
    total = Counter()
    for one in found:
        total[one.kind] += one.bytes * one.times
    return dict(total)


def matrices(found):
    return sum(size for letters, size in found.items() if len(set(letters) - {'N', 'K'}) > 1 and 'D' in letters)


@pytest.mark.parametrize('fields', [{'mesh.data': 8}, {'mesh.slice': 2, 'mesh.data': 4}], ids=str)
def test_data_sums_the_gradients_once(settings, fields):
    (one,), there = compiled(settings, fields)
    assert (one.kind, one.times, one.group) == ('all-reduce', 1, 8)
    assert one.bytes == sum(there.values()) + 2 * FLOAT  # and the loss with its weight


def test_zero1_scatters_gradients_and_gathers_weights_once(settings):
    found, there = compiled(settings, {'mesh.data': 8, 'mesh.strategy': 'zero1'})
    spread = matrices(there)
    rest = pytest.approx(sum(there.values()) - spread, abs=64)
    assert by_kind(found) == {'all-gather': spread, 'reduce-scatter': spread, 'all-reduce': rest}
    assert all(one.times == 1 for one in found)


def test_fsdp_gathers_a_layer_at_a_time_and_again_for_the_way_back(settings):
    found, there = compiled(settings, {'mesh.data': 1, 'mesh.fsdp': 8, 'mesh.strategy': 'fsdp'})
    spread, rest = matrices(there), there['VD'] + there['LD']
    kinds = by_kind(found)
    assert kinds['all-gather'] == 2 * (spread - rest) + rest
    assert kinds['reduce-scatter'] == spread
    assert kinds['all-reduce'] == pytest.approx(sum(there.values()) - spread, abs=64)
    assert set(kinds) == {'all-gather', 'reduce-scatter', 'all-reduce'}
    assert max(one.bytes for one in found if one.times == LAYERS) == WIDTH * 4 * WIDTH * FLOAT  # one matrix


def test_tensor_moves_the_stream_and_never_a_weight(settings):
    found, there = compiled(settings, {'mesh.data': 1, 'mesh.tensor': 8})
    kinds = by_kind(found)
    # Two branches a layer, both ways; the head's, and the embedding's on the way back.
    assert kinds['all-gather'] == kinds['reduce-scatter'] == (4 * LAYERS + 2) * STREAM
    assert not [one for one in found if 'declare' in one.op_name]
    cut = sum(size for letters, size in there.items() if set(letters) & set('HGFV'))
    rows = 2 * BATCH * LENGTH * FLOAT  # the logits' normalizers, and the targets' logits
    top = BATCH * LENGTH * FLOAT
    assert kinds['all-reduce'] == pytest.approx(sum(there.values()) - cut + rows + top, abs=64)
    assert set(kinds) == {'all-gather', 'reduce-scatter', 'all-reduce'}


def test_a_ring_moves_keys_and_values_round_and_their_gradients_back(settings):
    found, there = compiled(settings, {'mesh.data': 2, 'mesh.context': 4})
    own = BATCH // 2 * LENGTH // 4 * WIDTH * FLOAT
    kinds = by_kind(found)
    assert kinds['collective-permute'] == LAYERS * own * (2 * 3 + 4 * 4)
    assert kinds['all-reduce'] == sum(there.values()) + 2 * FLOAT
    assert set(kinds) == {'collective-permute', 'all-reduce'}


def test_all_to_all_exchanges_heads_for_length(settings):
    found, there = compiled(settings, {'mesh.data': 2, 'mesh.context': 4, 'mesh.long': 'all_to_all'})
    own = BATCH // 2 * LENGTH // 4 * WIDTH * FLOAT
    kinds = by_kind(found)
    assert kinds['all-to-all'] == 2 * LAYERS * own * 4  # query, key, value and output, both ways
    assert set(kinds) == {'all-to-all', 'all-reduce'}
    assert kinds['all-reduce'] == sum(there.values()) + 2 * FLOAT


def test_a_pipeline_hands_on_one_microbatch_a_tick(settings):
    found, _ = compiled(settings, {'mesh.data': 4, 'mesh.pipeline': 2, 'train.microbatch': 1})
    kinds = by_kind(found)
    microbatches, stages, row = 2, 2, LENGTH * WIDTH * FLOAT
    assert kinds['collective-permute'] == 2 * (microbatches + stages - 1) * row
    rows = microbatches * row
    assert kinds['all-gather'] == kinds['reduce-scatter'] == 2 * rows  # into the stages and out, both ways
    assert set(kinds) == {'collective-permute', 'all-gather', 'reduce-scatter', 'all-reduce'}


def test_experts_with_a_capacity_send_rows_and_keep_weights(settings):
    fields = {'model.feedforward': 'experts', 'model.experts': 8, 'model.mlp_width': 16, 'model.capacity_factor': 1.0}
    found, there = compiled(settings, fields | {'mesh.data': 2, 'mesh.expert': 4})
    rows = -(-LENGTH * BATCH // 8 * 2 // 8) * 8  # of all experts: each its fair share of what two choices fill
    kinds = by_kind(found)
    # Rows and back, their weights, and the gradients of all three.
    assert kinds['all-to-all'] == LAYERS * 2 * rows * (2 * WIDTH + 1) * FLOAT
    assert {one.bytes for one in found if one.kind == 'all-gather'} == {WIDTH * 8 * FLOAT}  # the router
    assert set(kinds) == {'all-to-all', 'all-reduce', 'all-gather', 'reduce-scatter'}
    del there
