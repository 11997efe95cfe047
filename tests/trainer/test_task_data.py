"""Training on tasks: from pretrained weights, best checkpoints, early stopping, bitwise resume."""

import json
import re
import shutil
import socket
import sys

import numpy as np
import pytest

import gpt_jax
from gpt_jax.core.config import default_config
from gpt_jax.core.errors import UserError
from gpt_jax.evaluation import contamination
from gpt_jax.tasks import task_metrics
from gpt_jax.trainer import export_weights
from tests import in_process, program

TASK = {
    'config.name': 'mood',
    'config.task.kind': 'classification',
    'config.task.prompt': '{text}',
    'config.task.label': 'mood',
    'config.task.labels': "('bad','good')",
    'config.model.layers': 1,
    'config.model.context': 48,
    'config.train.eval_every': 10,
    'config.train.checkpoint_every': 8,
    'config.train.keep_best': True,
    'config.optimizer.learning_rate': 3e-3,
}
PAIRS = {
    'config.task.kind': 'preference',
    'config.task.chosen': '{better}',
    'config.task.rejected': '{worse}',
    'config.task.label': None,
    'config.task.labels': None,
    'config.optimizer.learning_rate': 1e-3,
}


@pytest.fixture(scope='module')
def rows(tmp_path_factory):
    """The source of a task: texts whose last word determines their mood."""
    path = tmp_path_factory.mktemp('task') / 'rows.jsonl'
    moods = [('bad', 'it was dull'), ('good', 'it was fun')]
    lines = [
        {
            'text': f'number {n}: {moods[n % 2][1]}',
            'mood': moods[n % 2][0],
            'better': ' fun',
            'worse': ' dull',
        }
        for n in range(120)
    ]
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return f'files:{path}'


@pytest.fixture(scope='module')
def weights(tmp_path_factory, source):
    """The folder of a text run, with a model shape that the task's config does not give."""
    folder = tmp_path_factory.mktemp('runs') / 'text'
    in_process.run(text_command(folder, source, 10))
    return folder


def text_command(folder, source, steps):
    fields = {
        'config.model.layers': 1,
        'config.model.width': 48,
        'config.model.context': 48,
        'config.train.steps': steps,
        'config.train.eval_every': 0,
    }
    return in_process.command(folder, **fields | {'config.data.source': source})


@pytest.fixture(scope='module', autouse=True)
def base_config_file(tmp_path_factory):
    """A config file with the default values only."""
    path = tmp_path_factory.mktemp('configs') / 'base.py'
    path.write_text('from gpt_jax import base_config as get_config\n')
    TASK['config'] = path


def command(workdir, rows, weights, fields=None):
    source = {'config.task.source': rows, 'config.init_from': weights}
    values = TASK | source | (fields or {}) | {'config.train.eval_tokens': None}
    return in_process.command(workdir, **values)


@pytest.fixture(scope='module')
def tuned(tmp_path_factory, rows, weights):
    folder = tmp_path_factory.mktemp('runs') / 'tuned'
    in_process.run(command(folder, rows, weights))
    return folder


def test_learns_with_the_pretrained_shape_and_saves_the_best(tuned, weights):
    done = program.summary(tuned)
    assert (done['width'], done['context'], done['role']) == (48, 48, 'finetuned')
    assert done['task'] == 'classification'
    assert done['vocab_size'] == 259  # bytes and three marks
    assert done['best_validation_accuracy'] > 0.9
    assert done['init_from'] == str(weights)
    assert done['train_examples'] + done['validation_examples'] == 120
    assert done['validation_examples_contaminated'] == 0
    assert done['validation_examples_repeated'] == 0
    scores = {
        row['step']: row['validation_accuracy']
        for row in read_rows(tuned)
        if 'validation_accuracy' in row
    }
    assert done['best_step'] == min(step for step in scores if scores[step] == max(scores.values()))
    assert [path.name for path in (tuned / 'best' / 'checkpoints').iterdir() if path.is_dir()] == [
        str(done['best_step'])
    ]


