"""Adapters compute the same in PEFT and here, in both directions.

Prints the errors: pytest -n 0 -s tests/interop/test_peft_parity.py -k folder
"""

import dataclasses
import json
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.finetune import lora
from gpt_jax.inference import pretrained
from gpt_jax.interop import huggingface, peft_config
from gpt_jax.interop import peft as peft_module
from tests import peers
from tests.interop import golden, small_models
from tests.interop.test_peft import RANK, make_adapters, read_adapters, write_adapters

torch = peers.find_or_skip('torch', 'compares with PyTorch')
transformers = peers.find_or_skip('transformers', 'compares with transformers')
peft = peers.find_or_skip('peft', 'compares with PEFT')

# Warnings of PEFT about names in transformers and about its own decisions.
pytestmark = [
    pytest.mark.filterwarnings(f'ignore:{text}')
    for text in (
        '`is_gradient_checkpointing` is deprecated',
        'Setting `save_embedding_layers`',
        'Could not find a config',
    )
]
TOLERANCE = 2e-6  # of the largest logit, the error of transformers itself
GPT2, LLAMA = (
    ['c_attn', 'attn.c_proj', 'mlp.c_proj', 'c_fc'],
    ['q_proj', 'k_proj', 'v_proj', 'o_proj'],
)
GATED = ['gate_proj', 'up_proj', 'down_proj']
# By name: the model, and the arguments of LoraConfig.
FOLDERS = {
    'gpt2': ('gpt2', {'target_modules': GPT2, 'fan_in_fan_out': True, 'lora_alpha': 5}),
    'gpt2 layers': (
        'gpt2',
        {
            'target_modules': ['c_attn', 'c_fc'],
            'fan_in_fan_out': True,
            'layers_to_transform': [1],
            'use_rslora': True,
        },
    ),
    'openai-gpt': ('openai-gpt', {'target_modules': 'all-linear', 'fan_in_fan_out': True}),
    'gpt_neox': ('gpt_neox', {'target_modules': ['query_key_value', 'dense', 'dense_h_to_4h']}),
    'opt': ('opt', {'target_modules': ['q_proj', 'v_proj', 'fc1'], 'lora_dropout': 0.3}),
    'gemma2': (
        'gemma2',
        {'target_modules': [*LLAMA, *GATED, 'embed_tokens'], 'ensure_weight_tying': True},
    ),
    'llama': (
        'llama',
        {'target_modules': [*LLAMA, *GATED, 'embed_tokens', 'lm_head'], 'lora_alpha': 7},
    ),
    'llama patterns': (
        'llama',
        {
            'target_modules': r'.*\.(q_proj|up_proj)',
            'rank_pattern': {'up_proj': 2, 'layers.1.self_attn.q_proj': 6},
            'alpha_pattern': {r'^model\.layers\.0\.mlp\.up_proj': 12},
        },
    ),
    'mixtral': ('mixtral', {'target_modules': LLAMA}),
    'qwen2': ('qwen2', {'target_modules': ['q_proj', 'v_proj'], 'lora_dropout': 0.3}),
    'qwen3 tied': (
        'qwen3',
        {'target_modules': [*LLAMA, *GATED, 'embed_tokens'], 'ensure_weight_tying': True},
    ),
    'mistral': ('mistral', {'target_modules': 'all-linear', 'use_rslora': True}),
}
# As 'llama' with the scale of 'gpt2 layers', 'llama' with fewer targets, and 'gemma2'.
SLOW_FOLDERS = ('mistral', 'qwen2', 'qwen3 tied')


def make_peft_model(name, path):
    """Return (model of transformers with random adapters, its logits without them)."""
    example, fields = FOLDERS[name]
    torch.manual_seed(0)
    model = golden.make_example(example, path)
    logits = golden.compute_logits(model)
    # The rank of `make_adapters`, so that models with the same targets share a program.
    fields = {'r': RANK, 'task_type': 'CAUSAL_LM'} | fields
    model = peft.get_peft_model(model, peft.LoraConfig(**fields))
    with torch.no_grad():
        for parameter, value in model.named_parameters():
            if 'lora_' in parameter:
                value += 0.2 * torch.randn(value.shape)
    return model.eval(), logits


