"""Does every layout compute what transformers computes of the same weights? Against numbers that are kept in golden/.

tests/interop/test_transformers.py asks transformers itself, where it is installed.
"""

import numpy as np
import pytest

from gpt_jax.interop import huggingface, layouts, tensors
from tests.interop import golden, small_models
from tests.interop.small_models import EXAMPLES

WITHIN = 2e-5  # float32, of logits up to 15; 6e-7 to 9e-6 are reached


# Those whose backward pass has a part that no other here has; test_transformers.py compares all gradients of all.
SLOPES = ('gpt2', 'openai-gpt', 'llama3', 'mixtral', 'qwen2', 'qwen3')


@pytest.fixture(scope='module', params=EXAMPLES)
def example(request, tmp_path_factory):
    """(name, what is kept, the folder made of it, ours)."""
    kept, folder = golden.read(request.param), tmp_path_factory.mktemp('there')
    return request.param, kept, folder, small_models.read(small_models.write(folder, kept['config'], kept['shapes']))


def test_logits_and_gradients(example):
    name, kept, _, ours = example
    if name in SLOPES:
        logits, gradients = small_models.computed(ours, small_models.tokens())
        assert gradients.keys() == kept['slopes'].keys() == kept['shapes'].keys()
    else:
        logits, gradients = small_models.logits(ours, small_models.tokens()), {}
    assert np.std(logits) > 0.5
    assert np.abs(logits - kept['logits']).max() <= WITHIN
    for one, gradient in gradients.items():
        slope = np.sum(gradient * small_models.direction(one, gradient.shape))
        assert slope == pytest.approx(kept['slopes'][one], rel=WITHIN, abs=WITHIN), one


def test_what_came_in_goes_out_byte_for_byte(example, tmp_path):
    _, _, folder, ours = example
    huggingface.write(
        tmp_path / 'out', ours.model, ours.weight, ours.letters, tokens=ours.source.tokens, dtype='float32', extra={},
        shard_bytes=9000,
    )  # fmt: skip
    there, back = tensors.find(folder), tensors.find(tmp_path / 'out')
    assert back.where.keys() == there.where.keys()
    for one in there.where:
        assert back.raw(one).tobytes() == there.raw(one).tobytes(), one
    again = huggingface.read(str(tmp_path / 'out'))
    assert small_models.section(again) == ours.model
    load = huggingface.params(again, ours.letters, ours.model.dims)
    for path in ours.letters:
        assert load(path).tobytes() == ours.weight(path).tobytes()


def test_every_weight_has_a_place_in_the_table(example):
    _, kept, _, ours = example
    pieces = list(layouts.pieces(layouts.LAYOUTS[ours.source.kind], ours.letters, ours.model.dims))
    assert {piece.name: list(layouts.shape(piece, ours.model.dims)) for piece in pieces} == kept['shapes']
    assert {path for piece in pieces for path in piece.paths} == ours.letters.keys()
