"""Task losses equal their definitions, on one device and on any mesh."""

import dataclasses

import jax
import numpy as np
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.finetune import heads
from gpt_jax.model.gpt import GPT, unstack_layers
from gpt_jax.model.loss import compute_log_probs
from gpt_jax.parallel.sharding import UNSHARDED
from gpt_jax.tasks import encoding, task_dataset
from gpt_jax.tasks.examples import (
    ClassificationExample,
    MultipleChoiceExample,
    PreferenceExample,
    TokenClassificationExample,
)
from gpt_jax.train.build import build_trainer_parts
from gpt_jax.train.objective import TASK_LOSSES, make_loss
from gpt_jax.trainer import task_validation
from tests.parallel.test_strategies import assert_same_runs
from tests.tasks.test_encoding import BYTES, REQUIRED
from tests.train.test_step import run_steps

STEPS, CONTEXT = 3, 48
WORDS = ('one', 'two', 'three', 'four', 'five', 'six')


def make_examples(kind, count=60):
    rng = np.random.default_rng(7)

    def draw_words(most=3):
        return ' '.join(rng.choice(WORDS, rng.integers(1, most)))

    def make_example():
        if kind == 'classification':
            texts = draw_words(), draw_words()
            return ClassificationExample(texts, int(rng.integers(2)), True)
        if kind == 'multiple_choice':
            choices = draw_words(2), (draw_words(2), draw_words(2), draw_words(2))
            return MultipleChoiceExample(*choices, int(rng.integers(3)))
        if kind == 'token_classification':
            words = tuple(rng.choice(WORDS, 4))
            return TokenClassificationExample(words, tuple(int(n) for n in rng.integers(0, 3, 4)))
        return PreferenceExample(draw_words(), draw_words(), draw_words())

    return [make_example() for _ in range(count)]


class SilentProgress:
    def note(self, text):
        pass


@pytest.fixture
def make_task(settings):
    """Make (config, dataset) of a task on some mesh."""

    def make(kind, **fields):
        task = {f'task.{name}': value for name, value in REQUIRED[kind].items()}
        if kind == 'classification':
            task |= {'task.text_pair': '{b}', 'task.symmetric': True}
        task |= {
            'task.kind': kind,
            'task.source': 'synthetic:sentiment',
            'model.context': CONTEXT,
            'model.vocab_size': 264,
            'model.layers': 1,
            'model.heads': 4,
        }
        config = settings(task | fields)
        splits = {'train': make_examples(kind), 'validation': make_examples(kind, 20)}
        dataset = task_dataset.make_task_dataset(config.task, splits, BYTES, CONTEXT, print)
        return config, dataset

    return make


def make_batches(config, packed):
    size = config.train.batch_size
    for first in range(0, STEPS * size, size):
        yield packed.make_batch(np.arange(first, first + size) % len(packed))


def add_references(config, parts, packed):
    params = parts.init_state().params
    return task_validation.add_reference_log_probs(config, parts, packed, params, SilentProgress())


MESHES = {
    'fsdp_and_tensor': {'mesh.data': 2, 'mesh.fsdp': 2, 'mesh.tensor': 2, 'mesh.strategy': 'fsdp'},
    'pipeline': {'mesh.data': 2, 'mesh.pipeline': 2, 'mesh.tensor': 2},
    'data': {'mesh.data': 2},
    'microbatches': {'mesh.data': 2, 'train.microbatch_size': 2},
}
CASES = [
    pytest.param('classification', 'fsdp_and_tensor', marks=pytest.mark.slow),
    pytest.param('multiple_choice', 'pipeline', marks=pytest.mark.slow),
    pytest.param('token_classification', 'microbatches', marks=pytest.mark.slow),
    ('token_classification', 'data'),
    pytest.param('preference', 'fsdp_and_tensor', marks=pytest.mark.slow),
]


@pytest.mark.parametrize(('kind', 'mesh'), CASES)
def test_every_mesh_trains_and_predicts_as_one_device(make_task, kind, mesh):
    common = {} if kind == 'preference' else {'task.lm_loss_weight': 0.5}
    if mesh == 'pipeline':
        common |= {'model.layers': 2}
    runs, predictions, start = [], [], None
    for fields in ({}, MESHES[mesh]):
        config, dataset = make_task(kind, **common, **fields)
        parts = build_trainer_parts(config)
        start = start or jax.device_get(parts.init_state())
        packed = dataset.train
        if kind == 'preference':
            packed = add_references(config, parts, packed)
        runs.append(run_steps(config, batches=make_batches(config, packed), start=start))
        params = runs[-1][1].params
        predictions.append(task_validation.predict(config, parts, packed, params, SilentProgress()))
    assert_same_runs(*runs)
    single, sharded = predictions
    np.testing.assert_allclose(sharded.scores, single.scores, atol=2e-3)
    np.testing.assert_array_equal(sharded.answers, single.answers)
    candidates = {'multiple_choice': 3, 'token_classification': 3}.get(kind, 2)
    first_loss = runs[0][0][0]
    assert first_loss == pytest.approx(np.log(candidates), abs=0.1)


