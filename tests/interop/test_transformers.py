"""Do imported models compute what transformers computes, and does transformers load what is exported?

The same weights on both sides, large enough that every part matters (small_models.py). What is reached in float32, and
what transformers reaches in it, as a share of the largest logit:

    pytest -n 0 -s -k float64 tests/interop/test_transformers.py
"""

import numpy as np
import pytest

from gpt_jax.data import tokenizer
from gpt_jax.interop import huggingface, tensors, tokenizer_files
from tests.interop import golden, small_models
from tests.interop.small_models import EXAMPLES

torch = pytest.importorskip('torch', reason='compares with PyTorch')
transformers = pytest.importorskip('transformers', reason='compares with transformers')
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

SHARE = 2e-6  # of the largest logit
WITHIN = 2e-5  # where something else is compared by it: of 1, or of the largest number above


@pytest.mark.parametrize('name', EXAMPLES)
def test_float32_float64_and_gradients(name, tmp_path):
    theirs = golden.theirs(name, tmp_path / 'there')
    ours = small_models.read(tmp_path / 'there')
    logits, gradients = small_models.computed(ours, small_models.tokens())
    single, double = golden.logits(theirs), golden.logits(theirs.double())
    largest = np.abs(double).max()
    error, own = (np.abs(one - double).max() / largest for one in (logits, single))
    print(f'\n{name}: logits of up to {largest:.1f}; error in float32 {error:.1e}, that of transformers {own:.1e}')
    assert error <= SHARE
    assert error <= 5 * own
    expected = golden.gradients(theirs, tmp_path / 'gradients')
    assert gradients.keys() == expected.keys()
    for one, gradient in gradients.items():
        assert np.abs(gradient - expected[one]).max() <= WITHIN * max(1, np.abs(expected[one]).max()), one


@pytest.mark.parametrize('name', EXAMPLES)
def test_what_is_kept_for_other_machines_is_what_transformers_says(name, tmp_path):
    kept, theirs = golden.read(name), golden.theirs(name, tmp_path)
    assert np.abs(golden.logits(theirs.double()) - kept['logits']).max() <= 1e-6
    found = tensors.find(tmp_path)
    assert {one: list(found.shape(one)) for one in found.where} == kept['shapes']


@pytest.mark.parametrize('name', EXAMPLES)
def test_transformers_loads_what_is_exported(name, tmp_path):
    kept = golden.read(name)
    ours = small_models.read(small_models.write(tmp_path / 'in', kept['config'], kept['shapes']))
    huggingface.write(
        tmp_path / 'out', ours.model, ours.weight, ours.letters, tokens={'eos_token_id': 3}, dtype='float32',
        extra=tokenizer_files.made(tokenizer.make('bytes', list), 16), shard_bytes=9000,
    )  # fmt: skip
    loaded, about = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / 'out', experts_implementation='eager', output_loading_info=True
    )
    assert not any(about[kind] for kind in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
    assert loaded.config.eos_token_id == 3
    assert loaded.dtype == torch.float32
    assert np.abs(golden.logits(loaded.eval().double()) - kept['logits']).max() <= WITHIN
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / 'out')('é')['input_ids'] == [0xC3, 0xA9]


@pytest.mark.parametrize('name', ['gpt2', 'qwen3', 'mixtral'])
def test_bfloat16_comes_in_exactly_and_computes_within_its_rounding(name, tmp_path):
    golden.theirs(name, tmp_path / 'single').to(torch.bfloat16).save_pretrained(tmp_path / 'half')
    exact, rounded = (golden.logits(golden.load(tmp_path / 'half', dtype)) for dtype in ('float64', 'bfloat16'))
    ours = small_models.read(tmp_path / 'half')
    logits = small_models.logits(ours, small_models.tokens())
    assert np.abs(logits - exact).max() <= WITHIN  # the same weights, computed in float32
    low = small_models.read(tmp_path / 'half', activation_dtype='bfloat16', matmul_dtype='bfloat16')
    logits = small_models.logits(low, small_models.tokens())
    allowed = 2 * np.sqrt(np.mean((rounded - exact) ** 2))
    assert 1e-3 < np.sqrt(np.mean((logits - exact) ** 2)) <= allowed
    huggingface.write(
        tmp_path / 'out', ours.model, ours.weight, ours.letters, tokens={}, dtype='bfloat16', extra={}
    )  # fmt: skip
    there, back = tensors.find(tmp_path / 'half'), tensors.find(tmp_path / 'out')
    for one in there.where:
        assert back.raw(one).tobytes() == there.raw(one).tobytes()


def test_a_trained_tokenizer_gives_transformers_the_same_ids(tmp_path):
    text = ["The cat sat on the mat, and the other cat didn't.\n", 'def f(x):\n    return x + 1  # é\n'] * 20
    for made in (tokenizer.train(text, 290), tokenizer.make('bytes', list)):
        folder = tmp_path / str(made.vocab_size)
        tokenizer_files.write(folder, tokenizer_files.made(made, 64))
        (folder / 'config.json').write_text('{"model_type": "gpt2"}')
        loaded = transformers.AutoTokenizer.from_pretrained(folder)
        assert loaded.eos_token_id == loaded.bos_token_id == made.end_of_document
        assert (len(loaded), loaded.model_max_length) == (made.vocab_size, 64)
        for one in (*text[:2], '', 'é 的 \U0001f600 ÿ\x00\xad', '   a  b\n\n', 'x' * 3000):
            assert loaded(one)['input_ids'] == made.encode(one).tolist()
            assert loaded.decode(made.encode(one)) == one
