"""Do adapters that PEFT made compute here what they compute there, and ours there what they compute here?

pytest -n 0 -s tests/interop/test_peft.py -k folder
"""

import json
import warnings

import jax
import numpy as np
import pytest

from gpt_jax.finetune import lora
from gpt_jax.interop import adapters, huggingface
from gpt_jax.model import loss as losses
from gpt_jax.model.gpt import GPT, unstack
from gpt_jax.parallel import place
from tests.interop import golden, small_models
from tests.interop.test_adapters import made, read, write

torch = pytest.importorskip('torch', reason='compares with PyTorch')
transformers = pytest.importorskip('transformers', reason='compares with transformers')
peft = pytest.importorskip('peft', reason='compares with PEFT')
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

# What PEFT says of transformers' names, and of its own decisions.
pytestmark = [
    pytest.mark.filterwarnings(f'ignore:{text}')
    for text in (
        '`is_gradient_checkpointing` is deprecated',
        'Setting `save_embedding_layers`',
        'Could not find a config',
    )
]
SHARE = 2e-6  # of the largest logit: what transformers itself differs by from its float64
GPT2, LLAMA = ['c_attn', 'attn.c_proj', 'mlp.c_proj', 'c_fc'], ['q_proj', 'k_proj', 'v_proj', 'o_proj']
GATED = ['gate_proj', 'up_proj', 'down_proj']
# By name: the model, and what LoraConfig is called with.
FOLDERS = {
    'gpt2': ('gpt2', {'target_modules': GPT2, 'fan_in_fan_out': True, 'lora_alpha': 5}),
    'gpt2 layers': ('gpt2', {
        'target_modules': ['c_attn', 'c_fc'], 'fan_in_fan_out': True, 'layers_to_transform': [1], 'use_rslora': True,
    }),
    'openai-gpt': ('openai-gpt', {'target_modules': 'all-linear', 'fan_in_fan_out': True}),
    'llama': ('llama', {'target_modules': [*LLAMA, *GATED, 'embed_tokens', 'lm_head'], 'lora_alpha': 7}),
    'llama patterns': ('llama', {
        'target_modules': r'.*\.(q_proj|up_proj)', 'rank_pattern': {'up_proj': 2, 'layers.1.self_attn.q_proj': 6},
        'alpha_pattern': {r'^model\.layers\.0\.mlp\.up_proj': 12},
    }),
    'mistral': ('mistral', {'target_modules': 'all-linear', 'use_rslora': True}),
    'mixtral': ('mixtral', {'target_modules': LLAMA}),
    'qwen2': ('qwen2', {'target_modules': ['q_proj', 'v_proj'], 'lora_dropout': 0.3}),
    'qwen3 tied': ('qwen3', {'target_modules': ['q_proj', 'embed_tokens'], 'ensure_weight_tying': True}),
}  # fmt: skip


def theirs(name, path):
    """A model of transformers with adapters of some size on it, in evaluation."""
    kind, fields = FOLDERS[name]
    torch.manual_seed(0)
    model = peft.get_peft_model(
        golden.theirs(kind, path), peft.LoraConfig(**{'r': 4, 'task_type': 'CAUSAL_LM'} | fields)
    )
    with torch.no_grad():
        for one, value in model.named_parameters():
            if 'lora_' in one:
                value += 0.2 * torch.randn(value.shape)
    return model.eval()


def logits(ours, params):
    model = ours.model
    features = jax.jit(
        lambda p: GPT(model, place.ANYWHERE, train=False).apply(
            {'params': unstack(p, model.layers)}, small_models.tokens()
        )
    )(params)
    return np.asarray(losses.logits(features.x_BLD, features.w_VD, model))


@pytest.mark.parametrize('name', FOLDERS)
def test_a_folder_of_pefts_computes_the_same_here_and_goes_back_as_it_came(name, tmp_path):
    model = theirs(name, tmp_path / 'base')
    model.save_pretrained(tmp_path / 'there')
    ours = small_models.read(tmp_path / 'base')
    found = read(tmp_path / 'there', ours)
    got = logits(ours, lora.adapt(ours.params, found.pairs, found.scales))
    base = logits(ours, ours.params)
    back = write(tmp_path / 'back', ours, found, stabilized=FOLDERS[name][1].get('use_rslora', False))
    again = reloaded(tmp_path / 'base', back)
    single, double, returned = golden.logits(model), golden.logits(model.double()), golden.logits(again.double())
    largest = np.abs(double).max()
    error, own = (np.abs(one - double).max() / largest for one in (got, single))
    print(f'\n{name}: error in float32 {error:.1e} of the largest logit, that of PEFT {own:.1e}')
    assert np.abs(base - double).max() > 0.05 * largest
    assert error <= SHARE
    assert np.abs(returned - double).max() <= 1e-6 * largest
    one, other = (json.loads((folder / 'adapter_config.json').read_text()) for folder in (tmp_path / 'there', back))
    assert one['lora_dropout'] == other['lora_dropout']