def make_segment_scorer(config, params):
    """Make a function that scores a segment alone in a row as its task's definition says."""
    is_preference = config.task.kind == 'preference'

    @jax.jit
    def score_positions(ids, targets):
        model = GPT(config.model, UNSHARDED, train=False)
        output = model.apply({'params': unstack_layers(params, config.model.layers)}, ids[None])
        if is_preference:
            return compute_log_probs(output.x_BLD, output.w_VD, targets[None], config.model)[0]
        return heads.apply_head(params, output.x_BLD, config.task, config.model, UNSHARDED)[0]

    def score(segment):
        # What follows the segment is not visible to it.
        ids, targets = np.zeros((2, CONTEXT + 1), np.int32)
        ids[: len(segment.ids)] = segment.ids
        targets[: len(segment.ids) - 1] = segment.ids[1:]
        scores = np.asarray(score_positions(ids[:CONTEXT], targets[:CONTEXT]), np.float64)
        if is_preference:
            return scores[: len(segment.ids) - 1][segment.is_target[1:]].sum()
        return scores[np.nonzero(segment.loss_positions[: segment.num_inputs])[0]]

    return score


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    'kind',
    [
        'multiple_choice',
        pytest.param('classification', marks=SLOW),
        pytest.param('token_classification', marks=SLOW),
        pytest.param('preference', marks=SLOW),
    ],
)
def test_packed_scores_equal_those_of_each_segment_alone(make_task, kind):
    config, dataset = make_task(kind)
    parts = build_trainer_parts(config)
    params = parts.init_state().params
    packed = dataset.validation
    if kind == 'preference':
        zeros = [
            [np.zeros(segment.num_inputs, np.float32) for segment in example.segments]
            for example in packed.examples
        ]
        packed = dataclasses.replace(packed, reference_log_probs=zeros)
    predictions = task_validation.predict(config, parts, packed, params, SilentProgress())
    score, expected = make_segment_scorer(config, params), []
    for example in packed.examples[:6]:
        scores = [score(segment) for segment in example.segments]
        if kind == 'classification':  # both orders of the pair
            expected.append(scores[0][0] + scores[1][0])
        elif kind == 'token_classification':
            expected.extend(scores[0])
        else:
            expected.append(np.ravel(scores))
    np.testing.assert_allclose(predictions.scores[: len(expected)], np.stack(expected), atol=1e-4)


def test_preference_loss_starts_at_log_2_and_falls(make_task):
    """All margins are 0 at first, since the model is its own reference (Rafailov et al. 2023)."""
    config, dataset = make_task('preference', **{'optimizer.learning_rate': 3e-3})
    parts = build_trainer_parts(config)
    packed = add_references(config, parts, dataset.train)
    losses, state = run_steps(config, batches=make_batches(config, packed))
    assert losses[0] == pytest.approx(np.log(2), abs=1e-5)
    assert losses[-1] < losses[0]
    predictions = task_validation.predict(config, parts, packed, state.params, SilentProgress())
    assert np.mean(predictions.scores[:, 0] > predictions.scores[:, 1]) > 0.5


def test_the_auxiliary_text_loss_has_its_coefficient(make_task):
    """GPT-1, equation 5, with both losses as means: per question, and per target."""
    config, dataset = make_task('classification', **{'task.lm_loss_weight': 0.5})
    without_text, _ = make_task('classification')
    batch = dataset.train.make_batch(np.arange(len(dataset.train)))
    params = build_trainer_parts(config).init_state().params

    @jax.jit
    def compute(params, batch):
        params = unstack_layers(params, config.model.layers)
        return [
            make_loss(config.model, UNSHARDED, train=False, task=task)(
                params, batch, jax.random.key(0)
            )
            for task in (config.task, without_text.task, None)
        ]

    (objective, _), (head_objective, head_sums), (_, text_sums) = jax.device_get(
        compute(params, batch)
    )
    mean = (objective - head_objective) / head_sums['weight']
    expected = 0.5 * float(text_sums['loss'] / text_sums['weight'])
    assert float(mean) == pytest.approx(expected, rel=1e-4)


def test_tasks_with_questions_reject_a_context_axis(make_task):
    config, _ = make_task('classification', **{'mesh.context': 2})
    with pytest.raises(UserError, match=r'mesh\.context: must be 1 .* classification'):
        build_trainer_parts(config)


def test_every_task_has_a_loss():
    assert set(TASK_LOSSES) == {'none', *encoding.ENCODERS}
