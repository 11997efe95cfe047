"""Is a model's writing timed whatever the mesh it trains on, against the bytes that it reads, and is nothing lost?"""

import itertools
import json
import sys
from types import SimpleNamespace

import jax
import pytest

from gpt_jax import assemble, errors, inference, overrides
from gpt_jax.model import weights
from gpt_jax.model.gpt import unstack
from gpt_jax.modes import benchmark, benchmark_generation
from gpt_jax.parallel.rules import STRATEGIES
from gpt_jax.train import config as train_config
from tests.model.architectures import EXPERTS


def test_every_axis_of_the_mesh_is_one_there():
    config = overrides.defaults()
    config['mesh'] |= {'data': 0, 'fsdp': 4, 'strategy': next(name for name in STRATEGIES if name != 'replicated')}
    config['train'] |= {'batch': 12, 'microbatch': 8}  # which divides the share of one device of two
    mesh = config['mesh'] | {'an axis of a later version': 8}
    alone = benchmark_generation.on_one_device(config | {'mesh': mesh})
    assert alone['mesh']['strategy'] == 'replicated'
    assert {alone['mesh'][name] for name, value in mesh.items() if isinstance(value, int)} == {1}
    del alone['mesh']['an axis of a later version']
    settings = assemble.settings(alone, vocab_size=97)
    assert settings.train.microbatches(assemble.devices(settings).rows) == 1
    assert (settings.benchmark.steps, settings.benchmark.new_tokens) == (0, 128)


@pytest.mark.parametrize('code', [2, 3, 4, 75])
def test_the_line_and_the_code_of_its_process_are_passed_on(code):
    said = []
    leaves = f"import sys; print('on the way', 'run.py: the line', sep='\\n', file=sys.stderr); sys.exit({code})"
    with pytest.raises(benchmark_generation.ERRORS[code], match=r'^the line$'):
        benchmark_generation._run([sys.executable, '-c', leaves], said.append)
    assert said == ['on the way']


def test_a_process_that_says_nothing_of_its_end():
    with pytest.raises(errors.CheckFailed, match='its process left with -9'):
        benchmark_generation._run([sys.executable, '-c', 'import os; os.kill(os.getpid(), 9)'], print)


def test_what_was_timed_is_not_lost_where_writing_fails(monkeypatch, capsys, tmp_path):
    def fails(*_):
        raise errors.OutOfMemory('too little')

    monkeypatch.setattr(benchmark, 'prepare', lambda *_: SimpleNamespace(vocab_size=97))
    monkeypatch.setattr(benchmark, '_training', lambda *_: {'tokens_per_second': 5.0})
    monkeypatch.setattr(benchmark_generation, 'measure', fails)
    with pytest.raises(errors.OutOfMemory):
        benchmark.benchmark(overrides.defaults(), str(tmp_path / 'speed.json'), print)
    found = json.loads(capsys.readouterr().out)
    assert found['tokens_per_second'] == 5.0
    assert found == json.loads((tmp_path / 'speed.json').read_text())


def test_bytes_of_the_experts_that_are_chosen(model_config):
    section = benchmark_generation._section(model_config(**EXPERTS, experts_per_token=2))
    config = inference.model_config(section, 97)
    params = jax.eval_shape(lambda: unstack(weights.unbox(assemble.initial(config, jax.random.key(0))), config.layers))
    first = params['block_0']['feedforward']
    first['gate'] = jax.eval_shape(lambda gate: inference.WEIGHTS['int8'](gate, 'EDF'), first['gate'])
    writer = SimpleNamespace(model=SimpleNamespace(config=config), params=params)
    routed = [params[f'block_{n}']['feedforward'][name] for n in range(2) for name in ('gate', 'up', 'down')]
    whole, experts = (
        sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(part)) for part in (params | {'embedding': None}, routed)
    )
    pairs = list(itertools.combinations(range(5), 2))
    for batch in (1, 2, 3):
        drawn = list(itertools.product(pairs, repeat=batch))
        chosen = sum(len(set(itertools.chain(*one))) for one in drawn) / len(drawn)
        read = benchmark_generation._bytes_read(writer, batch, 0)
        assert read == pytest.approx(whole - (1 - chosen / 5) * experts)
    assert benchmark_generation._bytes_read(writer, 1, 0) == pytest.approx(whole - 3 / 5 * experts)


def test_how_weights_are_kept_is_known_before_anything_is_timed():
    assert tuple(inference.WEIGHTS) == train_config.WEIGHTS
    config = overrides.defaults()
    config['benchmark']['weights'] = 'int6'
    with pytest.raises(errors.UserError, match=r"^config.benchmark.weights: no 'int6'; one of float32, "):
        assemble.settings(config, vocab_size=1)
