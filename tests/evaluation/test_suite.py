"""Suite tasks during training and by `gpt-jax eval`, and scores worked out by hand."""

import json
import sys

import numpy as np
import pytest

from gpt_jax.core.config import SuiteConfig
from gpt_jax.core.errors import UserError
from gpt_jax.evaluation import contamination, suite_tasks
from gpt_jax.evaluation.suite_tasks import EvalQuestion, EvalRequest
from gpt_jax.inference.scoring import ContinuationScore
from gpt_jax.tasks.examples import CompletionExample, MultipleChoiceExample
from gpt_jax.trainer.summary import mean_downstream_error
from tests import in_process, program

MOOD_TASK = """from gpt_jax import base_config


def get_config():
    config = base_config()
    config.task.update({{
        'kind': 'multiple_choice',
        'source': 'files:{rows}',
        'prompt': '{{text}}',
        'choices': (' fun', ' dull'),
        'label': 'mood',
        'labels': ('good', 'bad'),
    }})
    return config
"""
COMPLETION_TASK = """from gpt_jax import base_config


def get_config():
    config = base_config()
    config.task.update({{
        'kind': 'completion',
        'source': 'files:{rows}',
        'prompt': '{{text}}',
        'answer': ' {{label}}',
        'label': 'mood',
        'labels': ('good', 'bad'),
    }})
    return config
"""


@pytest.fixture(scope='module')
def tasks_folder(tmp_path_factory):
    """Config files of two tasks on the same rows: multiple choice and completion."""
    folder = tmp_path_factory.mktemp('tasks')
    rows = [{'text': f'number {n}: it was', 'mood': ('good', 'bad')[n % 2]} for n in range(60)]
    path = folder / 'rows.jsonl'
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    (folder / 'mood.py').write_text(MOOD_TASK.format(rows=path))
    (folder / 'said.py').write_text(COMPLETION_TASK.format(rows=path))
    return folder


@pytest.fixture(scope='module')
def run(tmp_path_factory, tasks_folder, source):
    """A run that is evaluated during training."""
    folder = tmp_path_factory.mktemp('runs') / 'evaluated'
    fields = {
        'config__suite__tasks': f"('{tasks_folder}/mood.py','{tasks_folder}/said.py')",
        'config__suite__every': 10,
        'config__suite__max_examples': 5,
        'config__model__layers': 1,
    }
    in_process.run(in_process.command(folder, config__data__source=source, **fields))
    return folder


def run_eval(model, *arguments, code=0):
    command = [sys.executable, '-m', 'gpt_jax', 'eval', str(model), *arguments]
    return in_process.run(command, code=code)


def test_a_run_is_evaluated_every_few_steps(run):
    rows = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
    by_step = {row['step']: row for row in rows if 'suite_mood_accuracy' in row}
    assert list(by_step) == [10, 20, 30, 40]
    summary = program.summary(run)
    assert summary['suite_mood_accuracy'] == by_step[40]['suite_mood_accuracy']
    assert summary['suite_mood_chance'] == 0.5
    assert summary['suite_mood_contaminated'] == 0
    assert summary['suite_mood_error_clean'] == summary['suite_mood_error']
    assert by_step[40]['suite_said_loss'] < by_step[10]['suite_said_loss']
    errors = [summary['suite_mood_error'], summary['suite_said_error']]
    assert summary['downstream_error'] == pytest.approx(np.mean(errors))


def test_eval_agrees_with_the_evaluation_during_training(run, tasks_folder, tmp_path):
    path = tmp_path / 'results.json'
    tasks = f'{tasks_folder}/mood.py,{tasks_folder}/said.py,bias,memorization'
    out, _ = run_eval(run, f'--tasks={tasks}', '--max_examples=5', f'--output={path}')
    results = json.loads(path.read_text())['tasks']
    summary = program.summary(run)
    for task, name in (('mood', 'accuracy'), ('mood', 'loss'), ('said', 'loss'), ('said', 'exact')):
        expected = pytest.approx(summary[f'suite_{task}_{name}'], rel=1e-4)
        assert results[task][name] == expected
    assert results['mood']['contamination']['examples'] == 5
    assert results['mood']['contamination']['contaminated'] == 0
    assert set(results['said']) >= {'exact_match', 'f1'}
    assert results['bias']['all']['pairs'] == 80
    assert results['memorization']['train']['windows'] == 5
    assert 'mood' in out
    assert 'chance 0.500' in out


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--tasks=sentimant'], "no task 'sentimant'; the nearest is 'sentiment'"),
        (['--tasks=entities'], 'entities tags tokens, which needs a head'),
        (['--tasks=bias', '--num_fewshot=-1'], '--num_fewshot'),
        (['--tasks=bias:other:x'], 'bias:crows_pairs'),
        (['--tasks=bias', '--output=/gone/x.json'], 'no such folder'),
    ],
)
def test_errors_are_one_line(run, arguments, message):
    _, err = run_eval(run, *arguments, code=2)
    assert message in err
    assert 'Traceback' not in err