@pytest.mark.filterwarnings('ignore:Model has `tie_word_embeddings=True`')
@pytest.mark.parametrize(
    ('example', 'saved', 'message'),
    [
        ('llama', ['lm_head', 'norm', 'embed_tokens', 'down_proj'], ''),
        ('gpt2', ['ln_f', 'c_attn'], ''),
        ('gpt2', ['lm_head'], 'they are one weight in this model'),
    ],
)
def test_whole_modules_of_a_folder_replace_those_of_the_model(example, saved, message, tmp_path):
    torch.manual_seed(0)
    model = golden.make_example(example, tmp_path / 'base')
    config = peft.LoraConfig(
        r=RANK,
        task_type='CAUSAL_LM',
        target_modules=['c_fc'] if example == 'gpt2' else ['q_proj'],
        fan_in_fan_out=example == 'gpt2',
        modules_to_save=saved,
    )
    model = peft.get_peft_model(model, config)
    with torch.no_grad():
        for parameter, value in model.named_parameters():
            if 'lora_' in parameter or 'modules_to_save' in parameter:
                value += 0.2 * torch.randn(value.shape)
    model.save_pretrained(tmp_path / 'theirs')
    ours = small_models.import_model(tmp_path / 'base')
    if message:
        with pytest.raises(UserError, match=message):
            read_adapters(tmp_path / 'theirs', ours)
        return
    adapters = read_adapters(tmp_path / 'theirs', ours)
    params = jax.tree.map(jax.numpy.asarray, ours.params)
    params = pretrained.replace_weights(params, adapters.saved)
    logits = compute_logits(ours, lora.attach_adapters(params, adapters.pairs, adapters.scales))
    expected = golden.compute_logits(model.eval().double())
    assert np.abs(logits - expected).max() <= TOLERANCE * np.abs(expected).max()


def compute_logits(ours, params):
    return small_models.compute_logits(ours._replace(params=params), small_models.make_tokens())


@pytest.mark.parametrize(
    'name', [pytest.param(n, marks=pytest.mark.slow) if n in SLOW_FOLDERS else n for n in FOLDERS]
)
def test_adapters_of_peft_compute_the_same_here_and_back_in_peft(name, tmp_path):
    model, base = make_peft_model(name, tmp_path / 'base')
    model.save_pretrained(tmp_path / 'theirs')
    ours = small_models.import_model(tmp_path / 'base')
    adapters = read_adapters(tmp_path / 'theirs', ours)
    logits = compute_logits(
        ours, lora.attach_adapters(ours.params, adapters.pairs, adapters.scales)
    )
    exported = write_adapters(
        tmp_path / 'ours', ours, adapters, rank_stabilized=FOLDERS[name][1].get('use_rslora', False)
    )
    reloaded = load_peft_model(tmp_path / 'base', exported)
    single, double, returned = (
        golden.compute_logits(model),
        golden.compute_logits(model.double()),
        golden.compute_logits(reloaded.double()),
    )
    largest = np.abs(double).max()
    error, their_error = (np.abs(z - double).max() / largest for z in (logits, single))
    print(f'\n{name}: error {error:.1e} of the largest logit in float32, PEFT {their_error:.1e}')
    assert np.abs(base - double).max() > 0.05 * largest
    assert error <= TOLERANCE
    assert np.abs(returned - double).max() <= 1e-6 * largest
    their_config, our_config = (
        json.loads((folder / 'adapter_config.json').read_text())
        for folder in (tmp_path / 'theirs', exported)
    )
    assert their_config['lora_dropout'] == our_config['lora_dropout']


