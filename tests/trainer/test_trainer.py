"""run.py trains, resumes, recognizes finished runs, and rejects bad input before any work."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from gpt_jax.core.config import parse_config
from gpt_jax.core.files import read_jsonl
from gpt_jax.train.metrics import read_metrics
from gpt_jax.trainer import trainer
from gpt_jax.trainer.dataset import load_text_data
from tests import in_process, program


def command(workdir, **fields):
    return in_process.command(workdir, **{'config.model.layers': 1} | fields)


@pytest.fixture(scope='module')
def finished(tmp_path_factory, source):
    """The folder of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp('runs') / 'whole'
    in_process.run(command(workdir, config__data__source=source))
    return workdir


def test_summary_and_metrics_of_a_finished_run(finished):
    done = program.summary(finished)
    assert done['steps'] == 40
    assert done['tokens'] == 40 * 8 * 32
    assert 0 < done['validation_loss'] < 5.6
    assert done['skipped_steps'] == 0
    assert done['flops_causal'] == done['flops_per_token_causal'] * done['tokens']
    assert done['params_total'] == done['params_without_positions'] + 32 * 32
    assert len(done['parameters_sha256']) == len(done['fingerprint']) == 64
    assert {
        'seconds',
        'train_loss',
        'params_non_embedding',
        'flops_6N',
        'config_hash',
        'versions',
    } <= set(done)
    rows = [json.loads(line) for line in (finished / 'metrics.jsonl').read_text().splitlines()]
    assert [row['step'] for row in rows] == list(range(5, 41, 5))
    assert [row['step'] for row in rows if 'validation_loss' in row] == [20, 40]
    assert rows[-1]['validation_loss'] == done['validation_loss']
    assert rows[-1]['flops_6N'] == done['flops_6N']
    assert 'tokens_per_second' not in rows[0]


def test_bits_per_byte_count_the_bytes_of_the_targets(finished):
    """An end of document is a target without bytes; the validation split is evaluated in part."""
    raw_config = json.loads((finished / 'config.json').read_text())
    dataset = load_text_data(raw_config, print)
    done, row = program.summary(finished), read_metrics(finished / 'metrics.jsonl')[1]
    targets = dataset.tokens.validation.ids[1:2001]
    assert done['bytes_per_token'] == pytest.approx(np.mean(targets != 255), rel=1e-12)
    assert done['bytes_per_token'] < 1
    assert done['bits_per_byte'] == pytest.approx(
        done['validation_loss'] / np.log(2) / done['bytes_per_token'], rel=1e-12
    )
    config = parse_config(raw_config, dataset.vocab_size)
    batch = next(dataset.iterate_batches(config, row['step'] - 1, (0, 1)))
    assert row['bits_per_byte'] == pytest.approx(
        row['loss'] / np.log(2) / np.mean(batch['targets'] != 255), rel=1e-12
    )


def test_run_with_experts_records_routing_statistics(tmp_path, source):
    fields = {
        'feedforward': 'experts',
        'experts': 4,
        'experts_per_token': 2,
        'capacity_factor': 0.5,
        'z_loss': 1e-4,
    }
    routed = {f'config__model__{key}': value for key, value in fields.items()}
    _, err = in_process.run(
        command(tmp_path, config__data__source=source, config__train__steps=10, **routed)
    )
    rows = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    for row in rows:
        assert 1 <= row['busiest_expert'] <= 2  # a token takes two of four experts
        assert 0.49 < row['dropped_tokens'] < 1  # there is room for half of the choices
        assert 0 <= row['router_entropy'] <= 1.39
        assert 0 <= row['idle_experts'] <= 0.5
        assert {'load_balance', 'router_z', 'z_loss'} <= set(row)
    done = program.summary(tmp_path)
    assert 0 < done['validation_loss'] < 5.7
    assert done['params_active'] < done['params_total']
    assert ' active, ' in err


def test_same_command_again_does_nothing(finished, source):
    before = (finished / 'summary.json').stat().st_mtime_ns
    _, err = in_process.run(command(finished, config__data__source=source))
    assert 'already done' in err
    assert (finished / 'summary.json').stat().st_mtime_ns == before


