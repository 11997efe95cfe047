"""Is a model asked what it is said to be asked, in training and afterwards, and are its answers counted right?"""

import json

import numpy as np
import pytest

from gpt_jax.data.examples import Answer, Choice
from gpt_jax.errors import UserError
from gpt_jax.evaluate.scoring import Scored
from gpt_jax.modes import suite_tasks
from gpt_jax.modes.suite import downstream
from gpt_jax.modes.suite_tasks import Asked, Question
from tests import program

TASK = """from configs import base


def get_config():
    config = base.get_config()
    config.task.update(kind='choose', source='files:{rows}', prompt='{{text}}', choices=(' fun', ' dull'), label='mood')
    config.task.labels = ('good', 'bad')
    return config
"""


@pytest.fixture(scope='module')
def task(tmp_path_factory):
    """A config of a task whose answers the training text knows, and one whose are written."""
    folder = tmp_path_factory.mktemp('tasks')
    rows = [{'text': f'number {n}: it was', 'mood': ('good', 'bad')[n % 2]} for n in range(60)]
    (folder / 'rows.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    (folder / 'mood.py').write_text(TASK.format(rows=folder / 'rows.jsonl'))
    written = TASK.format(rows=folder / 'rows.jsonl').replace("kind='choose'", "kind='answer', answer=' {label}'")
    (folder / 'said.py').write_text(written.replace("choices=(' fun', ' dull'), ", ''))
    return folder


@pytest.fixture(scope='module')
def asked(tmp_path_factory, task, source):
    """A run that was asked while it was trained."""
    folder = tmp_path_factory.mktemp('runs') / 'asked'
    tasks = f"('{task}/mood.py','{task}/said.py')"
    fields = {'config__suite__tasks': tasks, 'config__suite__every': 10, 'config__suite__examples': 5}
    program.run(program.command(folder, config__data__source=source, **fields))
    return folder


def test_a_run_is_asked_every_so_many_steps(asked):
    rows = [json.loads(line) for line in (asked / 'metrics.jsonl').read_text().splitlines()]
    said = {row['step']: row for row in rows if 'suite_mood_accuracy' in row}
    assert list(said) == [10, 20, 30, 40]
    done = program.summary(asked)
    assert done['suite_mood_accuracy'] == said[40]['suite_mood_accuracy']
    assert done['suite_mood_chance'] == 0.5
    assert done['suite_mood_contaminated'] == 0
    assert done['suite_mood_error_clean'] == done['suite_mood_error']
    assert said[40]['suite_said_loss'] < said[10]['suite_said_loss']
    errors = [done['suite_mood_error'], done['suite_said_error']]
    assert done['downstream_error'] == pytest.approx(np.mean(errors))


def test_the_same_questions_are_asked_of_the_trained_model(asked, task, tmp_path):
    output = tmp_path / 'found.json'
    tasks = f'{task}/mood.py,{task}/said.py,bias,memorization'
    out, _ = program.run(
        [*program.command(None)[:2], '--mode=suite', f'--checkpoint={asked}', f'--tasks={tasks}', '--examples=5',
         f'--output={output}']
    )  # fmt: skip
    found = json.loads(output.read_text())['tasks']
    done = program.summary(asked)
    for task_name, name in (('mood', 'accuracy'), ('mood', 'loss'), ('said', 'loss'), ('said', 'exact')):
        assert found[task_name][name] == pytest.approx(done[f'suite_{task_name}_{name}'], rel=1e-4)
    assert found['mood']['contamination']['examples'] == 5
    assert found['mood']['contamination']['contaminated'] == 0
    assert set(found['said']) >= {'exact_match', 'f1'}
    assert found['bias']['all']['pairs'] == 80
    assert found['memorization']['train']['windows'] == 5
    assert 'mood' in out
    assert 'chance 0.500' in out


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--tasks=sentimant'], "no task 'sentimant'; the nearest is 'sentiment'"),
        (['--tasks=entities'], 'entities tags words, which takes a head'),
        (['--tasks=bias', '--shots=-1'], '--shots'),
        (['--tasks=bias:other:x'], 'bias:crows_pairs'),
        (['--tasks=bias', '--output=/gone/x.json'], 'there is no such folder'),
        (['--config=configs/gpt_tiny.py'], 'takes no --config'),
    ],
)
def test_what_is_wrong_is_one_line(asked, flags, message):
    _, err = program.run([*program.command(None)[:2], '--mode=suite', f'--checkpoint={asked}', *flags], code=2)
    assert message in err
    assert 'Traceback' not in err