def make_choice_question(choices):
    return EvalQuestion('c', choices, 0, MultipleChoiceExample('c', choices, 0), ('c',))


def make_request(*questions):
    return EvalRequest('some', None, list(questions), 0, None)


def test_questions_whose_answers_do_not_fit_are_dropped():
    request = make_request(*(make_choice_question(('a' * size, 'b')) for size in (3, 19, 4)))
    lines = []
    encode = lambda texts: [list(text) for text in texts]
    fitting = suite_tasks.fit_context(request, encode, 18, lines.append)
    assert [len(question.choices[0]) for question in fitting.questions] == [3, 4]
    assert lines == ['some: 1 of 3 questions are dropped: an answer does not fit in the context']
    with pytest.raises(UserError, match='no question has answers of fewer than 9 tokens'):
        suite_tasks.fit_context(request, encode, 9, lines.append)


def make_score(*log_p, greedy=False):
    return ContinuationScore(np.array(log_p), greedy)


def test_scores_of_choices():
    """By hand: the raw score prefers the shorter answer, the score per token the longer one."""
    choices = [make_score(-0.5, -0.6), make_score(-1.0)]
    blank = [make_score(-9.0), make_score(-1.0)]
    scores = {2: choices, 4: choices + blank}
    results = suite_tasks.score_questions(
        make_request(make_choice_question((' ab', ' c'))),
        lambda pairs: scores[len(pairs)],
        blank=True,
    )
    summary = suite_tasks.summarize_scores(results)
    names = ('accuracy', 'accuracy_token', 'accuracy_normalized')
    assert [summary[name] for name in names] == [0, 1, 1]
    p = np.exp(-1.1) / (np.exp(-1.1) + np.exp(-1.0))
    assert summary['loss'] == pytest.approx(-np.log(p))
    assert summary['ece'] == pytest.approx(1 - p)


def test_scores_of_completions():
    example = CompletionExample((('c', False), (' é', True)), ('é',))
    question = EvalQuestion('c', (' é',), None, example, ('c',))
    results = suite_tasks.score_questions(
        make_request(question, question),
        lambda _: [make_score(-1.0, -1.0), make_score(-2.0, greedy=True)],
    )
    expected = {'loss': 4 / 3, 'bits_per_byte': 4 / np.log(2) / 6, 'exact': 0.5, 'error': 0.5}
    assert suite_tasks.summarize_scores(results) == pytest.approx(expected)


def test_the_downstream_error_is_the_mean_over_tasks():
    values = {
        'suite_a_error': 0.5,
        'suite_b_error': 0.1,
        'suite_a_loss': 9.0,
        'validation_loss': 2.0,
    }
    assert mean_downstream_error(values) == {'downstream_error': pytest.approx(0.3)}
    assert mean_downstream_error({'validation_loss': 2.0}) == {}


def test_contamination_is_of_the_source_text(tasks_folder, tmp_path):
    """Words of the template and of the label are left out, so that a copied text is found."""
    suite_config = SuiteConfig(
        tasks=(), every=0, max_examples=0, num_fewshot=0, seed=0, contamination_ngram=13
    )
    request = suite_tasks.load_task(
        str(tasks_folder / 'mood.py'), suite_config, str(tmp_path), lambda _: None
    )
    texts = [question.source_texts for question in request.questions]
    assert all(len(each) == 1 and each[0].endswith(': it was') for each in texts)
    overlap = contamination.measure_overlap(
        [text for (text,) in texts], [f'before. {texts[0][0]} after', 'other']
    )
    assert overlap.share[0] == 1
    assert 0 < overlap.clean_mask().sum() < len(texts) + 1