def reloaded(base, folder):
    """PEFT's model of our folder; every tensor of it must have found its place."""
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='fan_in_fan_out is set to True but the target module is')
        return peft.PeftModel.from_pretrained(golden.load(base, 'float32'), folder).eval()


OURS = {
    'gpt2': ['all-linear'], 'gpt2_untied': ['all-linear', 'embedding', 'head'], 'llama3': ['all-linear', 'head'],
    'qwen3': ['all-linear', 'embedding'], 'mistral': ['query', 'blocks[1]/value'], 'mixtral': ['attention'],
}  # fmt: skip


@pytest.mark.parametrize('name', OURS)
def test_a_folder_of_ours_computes_the_same_there_merged_and_not(name, tmp_path):
    golden.theirs(name, tmp_path / 'base')
    ours = small_models.read(tmp_path / 'base')
    given = made(ours, OURS[name])
    model = reloaded(tmp_path / 'base', write(tmp_path / 'out', ours, given))
    double = golden.logits(model.double())
    largest = np.abs(double).max()
    got = logits(ours, lora.adapt(ours.params, given.pairs, given.scales))
    assert np.abs(got - double).max() <= SHARE * largest
    merged = ours._replace(params=lora.merge(ours.params, given.pairs, given.scales))
    huggingface.write(
        tmp_path / 'merged', ours.model, merged.weight, ours.letters, tokens={}, dtype='float32', extra={}
    )  # fmt: skip
    loaded = golden.load(tmp_path / 'merged', 'float64')
    assert np.abs(golden.logits(loaded) - double).max() <= SHARE * largest
    if name != 'qwen3':  # PEFT adds a tied weight's adapter to it twice
        expected = model.merge_and_unload().state_dict()
        for one, value in loaded.state_dict().items():
            np.testing.assert_allclose(value, expected[one], atol=1e-6, err_msg=one)


def test_gradients_are_torchs(tmp_path):
    """Of the mean loss by every factor, in float64 there."""
    model = theirs('llama', tmp_path / 'base')
    model.save_pretrained(tmp_path / 'there')
    ours = small_models.read(tmp_path / 'base')
    found = read(tmp_path / 'there', ours)
    tokens = small_models.tokens()

    def loss(pairs):
        z_BLV = small_models._logits(ours.model, lora.adapt(ours.params, pairs, found.scales), tokens)
        log_BLV = jax.nn.log_softmax(z_BLV[:, :-1])
        return -jax.numpy.mean(jax.numpy.take_along_axis(log_BLV, jax.numpy.asarray(tokens)[:, 1:, None], axis=-1))

    gradients = jax.tree.map(np.asarray, jax.jit(jax.grad(loss))(dict(found.pairs)))
    model = model.double()
    ids = torch.tensor(tokens, dtype=torch.long)
    model(input_ids=ids, labels=ids).loss.backward()
    expected = {one.removeprefix('base_model.model.').replace('.default', ''): value.grad.numpy()
                for one, value in model.named_parameters() if value.grad is not None}  # fmt: skip
    compared = 0
    from gpt_jax.interop.adapter_modules import modules

    for module in modules(ours.model, ours.letters, ours.model.dims):
        pair = gradients[module.piece.paths[0]]
        a, b = pair.a[module.piece.element], pair.b[module.piece.element]
        a, b = a.reshape(-1, a.shape[-1]), b.reshape(b.shape[0], -1)
        first, second = (b, a) if module.turned else (a.T, b.T)
        for end, value in zip(module.ends, (first, second), strict=True):
            wanted = expected[f'{module.name}.{end}']
            assert np.abs(wanted).max() > 1e-4
            np.testing.assert_allclose(value, wanted, atol=2e-5 * np.abs(wanted).max(), err_msg=module.name)
            compared += 1
    assert compared == len(expected) == 2 * (2 * 7 + 2)


def test_rounding_to_sixteen_bits_is_all_that_is_lost(tmp_path):
    golden.theirs('llama', tmp_path / 'base')
    ours = small_models.read(tmp_path / 'base')
    given = made(ours, ['query', 'down'])
    write(tmp_path / 'out', ours, given, dtype='bfloat16')
    model = peft.PeftModel.from_pretrained(golden.load(tmp_path / 'base', 'float32'), tmp_path / 'out').eval()
    back = read(tmp_path / 'out', ours)
    rounded = {
        p: jax.tree.map(lambda a: np.asarray(torch.tensor(a).bfloat16().float()), one) for p, one in given.pairs.items()
    }
    for path, pair in back.pairs.items():
        jax.tree.map(np.testing.assert_array_equal, pair, rounded[path])
    double = golden.logits(model.double())
    got = logits(ours, lora.adapt(ours.params, back.pairs, back.scales))
    assert np.abs(got - double).max() <= SHARE * np.abs(double).max()
    assert adapters.TENSORS == 'adapter_model.safetensors'
