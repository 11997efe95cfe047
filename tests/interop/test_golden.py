"""Does every layout compute what transformers computes of the same weights? Against numbers that are kept in golden/.

tests/interop/test_transformers.py asks transformers itself, where it is installed.
"""

import numpy as np
import pytest

from gpt_jax.interop import huggingface, layouts, tensors
from tests.interop import golden, small_models
from tests.interop.small_models import EXAMPLES

WITHIN = 2e-5  # float32, of logits up to 15; 1e-6 to 4e-6 are reached


def imported(name, folder):
    kept = golden.read(name)
    return kept, small_models.read(small_models.write(folder, kept['config'], kept['shapes']))


@pytest.mark.parametrize('name', EXAMPLES)
def test_logits_and_gradients(name, tmp_path):
    kept, ours = imported(name, tmp_path)
    logits, gradients = small_models.computed(ours, small_models.tokens())
    assert np.std(logits) > 0.5
    assert np.abs(logits - kept['logits']).max() <= WITHIN
    slopes = {one: np.sum(g * small_models.direction(one, g.shape)) for one, g in gradients.items()}
    assert slopes.keys() == kept['slopes'].keys() == kept['shapes'].keys()
    for one, slope in slopes.items():
        assert slope == pytest.approx(kept['slopes'][one], rel=WITHIN, abs=WITHIN), one


@pytest.mark.parametrize('name', EXAMPLES)
def test_what_came_in_goes_out_byte_for_byte(name, tmp_path):
    _, ours = imported(name, tmp_path / 'in')
    huggingface.write(
        tmp_path / 'out', ours.model, ours.weight, ours.letters, tokens=ours.source.tokens, dtype='float32', extra={},
        shard_bytes=9000,
    )  # fmt: skip
    there, back = tensors.find(tmp_path / 'in'), tensors.find(tmp_path / 'out')
    assert back.where.keys() == there.where.keys()
    for one in there.where:
        assert back.raw(one).tobytes() == there.raw(one).tobytes(), one
    again = small_models.read(tmp_path / 'out')
    assert again.model == ours.model
    for path, value in small_models.by_path(again.params).items():
        assert value.tobytes() == ours.weight(path).tobytes()


@pytest.mark.parametrize('name', EXAMPLES)
def test_every_weight_has_a_place_in_the_table(name, tmp_path):
    kept, ours = imported(name, tmp_path)
    pieces = list(layouts.pieces(layouts.LAYOUTS[ours.source.kind], ours.letters, ours.model.dims))
    assert {piece.name: list(layouts.shape(piece, ours.model.dims)) for piece in pieces} == kept['shapes']
    assert {path for piece in pieces for path in piece.paths} == ours.letters.keys()