def test_evaluate_reproduces_the_best_validation(tuned, rows, weights):
    out, _ = in_process.run([*command(tuned, rows, weights), '--mode=evaluate'])
    scores = json.loads(out)
    assert scores['step'] == program.summary(tuned)['best_step']
    assert scores['validation_accuracy'] == program.summary(tuned)['best_validation_accuracy']


def test_training_data_is_that_of_the_pretrained_model(tuned, weights, source, tmp_path):
    (data,) = contamination.read_training_data(tuned)
    assert data.source == source
    assert contamination.find_training_data('none', data, str(weights)) == [data, data]
    assert contamination.read_training_data(tmp_path) == []


LORA = {
    'config.finetune.rank': 2,
    'config.finetune.targets': "('all-linear',)",
    'config.finetune.dropout': 0.1,
}


@pytest.mark.parametrize(
    'kind',
    [
        'classification',
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ('adapters', 'preference')),
    ],
)
def test_interrupted_run_equals_the_whole_run_bitwise(tmp_path, rows, weights, tuned, kind):
    fields = {
        'preference': PAIRS | {'config.train.early_stopping_patience': 3},
        'adapters': LORA,
        'classification': {},
    }[kind]
    whole = tuned
    if fields:
        whole = tmp_path / 'whole'
        in_process.run(command(whole, rows, weights, fields))
    broken = tmp_path / 'broken'
    in_process.run_until(command(broken, rows, weights, fields), 18)
    in_process.run(command(broken, rows, weights, fields))
    assert (broken / 'metrics.jsonl').read_bytes() == (whole / 'metrics.jsonl').read_bytes()
    for name in ('parameters_sha256', 'best_step', 'steps'):
        assert program.summary(broken)[name] == program.summary(whole)[name]


def test_adapters_are_saved_alone_and_exported_to_peft(tmp_path, rows, weights):
    """The run, its merged weights and its exported adapters give a text the same logits."""
    fields = {
        'config.task.kind': 'completion',
        'config.task.prompt': '{text}: ',
        'config.task.answer': '{mood}',
        'config.task.label': None,
        'config.task.labels': None,
        'config.train.steps': 20,
        'config.train.eval_every': 20,
    } | LORA
    in_process.run(command(tmp_path / 'run', rows, weights, fields))
    size = lambda folder: sum(path.stat().st_size for path in folder.rglob('*') if path.is_file())
    assert size(tmp_path / 'run' / 'checkpoints') < size(weights / 'checkpoints') / 2
    export_weights.export_weights(
        tmp_path / 'run', tmp_path / 'merged', default_config(), 'float32', print
    )
    arguments = ['export', tmp_path / 'run', tmp_path / 'adapters', '--adapters']
    _, err = in_process.run([sys.executable, '-m', 'gpt_jax', *map(str, arguments)])
    assert f'{weights}: a run folder, which PEFT cannot read' in err
    assert sorted(path.name for path in (tmp_path / 'adapters').iterdir()) == [
        'adapter_config.json',
        'adapter_model.safetensors',
    ]
    text = 'number 3: it was fun'
    run, merged, peft, before = (
        gpt_jax.load(folder, log=lambda _: None).logits(text)
        for folder in (tmp_path / 'run', tmp_path / 'merged', tmp_path / 'adapters', weights)
    )
    np.testing.assert_allclose(merged, run, atol=1e-5)
    np.testing.assert_allclose(peft, run, atol=1e-5)
    assert np.abs(before - run).max() > 0.01


@pytest.mark.slow
def test_changed_pretrained_weights_are_rejected(tmp_path, rows, weights, source):
    base = tmp_path / 'base'
    shutil.copytree(weights, base)
    in_process.run(command(tmp_path / 'run', rows, base, LORA))
    (tmp_path / 'run' / 'summary.json').unlink()
    shutil.rmtree(base)
    in_process.run(text_command(base, source, 11))
    _, err = in_process.run(command(tmp_path / 'run', rows, base, LORA), code=2)
    assert 'hold the weights that this run began with' in err


