"""Does run.py tune a model on a task: from given weights, to its best, and to the same bits after an interruption?"""

import json
import shutil
import signal
import socket
import sys
import time

import numpy as np
import pytest

from gpt_jax import overrides
from gpt_jax.modes import export_weights, training_text
from tests import program

TASK = {
    'config': 'configs/base.py', 'config.name': 'mood', 'config.task.kind': 'classify', 'config.task.prompt': '{text}',
    'config.task.label': 'mood', 'config.task.labels': "('bad','good')", 'config.model.context': 48,
    'config.train.evaluate_every': 10, 'config.train.checkpoint_every': 8, 'config.train.keep_best': True,
    'config.optimizer.learning_rate': 3e-3,
}  # fmt: skip
PAIRS = {
    'config.task.kind': 'prefer', 'config.task.chosen': '{better}', 'config.task.rejected': '{worse}',
    'config.task.label': None, 'config.task.labels': None, 'config.optimizer.learning_rate': 1e-3,
}  # fmt: skip


@pytest.fixture(scope='module')
def rows(tmp_path_factory):
    """Texts whose last word tells their mood."""
    path = tmp_path_factory.mktemp('task') / 'rows.jsonl'
    moods = [('bad', 'it was dull'), ('good', 'it was fun')]
    lines = [
        {'text': f'number {n}: {moods[n % 2][1]}', 'mood': moods[n % 2][0], 'better': ' fun', 'worse': ' dull'}
        for n in range(120)
    ]
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return f'files:{path}'


@pytest.fixture(scope='module')
def weights(tmp_path_factory, source):
    """A model of text, of a shape that no task's config says."""
    folder = tmp_path_factory.mktemp('runs') / 'text'
    fields = {'config__model__width': 48, 'config__model__context': 48, 'config__train__steps': 10}
    program.run(program.command(folder, config__data__source=source, **fields))
    return folder


def command(workdir, rows, weights, fields=None):
    return program.command(
        workdir, **TASK | {'config.task.source': rows, 'config.init_from': weights} | (fields or {}),
        config__train__evaluate_tokens=None,
    )  # fmt: skip


@pytest.fixture(scope='module')
def tuned(tmp_path_factory, rows, weights):
    folder = tmp_path_factory.mktemp('runs') / 'tuned'
    program.run(command(folder, rows, weights))
    return folder


def test_it_learns_with_the_shape_of_the_weights_and_keeps_its_best(tuned, weights):
    done = program.summary(tuned)
    assert (done['width'], done['context'], done['role'], done['task']) == (48, 48, 'tuned', 'classify')
    assert done['vocab_size'] == 259  # bytes, and three marks
    assert done['best_validation_accuracy'] > 0.9
    assert done['init_from'] == str(weights)
    assert done['train_examples'] + done['validation_examples'] == 120
    assert (done['validation_examples_contaminated'], done['validation_examples_repeated']) == (0, 0)
    scores = {row['step']: row['validation_accuracy'] for row in rows_of(tuned) if 'validation_accuracy' in row}
    assert done['best_step'] == min(step for step in scores if scores[step] == max(scores.values()))
    assert [path.name for path in (tuned / 'best' / 'checkpoints').iterdir() if path.is_dir()] == [
        str(done['best_step'])
    ]


def test_it_is_scored_again_as_its_best_was(tuned, rows, weights):
    out, _ = program.run([*command(tuned, rows, weights), '--mode=evaluate'])
    found = json.loads(out)
    assert found['step'] == program.summary(tuned)['best_step']
    assert found['validation_accuracy'] == program.summary(tuned)['best_validation_accuracy']


def test_its_text_is_what_its_base_was_trained_on(tuned, weights, source, tmp_path):
    (found,) = training_text.of_folder(tuned)
    assert found.source == source
    assert training_text.of_run('none', found, str(weights)) == [found, found]
    assert training_text.of_folder(tmp_path) == []


LORA = {'config.tune.rank': 2, 'config.tune.targets': "('all-linear',)", 'config.tune.dropout': 0.1}


@pytest.mark.parametrize(
    'kind', ['classify', *(pytest.param(kind, marks=pytest.mark.slow) for kind in ('adapters', 'prefer'))]
)
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, rows, weights, tuned, kind):
    fields = {'prefer': PAIRS | {'config.train.patience': 3}, 'adapters': LORA, 'classify': {}}[kind]
    whole = tuned
    if fields:
        whole = tmp_path / 'whole'
        program.run(command(whole, rows, weights, fields))
    broken = tmp_path / 'broken'
    process = program.start(command(broken, rows, weights, fields))
    while not (broken / 'checkpoints' / '16').exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode in (0, 75)
    program.run(command(broken, rows, weights, fields))
    assert (broken / 'metrics.jsonl').read_bytes() == (whole / 'metrics.jsonl').read_bytes()
    for name in ('parameters_sha256', 'best_step', 'steps'):
        assert program.summary(broken)[name] == program.summary(whole)[name]


