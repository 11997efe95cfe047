"""Imported models compute what transformers computes, and transformers loads exported models.

The weights are large enough that every part matters (small_models.py). Prints the errors in float32
of ours and of transformers relative to the largest logit:

    pytest -n 0 -s -k float64 tests/interop/test_transformers.py
"""

import numpy as np
import pytest

from gpt_jax.data import tokenizer
from gpt_jax.interop import huggingface, safetensors_files, tokenizer_files
from tests import peers
from tests.interop import golden, small_models
from tests.interop.small_models import EXAMPLES, GRADIENT_EXAMPLES

torch = peers.find_or_skip('torch', 'compares with PyTorch')
transformers = peers.find_or_skip('transformers', 'compares with transformers')

RELATIVE_TOLERANCE = 2e-6  # of the largest logit
TOLERANCE = 2e-5  # otherwise; relative to the largest value above 1


@pytest.mark.parametrize('name', EXAMPLES)
def test_float32_errors_and_golden_results(name, tmp_path):
    theirs = golden.make_example(name, tmp_path)
    ours = small_models.import_model(tmp_path)
    logits = compute_logits(name, ours)
    single, double = golden.compute_logits(theirs), golden.compute_logits(theirs.double())
    largest = np.abs(double).max()
    error, their_error = (np.abs(z - double).max() / largest for z in (logits, single))
    print(f'\n{name}: largest logit {largest:.1f}; error {error:.1e}, theirs {their_error:.1e}')
    assert error <= RELATIVE_TOLERANCE
    assert error <= 5 * their_error
    expected = golden.read_golden(name)
    assert np.abs(double - expected['logits']).max() <= 1e-6
    shapes = {name: list(shape) for name, shape in golden.list_shapes(tmp_path).items()}
    assert shapes == expected['shapes']


def compute_logits(name, ours):
    """Compute our logits of an example with a program that other tests need as well."""
    tokens = small_models.make_tokens()
    if name in GRADIENT_EXAMPLES:
        return small_models.compute_gradients(ours, tokens)[0]
    return small_models.compute_logits(ours, tokens)


@pytest.mark.parametrize(
    'name',
    [
        name if name in GRADIENT_EXAMPLES else pytest.param(name, marks=pytest.mark.slow)
        for name in EXAMPLES
    ],
)
def test_gradients(name, tmp_path):
    theirs = golden.make_example(name, tmp_path / 'theirs').double()
    ours = small_models.import_model(tmp_path / 'theirs')
    _, gradients = small_models.compute_gradients(ours, small_models.make_tokens())
    expected = golden.compute_gradients(theirs, tmp_path / 'gradients')
    assert gradients.keys() == expected.keys()
    for tensor, gradient in gradients.items():
        scale = max(1, np.abs(expected[tensor]).max())
        assert np.abs(gradient - expected[tensor]).max() <= TOLERANCE * scale, tensor


@pytest.mark.parametrize('name', EXAMPLES)
def test_transformers_loads_exported_models(name, tmp_path):
    expected = golden.read_golden(name)
    small_models.write_folder(tmp_path / 'in', expected['config'], expected['shapes'])
    ours = small_models.import_model(tmp_path / 'in')
    huggingface.write_model_folder(
        tmp_path / 'out',
        ours.config,
        ours.read_weight,
        ours.letters,
        special_ids={'eos_token_id': 3},
        dtype='float32',
        extra=tokenizer_files.make_files(tokenizer.make_tokenizer('bytes', list), 16),
        shard_bytes=9000,
    )
    loaded, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / 'out', experts_implementation='eager', output_loading_info=True
    )
    assert not any(info[key] for key in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
    assert loaded.config.eos_token_id == 3
    assert loaded.dtype == torch.float32
    assert (
        np.abs(golden.compute_logits(loaded.eval().double()) - expected['logits']).max()
        <= TOLERANCE
    )
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / 'out')('é')['input_ids'] == [
        0xC3,
        0xA9,
    ]


@pytest.mark.parametrize(
    'name',
    [
        'gpt2',
        'mixtral',
        *(pytest.param(name, marks=pytest.mark.slow) for name in ('qwen3', 'gemma2', 'gpt_neox')),
    ],
)
def test_bfloat16_is_imported_exactly_and_computes_within_its_rounding(name, tmp_path):
    golden.make_example(name, tmp_path / 'single').to(torch.bfloat16).save_pretrained(
        tmp_path / 'half'
    )
    exact, rounded = (
        golden.compute_logits(golden.load_model(tmp_path / 'half', dtype))
        for dtype in ('float64', 'bfloat16')
    )
    ours = small_models.import_model(tmp_path / 'half')
    logits = compute_logits(name, ours)
    assert np.abs(logits - exact).max() <= TOLERANCE  # the same weights, computed in float32
    low = small_models.import_model(
        tmp_path / 'half', activation_dtype='bfloat16', matmul_dtype='bfloat16'
    )
    logits = small_models.compute_logits(low, small_models.make_tokens())
    allowed = 2 * np.sqrt(np.mean((rounded - exact) ** 2))
    assert 1e-3 < np.sqrt(np.mean((logits - exact) ** 2)) <= allowed
    huggingface.write_model_folder(
        tmp_path / 'out',
        ours.config,
        ours.read_weight,
        ours.letters,
        special_ids={},
        dtype='bfloat16',
        extra={},
    )
    original = safetensors_files.index_folder(tmp_path / 'half')
    exported = safetensors_files.index_folder(tmp_path / 'out')
    for tensor in original.entries:
        assert exported.map(tensor).tobytes() == original.map(tensor).tobytes()


def test_transformers_encodes_the_same_ids_with_exported_tokenizers(tmp_path):
    corpus = [
        "The cat sat on the mat, and the other cat didn't.\n",
        'def f(x):\n    return x + 1  # é\n',
    ] * 20
    for original in (tokenizer.train_bpe(corpus, 290), tokenizer.make_tokenizer('bytes', list)):
        folder = tmp_path / str(original.vocab_size)
        tokenizer_files.write_files(folder, tokenizer_files.make_files(original, 64))
        (folder / 'config.json').write_text('{"model_type": "gpt2"}')
        loaded = transformers.AutoTokenizer.from_pretrained(folder)
        assert loaded.eos_token_id == loaded.bos_token_id == original.end_of_document
        assert (len(loaded), loaded.model_max_length) == (original.vocab_size, 64)
        for text in (*corpus[:2], '', 'é 的 \U0001f600 ÿ\x00\xad', '   a  b\n\n', 'x' * 3000):
            assert loaded(text)['input_ids'] == original.encode(text).tolist()
            assert loaded.decode(original.encode(text)) == text
