"""Shapes near a size: spacing, architectures, and sizes below the smallest single plan."""

from pathlib import Path

import numpy as np
import pytest

from gpt_jax.core import config_cli, config_fields, model_counts
from gpt_jax.core.config import default_config, parse_config, to_raw
from gpt_jax.core.errors import UserError
from gpt_jax.scaling.plan import shapes
from gpt_jax.scaling.plan.shapes import (
    Architecture,
    Shape,
    ShapeFamily,
    find_shape,
    shapes_beyond,
    spread_shapes,
)

LARGE = ShapeFamily('without_positions', 2048, 50257, None, None)
SMALL = ShapeFamily('without_positions', 128, 256, 16, 2)


def sizes(spread, family):
    return np.array([family.count_size(shape) for shape in spread])


@pytest.mark.parametrize('params', [1e8, 1e9, 2e10])
def test_large_shapes_are_even_in_log_size_and_suit_the_hardware(params):
    spread = spread_shapes(params, 3.0, 5, LARGE)
    assert np.log(sizes(spread, LARGE) / params) == pytest.approx(
        np.linspace(-1, 1, 5) * np.log(3), abs=0.12
    )
    for shape in spread:
        assert shape.width // shape.heads in shapes.HEAD_DIMS
        assert shapes.ASPECT[0] * 0.9 <= shape.width / shape.layers <= shapes.ASPECT[1]


def test_a_small_head_dim_and_a_depth_give_widths_below_64():
    spread = spread_shapes(4e4, 4.0, 7, SMALL)
    assert spread[0].width == 16
    assert len(spread) == len(set(spread)) < 7  # two of the seven would be one
    assert all(
        shape.layers == 2 and shape.width % 16 == 0 and shape.heads == shape.width // 16
        for shape in spread
    )
    assert list(sizes(spread, SMALL)) == sorted(sizes(spread, SMALL))


def test_few_shapes_include_the_nearest():
    spread = spread_shapes(153_200, 3.0, 5, SMALL)
    assert len(spread) == 5
    assert 64 in {shape.width for shape in spread}  # 116,480 parameters, the nearest but one


def test_shapes_beyond_an_edge_are_on_that_side():
    edge = SMALL.count_size(Shape(2, 64, 4, 128, 256))
    assert [shape.width for shape in shapes_beyond(edge, 1.8, 2, SMALL)] == [96, 112]
    assert [shape.width for shape in shapes_beyond(edge, 1 / 1.8, 2, SMALL)] == [32, 48]
    assert shapes_beyond(SMALL.count_size(Shape(2, 16, 1, 128, 256)), 0.5, 2, SMALL) == []


LLAMA = {'width': 2048, 'heads': 32, 'kv_heads': 8, 'mlp_width': 8192, 'feedforward': 'gated'}
LLAMA |= {'position': 'rotary', 'norm': 'rms', 'bias': False}
QWEN = LLAMA | {'width': 1024, 'heads': 16, 'head_dim': 128, 'mlp_width': 3072, 'qk_norm': True}
EXPERTS = LLAMA | {'feedforward': 'experts', 'experts': 8, 'mlp_width': 0, 'kv_heads': 0}


@pytest.mark.parametrize('fields', [LLAMA, QWEN, EXPERTS], ids=['gqa', 'wide heads', 'experts'])
def test_any_architecture_is_counted_like_its_model(fields):
    raw_model = default_config()['model'] | fields
    architecture = Architecture(raw_model)
    shape = find_shape(3e8, count='total', context=1024, vocab=32000, architecture=architecture)
    config = architecture.make_config(shape)
    counts = model_counts.parameters(config)
    spread = architecture.count_parameters(shape)
    assert spread == {name: counts[name] for name in spread}
    assert ('active' in spread) == (fields is EXPERTS)
    assert spread['total'] == pytest.approx(3e8, rel=0.1)
    assert architecture.flops_per_token(shape) == model_counts.flops_per_token(config)


def test_scaling_an_architecture_keeps_its_ratios():
    architecture = Architecture(default_config()['model'] | LLAMA)
    own = Shape(16, 2048, 32, 8192, 128_256)
    assert architecture.scale(own) == {
        'layers': 16,
        'width': 2048,
        'heads': 32,
        'kv_heads': 8,
        'mlp_width': 8192,
    }
    small = architecture.scale(Shape(8, 1024, 16, 8192, 128_256))
    assert (small['kv_heads'], small['mlp_width']) == (4, 4096)
    wide = Architecture(default_config()['model'] | QWEN)
    assert wide.split_width(2048, None) == 32  # 64 of the width for each head of 128
    assert Architecture().scale(Shape(2, 64, 2, 128, 256)) == {'layers': 2, 'width': 64, 'heads': 2}


def write_config(folder: Path, text: str) -> Path:
    path = folder / 'c.py'
    head = 'from gpt_jax import base_config\ndef get_config():\n    config = base_config()\n'
    path.write_text(f'{head}    {text}\n    return config\n')
    return path


@pytest.mark.parametrize(
    ('path', 'trial'), [('configs/gpt_tiny.py', ''), ('configs/isoflop_cpu.py', '1e12-2x48')]
)
@pytest.mark.parametrize('count', ['total', 'non_embedding', 'without_positions'])
def test_counts_equal_those_of_the_run(path, trial, count):
    planned = shapes.read_planned_run(path, count=count, trial=trial)
    module = __import__(path.removesuffix('.py').replace('/', '.'), fromlist=['get_config'])
    config = to_raw(module.get_config())
    config = config_cli.expand_trials(config)[trial] if trial else config
    settings = parse_config(config, vocab_size=256)
    assert planned.params == model_counts.parameters(settings.model)[count]
    assert planned.tokens == settings.steps * settings.tokens_per_step
    assert planned.config_hash == config_fields.config_hash(config)


@pytest.mark.parametrize(
    'text',
    [
        "config.model.norm = 'rms'",
        "config.model.block = 'parallel'",
        'config.model.final_norm = False',
        "config.model.update(feedforward='gated', bias=False, kv_heads=1, position='rotary')",
        "config.model.update(feedforward='experts', experts=4)",
    ],
)
def test_every_architecture_is_counted(tmp_path, text):
    path = write_config(tmp_path, text)
    raw_config = config_cli.read_config_file(str(path))
    counts = model_counts.parameters(parse_config(raw_config, vocab_size=256).model)
    for count in ('total', 'non_embedding', 'active'):
        assert shapes.read_planned_run(str(path), count=count).params == counts[count]


@pytest.mark.parametrize(
    ('text', 'trial', 'message'),
    [
        ("config.data.tokenizer = 'bpe:500'", '', 'vocabulary size of bpe:500 is not known yet'),
        ("config.model.norm = 'lab.norms:power'", '', 'model.norm: the parameters of a custom'),
        ('', 'x', 'no such trial; known trials: none'),
        ('1 / 0', '', 'ZeroDivisionError'),
    ],
)
def test_uncountable_configs_are_rejected(tmp_path, text, trial, message):
    path = write_config(tmp_path, text)
    with pytest.raises(UserError, match=message):
        shapes.read_planned_run(str(path), count='', trial=trial)
    with pytest.raises(UserError, match='no such config file'):
        shapes.read_planned_run(str(tmp_path / 'absent.py'), count='')
    with pytest.raises(UserError, match=r'--count: must be one of total, .* got half'):
        shapes.read_planned_run('configs/gpt_tiny.py', count='half')