def test_adapters_are_saved_alone_and_go_to_peft_and_back(tmp_path, rows, weights):
    """What is written, merged and read again gives the text the same probability."""
    import gpt_jax

    fields = {'config.task.kind': 'answer', 'config.task.prompt': '{text}: ', 'config.task.answer': '{mood}',
              'config.task.label': None, 'config.task.labels': None} | LORA  # fmt: skip
    program.run(command(tmp_path / 'run', rows, weights, fields))
    size = lambda folder: sum(path.stat().st_size for path in folder.rglob('*') if path.is_file())  # noqa: E731
    assert size(tmp_path / 'run' / 'checkpoints') < size(weights / 'checkpoints') / 2
    export_weights.export(tmp_path / 'run', tmp_path / 'merged', overrides.defaults(), 'float32', print)
    given = [f'--checkpoint={tmp_path / "run"}', '--mode=export', '--adapters', f'--output={tmp_path / "adapters"}']
    _, err = program.run([sys.executable, 'run.py', *given])
    assert f'{weights}: a run, which PEFT cannot read' in err
    assert sorted(path.name for path in (tmp_path / 'adapters').iterdir()) == [
        'adapter_config.json', 'adapter_model.safetensors'
    ]  # fmt: skip
    text = 'number 3: it was fun'
    run, merged, peft, before = (
        gpt_jax.load(folder, say=lambda _: None).logits(text)
        for folder in (tmp_path / 'run', tmp_path / 'merged', tmp_path / 'adapters', weights)
    )
    np.testing.assert_allclose(merged, run, atol=1e-5)
    np.testing.assert_allclose(peft, run, atol=1e-5)
    assert np.abs(before - run).max() > 0.01


@pytest.mark.slow
def test_weights_that_changed_under_their_adapters_are_noticed(tmp_path, rows, weights, source):
    base = tmp_path / 'base'
    shutil.copytree(weights, base)
    program.run(command(tmp_path / 'run', rows, base, LORA))
    (tmp_path / 'run' / 'summary.json').unlink()
    shutil.rmtree(base)
    more = {'config__model__width': 48, 'config__model__context': 48, 'config__train__steps': 11}
    program.run(program.command(base, config__data__source=source, **more))
    _, err = program.run(command(tmp_path / 'run', rows, base, LORA), code=2)
    assert 'does not hold the weights that this run began with' in err


def test_a_run_that_gets_no_better_ends_early(tmp_path, rows):
    fields = {'config.optimizer.learning_rate': 1e-30, 'config.train.patience': 2, 'config.train.steps': 200}
    _, err = program.run(command(tmp_path, rows, '', fields))
    done = program.summary(tmp_path)
    assert (done['steps'], done['best_step'], done['role']) == (30, 10, 'task')
    assert '2 validations without a better validation_accuracy' in err


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'config.task.prompt': '{txt}'}, "'txt'.*'text'"),
        ({'config.task.labels': "('bad','fine')"}, 'good'),
        ({'config.init_from': '/gone'}, '/gone: holds no checkpoint'),
        ({'--mode': 'benchmark'}, '--mode=benchmark: reads plain text'),
        ({'config.train.patience': 2, 'config.train.evaluate_every': 0}, 'config.train.patience'),
    ],
)
def test_what_is_wrong_is_one_line_and_no_folder(tmp_path, rows, fields, message):
    import re

    mode = [f'--mode={fields.pop("--mode")}'] if '--mode' in fields else []
    _, err = program.run([*command(tmp_path / 'run', rows, '', fields), *mode], code=2)
    last = err.strip().splitlines()[-1]
    assert re.search(message, last), last
    assert not (tmp_path / 'run').exists()


def rows_of(folder):
    return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize('fields', [{}, LORA, PAIRS])
def test_two_processes_tune_as_one_does(tmp_path, rows, weights, fields):
    def numbers(folder, processes):
        with socket.socket() as probe:
            probe.bind(('127.0.0.1', 0))
            port = probe.getsockname()[1]
        given = fields | {'config.mesh.cpu_devices': 2 // processes, 'config.train.steps': 10}
        each = [
            program.start([*command(folder, rows, weights, given),
                           *([f'--distributed=127.0.0.1:{port},{processes},{index}'] if processes > 1 else [])])
            for index in range(processes)
        ]  # fmt: skip
        for process in each:
            out, err = process.communicate(timeout=600)
            assert process.returncode == 0, out + err
        return [
            {name: row[name] for name in ('loss', 'validation_loss', 'validation_accuracy') if name in row}
            for row in rows_of(folder)
        ]

    alone, shared = numbers(tmp_path / 'one', 1), numbers(tmp_path / 'two', 2)
    assert len(alone) == len(shared)
    for one, other in zip(alone, shared, strict=True):
        assert other == pytest.approx(one, rel=1e-4)


@pytest.mark.slow
def test_a_run_that_ended_early_is_not_trained_on(tmp_path, rows):
    """Killed while its summary was made."""
    fields = {'config.optimizer.learning_rate': 1e-30, 'config.train.patience': 2, 'config.train.steps': 60}
    whole = command(tmp_path, rows, '', fields)
    program.run(whole)
    before = program.summary(tmp_path)
    (tmp_path / 'summary.json').unlink()
    program.run(whole)
    for name in ('steps', 'best_step', 'parameters_sha256'):
        assert program.summary(tmp_path)[name] == before[name]
    # Its marks are in the vocabulary of whoever reads it.
    import gpt_jax

    assert gpt_jax.load(tmp_path, say=lambda _: None).config.vocab_size == 259


def test_libraries_of_metrics_are_asked_for_before_the_first_step(monkeypatch):
    from gpt_jax.errors import UserError
    from gpt_jax.evaluate import metrics

    monkeypatch.setitem(metrics.LIBRARIES, 'macro_f1', 'nothing.of.this.name')
    with pytest.raises(UserError, match=r"pip install -e '\.\[eval\]'"):
        metrics.installed(('accuracy', 'macro_f1'), 'classify')
    metrics.installed(('accuracy', 'rougeL', 'bleu'), 'answer')
