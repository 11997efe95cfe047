"""The accelerator measurement: best batch and variant, time limit, and a bare image."""

import importlib
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from experiments.accelerator import child, jax_gpt, measure, report

ROOT = Path(__file__).parents[2]
FORBIDDEN = (
    'ml_collections',
    'grain',
    'tensorflow_datasets',
    'tokenizers',
    'tensorboardX',
    'orbax',
    'pyarrow',
)
DEVICE = {
    'device': 'one',
    'platform': 'cpu',
    'peak_flops': 1e12,
    'peak_flops_source': 'given',
    'versions': {},
    'flops_convention': 'with_attention',
    'xla_flags': '',
}


def run(flags, tmp_path, monkeypatch, *, seconds=100.0):
    monkeypatch.setattr(sys, 'argv', ['measure.py', f'--output={tmp_path}/out.jsonl', *flags])
    return measure.Run(measure.parse_flags(), DEVICE, time.monotonic() + seconds)


# --- the search for the batch ---


def device_of(capacity, rate=lambda batch: 100.0 * batch, error='out of memory'):
    tried = []

    def attempt(batch):
        tried.append(batch)
        if batch > capacity:
            return {'batch': batch, 'failed': error, 'out_of_memory': 'memory' in error}
        return {'batch': batch, 'tokens_per_second': rate(batch)}

    return attempt, tried


@pytest.mark.parametrize(
    ('capacity', 'expected'),
    [
        (15, [8, 16, 12, 14]),
        (13, [8, 16, 12, 14]),
        (9, [8, 16, 12, 10]),
        (40, [8, 16, 32, 64, 48, 40]),
        (3, [8, 4, 2, 3]),
        (1, [8, 4, 2, 1]),
        (0, [8, 4, 2, 1]),
    ],
)
def test_search_doubles_then_bisects_to_the_largest_that_fits(capacity, expected):
    attempt, tried = device_of(capacity)
    list(jax_gpt.search_batch_sizes(attempt, 8))
    assert tried == expected


def test_search_ends_where_a_larger_batch_does_not_pay():
    attempt, tried = device_of(10**6, rate=lambda batch: min(batch, 32) * 100.0)
    list(jax_gpt.search_batch_sizes(attempt, 8))
    assert tried == [8, 16, 32, 64]


def test_search_ends_at_another_failure():
    attempt, tried = device_of(8, error='no such kernel')
    assert list(jax_gpt.search_batch_sizes(attempt, 8))[-1]['failed'] == 'no such kernel'
    assert tried == [8, 16]


def test_attempt_catches_out_of_memory_and_frees_the_memory(monkeypatch):
    def exhausted(checked):
        held = [jnp.full((1000,), checked.train.batch_size)]
        raise RuntimeError(
            f'RESOURCE_EXHAUSTED: Out of memory allocating {len(held)} bytes.\nA table follows'
        )

    monkeypatch.setattr(jax_gpt, 'measure_step', exhausted)
    before = len(jax.live_arrays())
    record = jax_gpt.try_batch(measure.SHAPES['toy'], {}, 4, 1)
    assert record == {
        'batch': 4,
        'failed': 'RuntimeError: RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.',
        'out_of_memory': True,
    }
    assert len(jax.live_arrays()) <= before


def test_a_failure_that_is_not_memory_says_so():
    record = jax_gpt.try_batch(measure.SHAPES['toy'], {'remat': 'dot'}, 4, 1)
    assert 'model.remat' in record['failed']
    assert not record['out_of_memory']


# --- timing ---


def test_steps_are_timed_apart_from_the_warm_up():
    taken = []

    def step(state, batch):
        taken.append(time.perf_counter())
        time.sleep(0.5 if len(taken) <= 1 else 0.01)
        return state + batch, {'loss': jnp.float32(len(taken))}

    seconds, losses = jax_gpt.time_steps(step, jnp.zeros(()), jnp.ones(()), 4)
    assert len(seconds) == 4
    assert all(0 < second < 0.4 for second in seconds)
    assert losses == [float(n) for n in range(1, len(taken) + 1)]
    assert len(taken) == 1 + jax_gpt.WARM_UP_STEPS + 4


# --- shapes and variants ---


@pytest.mark.parametrize('shape', ['125m', '350m', '760m', '1_3b'])
def test_shapes_are_those_of_the_configs(shape):
    config = importlib.import_module(f'configs.gpt_{shape}').get_config().model
    sizes = measure.SHAPES[shape]
    assert {name: config[name] for name in ('layers', 'width', 'heads')} == {
        name: sizes[name] for name in ('layers', 'width', 'heads')
    }
    assert sizes['vocab'] == config.vocab_size
    assert jax_gpt.make_config(sizes, {}, 8, 1).model.dims['V'] == 50_304


def test_every_variant_is_a_valid_config():
    for group in measure.GROUPS.values():
        for fields in group.values():
            model = jax_gpt.make_config(measure.SHAPES['toy'], fields, 4, 1).model
            assert {name: getattr(model, name) for name in fields} == fields