def test_another_config_in_the_same_folder_is_rejected(finished, source):
    arguments = command(finished, config__data__source=source, config__model__width=64)
    _, err = in_process.run(arguments, code=2)
    assert 'model.width: 32 -> 64' in err


def test_start_without_a_checkpoint_does_not_bind_the_next(source, tmp_path):
    """Such as one that was stopped while it compiled."""
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'config.json').write_text('{"model": {"width": 48}}')
    arguments = command(tmp_path / 'run', config__data__source=source, config__train__steps=5)
    in_process.run(arguments)
    (tmp_path / 'run' / 'summary.json').unlink()
    _, err = in_process.run([*arguments, '--config.model.width=64'], code=2)
    assert 'holds a run of another config (model.width: 32 -> 64)' in err


def test_fields_outside_the_config_hash_may_change(finished, source):
    arguments = command(finished, config__data__source=source, config__train__checkpoint_every=7)
    _, err = in_process.run(arguments)
    assert 'already done' in err


def test_run_resumes_bitwise_after_sigterm(finished, source, tmp_path):
    """The run is stopped in a process of its own, and finished in this one."""
    tracker = {'config.train.trackers': 'tests.train.fake_tracker:FileTracker'}
    arguments = command(tmp_path / 'run', config__data__source=source, **tracker)
    process = program.start(arguments)
    while program.lines(tmp_path / 'run') < 1 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    in_process.run(arguments)
    run, whole = program.summary(tmp_path / 'run'), program.summary(finished)
    assert run['parameters_sha256'] == whole['parameters_sha256']
    metrics = [folder / 'metrics.jsonl' for folder in (tmp_path / 'run', finished)]
    assert metrics[0].read_bytes() == metrics[1].read_bytes()
    assert run['config_hash'] == whole['config_hash']
    sent = read_jsonl(tmp_path / 'run' / 'service.jsonl')
    assert [record['step'] for record in sent if 'step' in record] == list(range(5, 41, 5))
    assert [record['open'] for record in sent if 'open' in record] == ['run-1'] * 2
    assert sent[-2]['summary']['validation_loss'] == run['validation_loss']


def test_evaluate_reproduces_the_summary(finished, source):
    out, err = in_process.run(command(finished, config__data__source=source, mode='evaluate'))
    assert 'is not the data that' not in err
    scores = json.loads(out.splitlines()[-1])
    assert scores['validation_loss'] == program.summary(finished)['validation_loss']
    assert scores['step'] == 40


def test_evaluate_rejects_another_model_but_not_other_kernels(finished, source):
    fields = {'config__data__source': source, 'mode': 'evaluate'}
    _, err = in_process.run(command(finished, **fields, config__model__activation='relu'), code=2)
    assert 'holds another model (model.activation: gelu -> relu)' in err
    in_process.run(command(finished, **fields, config__model__scan_layers=True))


def test_evaluate_warns_about_other_data(finished, tmp_path):
    (tmp_path / 'other.txt').write_text('Something else, many times over. ' * 400)
    fields = {
        'config__data__source': f'files:{tmp_path / "other.txt"}',
        'config__data__holdout': 'tail',
    }
    _, err = in_process.run(command(finished, mode='evaluate', **fields))
    assert 'is not the data that' in err


def test_lost_summary_is_reproduced(finished, source, tmp_path):
    shutil.copytree(finished, tmp_path / 'run')
    before = program.summary(tmp_path / 'run')
    (tmp_path / 'run' / 'summary.json').unlink()
    in_process.run(command(tmp_path / 'run', config__data__source=source))
    after = program.summary(tmp_path / 'run')
    assert {**before, 'seconds': 0} == {**after, 'seconds': 0}


def test_too_little_text_is_reported_before_the_folder_is_created(tmp_path):
    (tmp_path / 'three.txt').write_text('three short words')
    source = f'files:{tmp_path / "three.txt"}'
    arguments = command(tmp_path / 'run', config__data__source=source, config__data__holdout='tail')
    _, err = in_process.run(arguments, code=2)
    assert 'must have at least 33 training tokens (one window)' in err
    assert not (tmp_path / 'run').exists()