def test_run_without_progress_stops_early(tmp_path, rows):
    fields = {
        'config.optimizer.learning_rate': 1e-30,
        'config.train.early_stopping_patience': 2,
        'config.train.steps': 200,
    }
    _, err = in_process.run(command(tmp_path, rows, '', fields))
    done = program.summary(tmp_path)
    assert (done['steps'], done['best_step'], done['role']) == (30, 10, 'task')
    assert '2 validations without a better validation_accuracy' in err


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'config.task.prompt': '{txt}'}, "'txt'.*'text'"),
        ({'config.task.labels': "('bad','fine')"}, 'good'),
        ({'config.task.metrics': "('acuracy',)"}, "task.metrics: .*nearest is 'accuracy'"),
        ({'config.init_from': '/gone'}, '/gone: holds no checkpoint'),
        ({'--mode': 'benchmark'}, '--mode=benchmark: task.kind must be none'),
        (
            {'config.train.early_stopping_patience': 2, 'config.train.eval_every': 0},
            'config.train.early_stopping_patience',
        ),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, rows, fields, message):
    mode = [f'--mode={fields.pop("--mode")}'] if '--mode' in fields else []
    _, err = in_process.run([*command(tmp_path / 'run', rows, '', fields), *mode], code=2)
    last = err.strip().splitlines()[-1]
    assert re.search(message, last), last
    assert not (tmp_path / 'run').exists()


def read_rows(folder):
    return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize('fields', [{}, LORA, PAIRS])
def test_two_processes_equal_one(tmp_path, rows, weights, fields):
    def train(folder, processes):
        with socket.socket() as probe:
            probe.bind(('127.0.0.1', 0))
            port = probe.getsockname()[1]
        mesh = {'config.mesh.cpu_devices': 2 // processes, 'config.mesh.data': 2}
        all_fields = fields | mesh | {'config.train.steps': 10}
        running = [
            program.start(
                [
                    *command(folder, rows, weights, all_fields),
                    *(
                        [f'--distributed=127.0.0.1:{port},{processes},{index}']
                        if processes > 1
                        else []
                    ),
                ]
            )
            for index in range(processes)
        ]
        for process in running:
            out, err = process.communicate(timeout=600)
            assert process.returncode == 0, out + err
        return [
            {
                name: row[name]
                for name in ('loss', 'validation_loss', 'validation_accuracy')
                if name in row
            }
            for row in read_rows(folder)
        ]

    single, double = train(tmp_path / 'one', 1), train(tmp_path / 'two', 2)
    assert len(single) == len(double)
    for expected, row in zip(single, double, strict=True):
        assert row == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_run_that_stopped_early_is_not_trained_further(tmp_path, rows):
    """As if killed before the summary was written."""
    fields = {
        'config.optimizer.learning_rate': 1e-30,
        'config.train.early_stopping_patience': 2,
        'config.train.steps': 60,
    }
    arguments = command(tmp_path, rows, '', fields)
    in_process.run(arguments)
    before = program.summary(tmp_path)
    (tmp_path / 'summary.json').unlink()
    in_process.run(arguments)
    for name in ('steps', 'best_step', 'parameters_sha256'):
        assert program.summary(tmp_path)[name] == before[name]
    # The loaded model's vocabulary includes the marks between texts.
    assert gpt_jax.load(tmp_path, log=lambda _: None).config.vocab_size == 259


def test_metric_libraries_are_required_before_training(monkeypatch):
    monkeypatch.setitem(task_metrics.LIBRARIES, 'macro_f1', 'nothing.of.this.name')
    with pytest.raises(UserError, match=r"pip install -e '\.\[eval\]'"):
        task_metrics.require_libraries(('accuracy', 'macro_f1'), 'classification')
    task_metrics.require_libraries(('accuracy', 'rougeL', 'bleu'), 'completion')
