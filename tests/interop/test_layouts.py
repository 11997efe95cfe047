"""Every layout computes what transformers computes; its results are in golden/."""

import numpy as np
import pytest

from gpt_jax.interop import huggingface, layouts, safetensors_files, weight_mapping
from tests.interop import golden, small_models
from tests.interop.small_models import EXAMPLES, GRADIENT_EXAMPLES

TOLERANCE = 2e-5  # in float32, of logits up to 15; the errors are 6e-7 to 9e-6


@pytest.fixture(scope='module', params=EXAMPLES)
def example(request, tmp_path_factory):
    """(name, golden results, folder, imported model)."""
    expected, folder = golden.read_golden(request.param), tmp_path_factory.mktemp('folder')
    small_models.write_folder(folder, expected['config'], expected['shapes'])
    return request.param, expected, folder, small_models.import_model(folder)


def test_logits_and_gradients(example):
    name, expected, _, model = example
    tokens = small_models.make_tokens()
    if name in GRADIENT_EXAMPLES:
        logits, gradients = small_models.compute_gradients(model, tokens)
        assert gradients.keys() == expected['slopes'].keys() == expected['shapes'].keys()
    else:
        logits, gradients = small_models.compute_logits(model, tokens), {}
    assert np.std(logits) > 0.5
    assert np.abs(logits - expected['logits']).max() <= TOLERANCE
    for tensor, gradient in gradients.items():
        slope = np.sum(gradient * small_models.direction(tensor, gradient.shape))
        expected_slope = expected['slopes'][tensor]
        assert slope == pytest.approx(expected_slope, rel=TOLERANCE, abs=TOLERANCE), tensor


def test_export_of_an_import_is_byte_identical(example, tmp_path):
    _, _, folder, model = example
    huggingface.write_model_folder(
        tmp_path / 'out',
        model.config,
        model.read_weight,
        model.letters,
        special_ids=model.source.generation_fields,
        dtype='float32',
        extra={},
        shard_bytes=9000,
    )
    original = safetensors_files.index_folder(folder)
    exported = safetensors_files.index_folder(tmp_path / 'out')
    assert exported.entries.keys() == original.entries.keys()
    for tensor in original.entries:
        unused = 2 if tensor == 'model.decoder.embed_positions.weight' else 0
        assert exported.map(tensor)[unused:].tobytes() == original.map(tensor)[unused:].tobytes()
        assert not exported.map(tensor)[:unused].any()
    reimported = huggingface.read_folder(str(tmp_path / 'out'))
    assert small_models.make_model_config(reimported) == model.config
    read_weight = huggingface.make_weight_reader(reimported, model.letters, model.config.dims)
    for path in model.letters:
        assert read_weight(path).tobytes() == model.read_weight(path).tobytes()


def test_every_weight_has_a_mapping(example):
    _, expected, _, model = example
    layout, dims = layouts.LAYOUTS[model.source.model_type], model.config.dims
    tensors = list(weight_mapping.list_tensors(layout.mappings, model.letters, dims))
    shapes = {tensor.name: list(weight_mapping.tensor_shape(tensor, dims)) for tensor in tensors}
    assert shapes == expected['shapes']
    assert {path for tensor in tensors for path in tensor.paths} == model.letters.keys()
