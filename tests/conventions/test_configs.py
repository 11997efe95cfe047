"""Every config builds, and its counts equal the real tree and the published totals."""

import dataclasses
import functools
import importlib
from pathlib import Path

import jax
import pytest

from gpt_jax.core import config_cli, model_counts, trees
from gpt_jax.core.config import parse_config, to_raw
from gpt_jax.interop import huggingface
from gpt_jax.model import weights
from gpt_jax.train import build

ROOT = Path(__file__).parents[2]
# Modules with shared values, and families with an argument.
SHARED = (
    '__init__',
    'gpt2',
    'gpt3',
    'finetune.__init__',
    'finetune.local',
    'finetune.published',
    'finetune.by_size',
)
FILES = {
    '.'.join(path.relative_to(ROOT / 'configs').with_suffix('').parts): path
    for path in (ROOT / 'configs').rglob('*.py')
}
CONFIGS = sorted(set(FILES) - set(SHARED))

# Brown et al. 2020, tables 2.1 and D.1, with two misprints corrected: (total, non-embedding,
# total without positions).
GPT3 = {
    'gpt_125m': (125_226_240, 85_056_000, 123_653_376),
    'gpt_350m': (355_871_744, 302_311_424, 353_774_592),
    'gpt_760m': (760_300_032, 679_959_552, 757_154_304),
    'gpt_1_3b': (1_315_723_264, 1_208_602_624, 1_311_528_960),
    'gpt_2_7b': (2_651_553_280, 2_517_652_480, 2_646_310_400),
    'gpt_6_7b': (6_658_404_352, 6_444_163_072, 6_650_015_744),
    'gpt_13b': (12_853_386_240, 12_585_584_640, 12_842_900_480),
    'gpt_175b': (174_604_259_328, 173_961_535_488, 174_579_093_504),
}

# Tensors of the published checkpoints, tied ones once: (all, used by one token). The papers round
# them: 117M, 124M (printed as 117M), 355M, 774M, 1542M, 1.23B (Meta's model card), 7.3B, 0.6B,
# "47B parameters, only 13B active".
PUBLISHED = {
    'gpt1': (116_534_784, 116_534_784),
    'gpt2_124m': (124_439_808, 124_439_808),
    'gpt2_355m': (354_823_168, 354_823_168),
    'gpt2_774m': (774_030_080, 774_030_080),
    'gpt2_1_5b': (1_557_611_200, 1_557_611_200),
    'llama_1b': (1_235_814_400, 1_235_814_400),
    'mistral_7b': (7_241_732_096, 7_241_732_096),
    'qwen3_0_6b': (596_049_920, 596_049_920),
    'mixtral_8x7b': (46_702_792_704, 12_879_925_248),
}


def load(name: str) -> dict:
    return to_raw(importlib.import_module(f'configs.{name}').get_config())


@functools.cache
def count_declared(model):
    """The elements of the real tree; many configs and trials have the same model."""
    return trees.count_elements(weights.unbox(build.declare_params(model)))


def select_extremes(models):
    """Return the smallest and the largest of the models that differ only in their numbers."""
    kinds = {}
    for model in models:
        kind = repr([v for v in dataclasses.astuple(model) if isinstance(v, (bool, str, tuple))])
        kinds.setdefault(kind, []).append((model_counts.parameters(model)['padded_total'], model))
    return [
        model
        for counted in kinds.values()
        for _, model in dict.fromkeys(find(counted, key=lambda c: c[0]) for find in (min, max))
    ]


@pytest.mark.parametrize('name', CONFIGS)
def test_config_builds_and_is_counted_right(name):
    config = load(name)
    each = [config, *config_cli.expand_trials(config).values()]
    models = dict.fromkeys(parse_config(one, vocab_size=256).model for one in each)
    for model in select_extremes(models):
        assert count_declared(model) == model_counts.parameters(model)['padded_total']


@pytest.mark.parametrize('name', GPT3)
def test_gpt3_totals(name):
    model = parse_config(load(name), vocab_size=1).model
    counts = model_counts.parameters(model)
    assert (counts['total'], counts['non_embedding'], counts['without_positions']) == GPT3[name]
    assert count_declared(model) == GPT3[name][0]


@pytest.mark.parametrize('name', PUBLISHED)
def test_totals_of_published_models(name):
    counts = model_counts.parameters(parse_config(load(name), vocab_size=1).model)
    assert (counts['total'], counts['active']) == PUBLISHED[name]


@pytest.mark.parametrize('name', PUBLISHED)
def test_transformers_counts_alike(name):
    """The same model in transformers, on a device without storage."""
    torch = pytest.importorskip('torch', reason='counts in PyTorch')
    transformers = pytest.importorskip('transformers', reason='knows the published models')
    model = parse_config(load(name), vocab_size=1).model
    theirs = huggingface.make_config_json(model, huggingface.select_layout(model), 'float32', {})
    with torch.device('meta'):
        made = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(**theirs), attn_implementation='eager'
        )
    made.tie_weights()
    assert (
        sum(weight.numel() for weight in made.parameters())
        == model_counts.parameters(model)['total']
    )


@pytest.mark.parametrize('name', GPT3)
def test_gpt3_spreads_its_weights_over_all_devices(name):
    mesh = load(name)['mesh']
    assert (mesh['strategy'], mesh['data'], mesh['fsdp']) == ('fsdp', 1, 0)


@pytest.mark.parametrize('name', CONFIGS)
def test_config_is_short(name):
    assert len(FILES[name].read_text().splitlines()) <= 30


def test_every_weight_has_a_role_and_letters():
    from gpt_jax.core.parametrization import PARAMETRIZATIONS

    model = parse_config(load('gpt_125m'), vocab_size=1).model
    boxed = build.declare_params(model)
    for letters, role, shape in zip(
        jax.tree.leaves(weights.logical_axes(boxed)),
        jax.tree.leaves(weights.param_roles(boxed)),
        jax.tree.leaves(weights.unbox(boxed)),
        strict=True,
    ):
        assert tuple(model.dims[letter] for letter in letters) == shape.shape
        assert all(role in table.rules for table in PARAMETRIZATIONS.values())