def fake_measure(speeds, calls):
    def measure_variant(run, shape, choices, batch, *, search, deadline, final=False):
        assert search is not final
        assert deadline > 0
        calls.append((tuple(choices), batch, final))
        rate = 100.0 * math.prod(speeds.get(choice, 1.0) for choice in choices)
        record = {
            'shape': shape,
            'variant': list(choices),
            'batch': batch,
            'elapsed_seconds': 1.0,
            'final': final,
        }
        record |= {'tokens_per_second': rate, 'framework': 'gpt_jax'} if rate else {'failed': 'no'}
        run.records.append(record)
        return [record]

    return measure_variant


def test_variants_are_tried_one_choice_at_a_time_and_the_faster_kept(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        measure,
        'measure_variant',
        fake_measure({'remat_dots': 0.5, 'unrolled': 1.2, 'loss_chunk_0': 1.1}, calls),
    )
    got = run(['--shapes=350m', '--variants=all', '--notorch'], tmp_path, monkeypatch)
    measure.measure_shape(got, '350m', got.deadline)
    assert calls[0] == (measure.STANDARD, measure.FIRST_BATCH, False)
    assert calls[-1] == (
        ('chunked_512', 'remat_none', 'unrolled', 'loss_chunk_0'),
        measure.FIRST_BATCH,
        True,
    )
    tried = {choice for choices, _, _ in calls for choice in choices}
    assert tried == set(measure.CHOICES) - {'cudnn'}  # the device is no GPU
    assert not got.not_done