def test_benchmark_prints_one_json_object(source, tmp_path):
    """Training is timed on several devices, generation on one."""
    arguments = command(
        None,
        config__data__source=source,
        mode='benchmark',
        config__benchmark__steps=3,
        config__mesh__data=1,
        config__mesh__fsdp=2,
        config__mesh__strategy='fsdp',
        config__benchmark__new_tokens=6,
        config__benchmark__prompt_tokens=4,
        config__benchmark__batch_sizes='(1, 2)',
        benchmark_output=tmp_path / 'speed.json',
    )
    out, err = in_process.run(arguments)
    assert 'gpt_tiny: batch 1: ' in err
    result = json.loads(out.splitlines()[-1])
    assert result['devices'] == 2
    assert result == json.loads((tmp_path / 'speed.json').read_text())
    names = {
        'tokens_per_second',
        'tokens_per_second_without_data',
        'model_flops_utilization',
        'compile_seconds',
        'start_seconds',
        'peak_memory_bytes',
        'batch',
        'device',
        'versions',
        'params_total',
        'peak_flops_source',
    }
    assert names <= set(result)
    assert 0 < result['model_flops_utilization'] < 1.2
    assert result['tokens_per_second'] * result['step_seconds'] == pytest.approx(8 * 32)
    generation_names = {
        f'generation_{name}_batch{batch}'
        for batch in (1, 2)
        for name in (
            'prefill_tokens_per_second',
            'decode_tokens_per_second',
            'first_token_seconds',
            'bandwidth_share',
        )
    }
    assert generation_names <= set(result)
    assert all(result[name] > 0 for name in generation_names)
    assert (result['generation_prompt'], result['generation_new_tokens']) == (4, 6)


def test_two_processes_equal_one(finished, source, tmp_path):
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    processes = [
        program.start(
            command(
                tmp_path / 'run',
                config__data__source=source,
                config__mesh__cpu_devices=1,
                config__mesh__data=2,
                config__train__trackers='tests.train.fake_tracker:FileTracker',
                distributed=f'127.0.0.1:{port},2,{index}',
            )
        )
        for index in range(2)
    ]
    for process in processes:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, out + err
    one, two = program.summary(finished), program.summary(tmp_path / 'run')
    assert two['processes'] == 2
    assert two['validation_loss'] == pytest.approx(one['validation_loss'], rel=1e-5)
    assert program.lines(tmp_path / 'run') == program.lines(finished)
    sent = read_jsonl(tmp_path / 'run' / 'service.jsonl')  # by the first process only
    assert [record['step'] for record in sent if 'step' in record] == list(range(5, 41, 5))
    assert sum('open' in record for record in sent) == 1


def test_changed_data_is_rejected(tmp_path):
    """As if the run had been killed after its last checkpoint."""
    path = program.corpus(tmp_path)
    arguments = command(tmp_path / 'run', config__data__source=f'files:{path}')
    in_process.run(arguments)
    (tmp_path / 'run' / 'summary.json').unlink()
    path.write_text(path.read_text() + json.dumps({'text': 'something new'}) + '\n')
    _, err = in_process.run(arguments, code=2)
    assert 'is not the data that this run began with' in err