def test_questions_whose_answers_do_not_fit_are_counted():
    questions = [Question('c', ('a' * size, 'b'), 0, Choice('c', ('a' * size, 'b'), 0), ('c',)) for size in (3, 19, 4)]
    said = []
    encode = lambda texts: [list(text) for text in texts]  # noqa: E731
    kept = suite_tasks.fitting(Asked('some', None, questions, 0, None), encode, 18, said.append)
    assert [len(one.choices[0]) for one in kept.questions] == [3, 4]
    assert said == ['some: 1 of 3 questions are left out: an answer longer than the context']
    with pytest.raises(UserError, match='no question has answers of less than 9 tokens'):
        suite_tasks.fitting(Asked('some', None, questions, 0, None), encode, 9, said.append)


def scored(*log_p, greedy=False):
    return Scored(np.array(log_p), greedy)


def test_scores_of_choices_and_answers():
    """By hand: raw takes the shorter answer, per token the longer one."""
    question = Question('c', (' ab', ' c'), 0, Choice('c', (' ab', ' c'), 0), ('c',))
    results = suite_tasks.ask(
        Asked('some', None, [question], 0, None),
        lambda pairs: {2: [scored(-0.5, -0.6), scored(-1.0)],
                       4: [scored(-0.5, -0.6), scored(-1.0), scored(-9.0), scored(-1.0)]}[len(pairs)],
        blank=True,
    )  # fmt: skip
    found = suite_tasks.scores(results)
    assert (found['accuracy'], found['accuracy_token'], found['accuracy_normalized']) == (0, 1, 1)
    p = np.exp(-1.1) / (np.exp(-1.1) + np.exp(-1.0))
    assert found['loss'] == pytest.approx(-np.log(p))
    assert found['ece'] == pytest.approx(1 - p)
    answer = Question('c', (' é',), None, Answer((('c', False), (' é', True)), ('é',)), ('c',))
    results = suite_tasks.ask(
        Asked('some', None, [answer] * 2, 0, None), lambda _: [scored(-1.0, -1.0), scored(-2.0, greedy=True)]
    )
    found = suite_tasks.scores(results)
    assert found == pytest.approx({'loss': 4 / 3, 'bits_per_byte': 4 / np.log(2) / 6, 'exact': 0.5, 'error': 0.5})


def test_the_mean_error_is_of_the_tasks_alone():
    values = {'suite_a_error': 0.5, 'suite_b_error': 0.1, 'suite_a_loss': 9.0, 'validation_loss': 2.0}
    assert downstream(values) == {'downstream_error': pytest.approx(0.3)}
    assert downstream({'validation_loss': 2.0}) == {}


def test_what_is_looked_for_in_a_training_text_is_what_stands_in_the_source(task, tmp_path):
    """Neither the template's words nor the label's are in it, so that a text is found where it was copied from."""
    from gpt_jax.evaluate import contamination
    from gpt_jax.evaluate.config import SuiteConfig

    suite = SuiteConfig(tasks=(), every=0, examples=0, shots=0, seed=0, overlap=13)
    asked = suite_tasks.load(str(task / 'mood.py'), suite, str(tmp_path), lambda _: None)
    texts = [one.texts for one in asked.questions]
    assert all(len(some) == 1 and some[0].endswith(': it was') for some in texts)
    found = contamination.find([text for (text,) in texts], [f'before. {texts[0][0]} after', 'other'])
    assert found.share[0] == 1
    assert 0 < found.clean().sum() < len(texts) + 1