def load_peft_model(base, folder):
    """PEFT's model of our folder; warns if a tensor has no place."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            'ignore', message='fan_in_fan_out is set to True but the target module is'
        )
        return peft.PeftModel.from_pretrained(golden.load_model(base, 'float32'), folder).eval()


OURS = {
    'gpt2': ['all-linear'],
    'gpt2_untied': ['all-linear', 'embedding', 'head'],
    'llama3': ['all-linear', 'head'],
    'qwen3': ['all-linear', 'embedding'],
    'mistral': ['query', 'blocks[1]/value'],
    'mixtral': ['attention'],
}


# 'gpt2_untied' adapts all that 'gpt2' does.
@pytest.mark.parametrize(
    'name', [pytest.param(n, marks=pytest.mark.slow) if n == 'gpt2' else n for n in OURS]
)
def test_our_adapters_compute_the_same_in_peft_merged_and_unmerged(name, tmp_path):
    golden.make_example(name, tmp_path / 'base')
    ours = small_models.import_model(tmp_path / 'base')
    given = make_adapters(ours, OURS[name])
    model = load_peft_model(tmp_path / 'base', write_adapters(tmp_path / 'out', ours, given))
    double = golden.compute_logits(model.double())
    largest = np.abs(double).max()
    logits = compute_logits(ours, lora.attach_adapters(ours.params, given.pairs, given.scales))
    assert np.abs(logits - double).max() <= TOLERANCE * largest
    merged = ours._replace(params=lora.merge_adapters(ours.params, given.pairs, given.scales))
    huggingface.write_model_folder(
        tmp_path / 'merged',
        ours.config,
        merged.read_weight,
        ours.letters,
        special_ids={},
        dtype='float32',
        extra={},
    )
    loaded = golden.load_model(tmp_path / 'merged', 'float64')
    assert np.abs(golden.compute_logits(loaded) - double).max() <= TOLERANCE * largest
    if name != 'qwen3':  # PEFT adds a tied weight's adapter to it twice
        expected = model.merge_and_unload().state_dict()
        for tensor, value in loaded.state_dict().items():
            np.testing.assert_allclose(value, expected[tensor], atol=1e-6, err_msg=tensor)


def test_gradients_equal_those_of_torch(tmp_path):
    """Of the mean loss by every factor; those of torch in float64."""
    model, _ = make_peft_model('llama', tmp_path / 'base')
    model.save_pretrained(tmp_path / 'theirs')
    ours = small_models.import_model(tmp_path / 'base')
    adapters = read_adapters(tmp_path / 'theirs', ours)
    tokens = small_models.make_tokens()

    def loss(pairs):
        params = lora.attach_adapters(ours.params, pairs, adapters.scales)
        z_BLV = small_models.apply_model(ours.config, params, tokens)
        return small_models.mean_loss(z_BLV, tokens)

    gradients = jax.tree.map(np.asarray, jax.jit(jax.grad(loss))(dict(adapters.pairs)))
    model = model.double()
    ids = torch.tensor(tokens, dtype=torch.long)
    model(input_ids=ids, labels=ids).loss.backward()
    expected = {
        name.removeprefix('base_model.model.').replace('.default', ''): value.grad.numpy()
        for name, value in model.named_parameters()
        if value.grad is not None
    }
    compared = 0
    for module in peft_module.list_modules(ours.config, ours.letters, ours.config.dims):
        pair = gradients[module.matrix.paths[0]]
        a, b = pair.a[module.matrix.element], pair.b[module.matrix.element]
        a, b = a.reshape(-1, a.shape[-1]), b.reshape(b.shape[0], -1)
        first, second = (b, a) if module.is_transposed else (a.T, b.T)
        for suffix, value in zip(module.suffixes, (first, second), strict=True):
            gradient = expected[f'{module.name}.{suffix}']
            scale = np.abs(gradient).max()
            assert scale > 1e-4
            np.testing.assert_allclose(value, gradient, atol=2e-5 * scale, err_msg=module.name)
            compared += 1
    assert compared == len(expected) == 2 * (2 * 7 + 2)


def test_bfloat16_export_only_rounds(tmp_path):
    golden.make_example('llama', tmp_path / 'base')
    ours = small_models.import_model(tmp_path / 'base')
    given = make_adapters(ours, ['query', 'down'])
    write_adapters(tmp_path / 'out', ours, given, dtype='bfloat16')
    model = peft.PeftModel.from_pretrained(
        golden.load_model(tmp_path / 'base', 'float32'), tmp_path / 'out'
    ).eval()
    imported = read_adapters(tmp_path / 'out', ours)
    rounded = {
        path: jax.tree.map(lambda a: np.asarray(torch.tensor(a).bfloat16().float()), pair)
        for path, pair in given.pairs.items()
    }
    for path, pair in imported.pairs.items():
        jax.tree.map(np.testing.assert_array_equal, pair, rounded[path])
    double = golden.compute_logits(model.double())
    logits = compute_logits(
        ours, lora.attach_adapters(ours.params, imported.pairs, imported.scales)
    )
    assert np.abs(logits - double).max() <= TOLERANCE * np.abs(double).max()
    assert peft_module.ADAPTER_FILE == 'adapter_model.safetensors'


def test_every_field_of_the_class_of_peft_is_known():
    """Others are ignored there too, and named."""
    fields = {field.name: None for field in dataclasses.fields(peft.LoraConfig)}
    values = fields | {key: kinds[0] for key, kinds in peft_config.FIXED_FIELDS.items()}
    values |= {'r': 8, 'lora_alpha': 8, 'lora_dropout': 0.0, 'use_rslora': False}
    values |= {'rank_pattern': {}, 'alpha_pattern': {}, 'ensure_weight_tying': False}
    path = Path('adapter_config.json')
    assert peft_config.read_adapter_config(path, values).unknown_fields == ()
    values |= {'my_lab': 'yes', 'later': None}
    assert peft_config.read_adapter_config(path, values).unknown_fields == ('later', 'my_lab')