def test_diverged_run_keeps_its_metrics_and_has_no_summary(source, tmp_path):
    arguments = command(
        tmp_path / 'run',
        config__data__source=source,
        config__optimizer__learning_rate=1e38,
        config__train__max_skipped_in_row=3,
        config__train__log_every=1,
    )
    _, err = in_process.run(arguments, code=3)
    assert 'steps in a row' in err.splitlines()[-1]
    assert not (tmp_path / 'run' / 'summary.json').exists()
    last = json.loads((tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()[-1])
    assert last['skipped_in_row'] == 3


def test_too_many_steps_are_refused(source, tmp_path):
    arguments = command(tmp_path / 'run', config__data__source=source, config__train__steps=0)
    _, err = in_process.run([*arguments, f'--config.train.tokens={2**62}'], code=2)
    assert 'a run has at most 2,147,483,647 steps, got 18,014,398,509,481,984' in err


def test_a_batch_beyond_memory_is_refused(source, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer.os, 'sysconf', {'SC_PAGE_SIZE': 4096, 'SC_PHYS_PAGES': 10**6}.get)
    arguments = command(
        tmp_path / 'run', config__data__source=source, config__train__batch_size=10**9
    )
    _, err = in_process.run(arguments, code=2)
    assert 'of 1,000,000,000 sequences are 128 GB, and this machine has 4 GB' in err


BAD = [
    ({'config.train.batch_size': 10**20}, 'config.train.batch_size: must be at most 2,147,483,647'),
    ({'config.model.widht': 3}, "config.model.widht: no such field; the nearest is 'model.width'"),
    ({'config.model.width': 'wide'}, "config.model.width: must be int, got 'wide'"),
    (
        {'config.optimizer.learning_rate': '1e-3x'},
        "config.optimizer.learning_rate: must be float, got '1e-3x'",
    ),
    (
        {'mode': 'benchmark', 'config.benchmark.weight_dtype': 'int9'},
        "config.benchmark.weight_dtype: must be one of float32, bfloat16, int8, int4, got 'int9'",
    ),
    (
        {'config.train.eval_batch_size': 9, 'config.mesh.data': 2},
        'config.train.eval_batch_size: must be a multiple of the 2 devices',
    ),
    (
        {'mode': 'benchmark', 'benchmark_output': '/dev/null/speed.json'},
        '--benchmark_output: /dev/null: /dev/null is',
    ),
    ({'config.model.width': 1.5}, 'width'),
    ({'config.model.heads': 5}, 'config.model.heads: must divide the width 32, got 5'),
    ({'config.model.layers': -1}, 'config.model.layers: must be positive'),
    ({'config.optimizer.schedule': 'cosin'}, "the nearest is 'cosine'"),
    ({'config.train.batch_size': 0}, 'config.train.batch_size: must be positive'),
    ({'config.data.source': 'tfds'}, 'data.source'),
    ({'config': 'configs/gpt_350.py'}, 'configs/'),
    ({'config': 'configs/gpt_tinny.py'}, "no such file; the nearest is 'configs/gpt_tiny.py'"),
    ({'config': 'README.md'}, "--config=README.md: a config file's name must end in .py"),
    ({'config.optimizer.learning_rate': 'inf'}, 'config.optimizer.learning_rate: must be finite'),
    ({'mode': 'trian'}, 'train'),
    ({'wokdir': 'x'}, "the nearest is 'workdir'"),
    ({'trial': '2x16'}, 'no such trial'),
    ({'config.data.source': 'files:/nowhere/*.txt'}, '/nowhere/*.txt'),
]


@pytest.mark.parametrize(('fields', 'message'), BAD, ids=lambda value: str(value)[:40])
def test_bad_input_is_one_line_and_writes_nothing(fields, message, tmp_path):
    check_rejected(in_process, fields, message, tmp_path / 'run')


def check_rejected(runner, fields, message, workdir):
    out, err = runner.run(program.command(workdir, **fields), code=2)
    assert out == ''
    assert len(err.strip().splitlines()) == 1, err
    assert message in err
    assert not workdir.exists()


def test_bad_input_of_a_process_of_its_own(tmp_path):
    for fields, message in (BAD[1], BAD[-1]):  # found as flags are parsed, and later
        check_rejected(program, fields, message, tmp_path / 'run')


def test_help_shows_the_modes_and_an_example():
    result = subprocess.run(
        [sys.executable, 'run.py', '--help'],
        cwd=program.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert '--mode' in result.stdout
    assert '--config:' in result.stdout
    assert 'configs/ladder_cpu.py' in result.stdout


def test_run_saves_its_tokenizer(finished):
    assert (finished / 'tokenizer.json').read_bytes() == b'{"gpt_jax": "bytes"}\n'


def test_evaluate_with_int4_weights(finished, source):
    arguments = command(finished, config__data__source=source, mode='evaluate')
    quantized = json.loads(in_process.run([*arguments, '--weight_dtype=int4'])[0])
    assert quantized['weights'] == 'int4'
    loss = quantized['validation_bits_per_byte'] - program.summary(finished)['bits_per_byte']
    assert 0 < abs(loss) < 0.1