def test_where_the_usual_variant_fails_the_frugal_one_is_the_start(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(measure, 'measure_variant', fake_measure({'remat_none': 0.0}, calls))
    got = run(['--variants=none', '--notorch'], tmp_path, monkeypatch)
    measure.measure_shape(got, '350m', got.deadline)
    assert [call[0] for call in calls] == [measure.STANDARD, measure.LOW_MEMORY, measure.LOW_MEMORY]


def test_what_time_does_not_allow_is_listed(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(measure, 'measure_variant', fake_measure({}, calls))
    got = run(['--variants=remat_dots,unrolled', '--notorch'], tmp_path, monkeypatch)
    measure.measure_shape(got, '350m', time.monotonic() + 0.5)
    assert len(calls) == 1
    assert got.not_done == ['350m: remat_dots', '350m: unrolled', '350m: final measurement']


def test_torch_batch_is_halved_until_it_fits(tmp_path, monkeypatch):
    seen = []

    def stream_records(command, deadline):
        assert deadline > time.monotonic()
        seen.append(
            next(int(word.split('=')[1]) for word in command if word.startswith('--batch='))
        )
        assert '--vocab=50304' in command
        if seen[-1] > 3:
            yield {'failed': 'exit 1: OutOfMemoryError', 'out_of_memory': True}
        else:
            yield {'tokens_per_second': 1e4, 'peak_memory_bytes': 1, 'compile_seconds': 1.0}

    monkeypatch.setattr(measure, 'stream_records', stream_records)
    got = run(['--torch_python=python'], tmp_path, monkeypatch)
    got.records.append({'shape': '125m', 'flops_per_token': 10**7})
    measure.measure_torch(got, '125m', 12, got.deadline)
    assert seen == [12, 6, 3]
    written = [json.loads(line) for line in (tmp_path / 'out.jsonl').read_text().splitlines()]
    assert [record['batch'] for record in written] == [12, 6, 3]
    assert written[-1]['model_flops_utilization'] == pytest.approx(0.1)


# --- a measurement's own process ---


def python(code, seconds=20.0):
    return list(child.stream_records([sys.executable, '-c', code], time.monotonic() + seconds))


def test_a_process_gives_its_json_lines_only():
    records = python('print("noise"); print(\'{"a": 1}\')')
    assert [record['a'] for record in records] == [1]
    assert records[0]['elapsed_seconds'] > 0


def test_a_process_that_fails_gives_its_last_line():
    records = python(
        'print(\'{"a": 1}\', flush=True); raise MemoryError("Unable to allocate 9 GiB")'
    )
    assert records[0]['a'] == 1
    assert records[1]['failed'] == 'exit 1: MemoryError: Unable to allocate 9 GiB'
    assert records[1]['out_of_memory']
    assert python('raise ValueError("x")')[0]['out_of_memory'] is False
    assert python('pass')[0]['failed'] == 'exit 0: printed nothing'


def test_a_process_ends_with_its_children_when_its_time_is_over(tmp_path):
    beat = tmp_path / 'beat'
    inner = f'import time\nwhile True: open({str(beat)!r}, "a").write("x"); time.sleep(.02)'
    began = time.monotonic()
    code = (
        'import subprocess, sys; print(\'{"a": 1}\', flush=True); '
        f'subprocess.run([sys.executable, "-c", {inner!r}])'
    )
    records = python(code, seconds=1.5)
    assert time.monotonic() - began < 10
    assert records[0]['a'] == 1
    assert records[1]['out_of_time']
    time.sleep(0.2)
    size = beat.stat().st_size
    time.sleep(0.3)
    assert 0 < beat.stat().st_size == size


# --- the report ---


def test_table_and_summary_hold_figures_failures_and_the_ratio():
    fits = {
        'batch': 8,
        'step_seconds': 0.1,
        'model_flops_utilization': 0.5,
        'peak_memory_bytes': 2**31,
    }
    fits |= {'compile_seconds': 3.0, 'timed_steps': 20, 'shape': '350m'}
    ours = fits | {
        'framework': 'gpt_jax',
        'variant': ['scan'],
        'tokens_per_second': 300.0,
        'final': False,
    }
    final = ours | {'tokens_per_second': 280.0, 'final': True}
    torch = fits | {
        'framework': 'nanogpt',
        'variant': ['compiled'],
        'tokens_per_second': 140.0,
        'final': False,
    }
    broken = {
        'shape': '350m',
        'framework': 'gpt_jax',
        'variant': ['cudnn'],
        'batch': 8,
        'failed': 'no cuDNN',
    }
    late = broken | {'failed': 'no time left', 'out_of_time': True}
    records = [ours, torch, broken, late, final]
    lines = report.format_table(records).splitlines()
    assert len(lines) == 6
    assert [line.count('*') for line in lines] == [0, 0, 0, 0, 0, 1]
    assert '50.0%' in lines[1]
    assert 'no cuDNN' in lines[3]
    found = report.summarize(records, DEVICE, ['350m', '1_3b'], ['1_3b: scan'], 5.0)
    assert found['shapes']['350m']['gpt_jax']['tokens_per_second'] == 280.0
    assert found['shapes']['350m']['ratio'] == 2.0
    assert found['shapes']['1_3b'] == {'gpt_jax': None, 'torch': None, 'ratio': None}
    assert [record['failed'] for record in found['failed']] == ['no cuDNN']


# --- the program ---


@pytest.mark.parametrize(
    ('flag', 'message'),
    [
        ('--shapes=350', "no shape '350'"),
        ('--variants=remat_some', "no 'remat_some'"),
        ('--steps=0', '--steps: must be at least 1'),
        ('--output=/nowhere/at/all.jsonl', 'its folder does not exist'),
    ],
)
def test_a_bad_flag_is_named(flag, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['measure.py', flag])
    with pytest.raises(SystemExit, match='2'):
        measure.parse_flags()
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_it_runs_on_an_image_without_the_other_packages(tmp_path, monkeypatch):
    blocker = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {FORBIDDEN}:
            raise ModuleNotFoundError('blocked: ' + name)
sys.meta_path.insert(0, Blocker())
"""
    (tmp_path / 'sitecustomize.py').write_text(blocker)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    assert (
        subprocess.run([sys.executable, '-c', 'import grain'], capture_output=True).returncode == 1
    )
    flags = [
        '--shapes=toy',
        '--variants=cudnn',
        '--batch=4',
        '--steps=3',
        '--peak_flops=1e11',
        '--notorch',
    ]
    command = [
        sys.executable,
        'experiments/accelerator/measure.py',
        *flags,
        f'--output={tmp_path}/out.jsonl',
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    first, failed, final = map(json.loads, (tmp_path / 'out.jsonl').read_text().splitlines())
    assert (first['final'], final['final'], final['compile_from_cache']) == (False, True, True)
    assert 'cudnn must have an NVIDIA GPU' in failed['failed']
    assert final['timed_steps'] == 6
    assert final['tokens_per_second'] * final['step_seconds'] == pytest.approx(4 * 32)
    share = final['tokens_per_second'] * final['flops_per_token'] / 1e11
    assert final['model_flops_utilization'] == pytest.approx(share)
    assert final['loss_first'] == pytest.approx(math.log(97), abs=0.2)  # a uniform guess
    assert final['loss_last'] < final['loss_first'] - 0.1  # and it really trains
    summary = json.loads(result.stdout.splitlines()[-1])
    assert summary['shapes']['toy']['gpt_jax']['tokens_per_second'] == final['tokens_per_second']
    assert [record['variant'][0] for record in summary['failed']] == ['cudnn']
    assert 'toy gpt_jax' in result.stderr


def test_help_shows_an_example():
    command = [sys.executable, 'experiments/accelerator/measure.py', '--help']
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0
    assert 'python experiments/accelerator/measure.py --shapes=350m' in result.stdout


@pytest.mark.slow
def test_torch_is_measured_beside(tmp_path, monkeypatch):
    pytest.importorskip('torch')
    got = run(['--steps=2', f'--torch_python={sys.executable}'], tmp_path, monkeypatch)
    got.records.append({'shape': 'toy', 'flops_per_token': 1000})
    measure.measure_torch(got, 'toy', 4, got.deadline)
    assert got.records[-1]['tokens_per_second'] > 0
    assert got.records[-1]['loss_first'] == pytest.approx(math.log(128), abs=0.3)
