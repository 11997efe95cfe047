"""Benchmark of generation: on any mesh, against the bytes read, with the child's errors."""

import dataclasses
import itertools
import json
import sys
from types import SimpleNamespace

import jax
import pytest

from gpt_jax.core import config as train_config
from gpt_jax.core import errors
from gpt_jax.core.config import default_config, parse_config
from gpt_jax.inference import placement
from gpt_jax.model import weights
from gpt_jax.model.gpt import unstack_layers
from gpt_jax.parallel.rules import STRATEGIES
from gpt_jax.train import build
from gpt_jax.trainer import benchmark, benchmark_generation
from tests.model.architectures import EXPERTS


def test_child_has_a_mesh_of_one_device():
    config = default_config()
    config['mesh'] |= {
        'data': 0,
        'fsdp': 4,
        'strategy': next(name for name in STRATEGIES if name != 'replicated'),
    }
    # 8 divides the rows of one of two devices, but not those of a single device.
    config['train'] |= {'batch_size': 12, 'microbatch_size': 8}
    mesh = config['mesh'] | {'an axis of a later version': 8}
    child_config = benchmark_generation.single_device_config(config | {'mesh': mesh})
    assert child_config['mesh']['strategy'] == 'replicated'
    assert {
        child_config['mesh'][name] for name, value in mesh.items() if isinstance(value, int)
    } == {1}
    del child_config['mesh']['an axis of a later version']
    parsed = parse_config(child_config, vocab_size=97)
    assert parsed.train.microbatches(build.make_layout(parsed).batch_shards) == 1
    assert (parsed.benchmark.steps, parsed.benchmark.new_tokens) == (0, 128)


@pytest.mark.parametrize('code', [2, 3, 4, 75])
def test_message_and_exit_code_of_the_child_are_passed_on(code):
    lines = []
    script = (
        "import sys; print('progress', 'run.py: the line', sep='\\n', file=sys.stderr); "
        f'sys.exit({code})'
    )
    with pytest.raises(benchmark_generation.ERRORS[code], match=r'^the line$'):
        benchmark_generation._run_child([sys.executable, '-c', script], lines.append)
    assert lines == ['progress']


def test_child_that_dies_without_a_message():
    with pytest.raises(errors.CheckFailed, match='its process exited with -9'):
        benchmark_generation._run_child(
            [sys.executable, '-c', 'import os; os.kill(os.getpid(), 9)'], print
        )


def test_training_times_are_kept_if_generation_fails(monkeypatch, capsys, tmp_path):
    def fail(*_):
        raise errors.OutOfMemory('too little')

    monkeypatch.setattr(benchmark, 'load_text_data', lambda *_: SimpleNamespace(vocab_size=97))
    monkeypatch.setattr(benchmark, '_measure_training', lambda *_: {'tokens_per_second': 5.0})
    monkeypatch.setattr(benchmark_generation, 'measure_generation', fail)
    with pytest.raises(errors.OutOfMemory):
        benchmark.run_benchmark(default_config(), str(tmp_path / 'speed.json'), print)
    result = json.loads(capsys.readouterr().out)
    assert result['tokens_per_second'] == 5.0
    assert result == json.loads((tmp_path / 'speed.json').read_text())


def test_bytes_of_the_chosen_experts(model_config):
    section = dataclasses.asdict(model_config(**EXPERTS, experts_per_token=2))
    config = placement.make_inference_config(section, 97)
    params = jax.eval_shape(
        lambda: unstack_layers(
            weights.unbox(build.init_params(config, jax.random.key(0))), config.layers
        )
    )
    first = params['block_0']['feedforward']
    first['gate'] = jax.eval_shape(
        lambda gate: placement.WEIGHT_CONVERTERS['int8'](gate, 'EDF'), first['gate']
    )
    engine = SimpleNamespace(model=SimpleNamespace(config=config), params=params)
    routed = [
        params[f'block_{n}']['feedforward'][name]
        for n in range(2)
        for name in ('gate', 'up', 'down')
    ]
    whole, experts = (
        sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(part))
        for part in (params | {'embedding': None}, routed)
    )
    pairs = list(itertools.combinations(range(5), 2))
    for batch in (1, 2, 3):
        drawn = list(itertools.product(pairs, repeat=batch))
        chosen = sum(len(set(itertools.chain(*choices))) for choices in drawn) / len(drawn)
        read = benchmark_generation._count_bytes_read(engine, batch, 0)
        assert read == pytest.approx(whole - (1 - chosen / 5) * experts)
    assert benchmark_generation._count_bytes_read(engine, 1, 0) == pytest.approx(
        whole - 3 / 5 * experts
    )


def test_weight_dtype_is_checked_before_anything_is_timed():
    assert tuple(placement.WEIGHT_CONVERTERS) == train_config.WEIGHT_DTYPES
    config = default_config()
    config['benchmark']['weight_dtype'] = 'int6'
    message = '^config.benchmark.weight_dtype: must be one of float32, .*, got .int6.'
    with pytest.raises(errors.UserError, match=message):
        parse_config(config, vocab_size=1)
