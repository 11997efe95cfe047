"""Is what is learned of a task what its definition says, on one device and on any mesh?"""

import jax
import numpy as np
import pytest

from gpt_jax import assemble
from gpt_jax.data import encoded, packed, task_corpus
from gpt_jax.data.examples import Choice, Classified, Labelled, Preference
from gpt_jax.errors import UserError
from gpt_jax.finetune import head
from gpt_jax.model import loss as losses
from gpt_jax.model.gpt import GPT, unstack
from gpt_jax.modes import task_scores
from gpt_jax.parallel.place import ANYWHERE
from tests.data.test_packed import BYTES, NEEDED
from tests.parallel.test_strategies import same
from tests.train.test_step import run

STEPS, CONTEXT = 3, 48
WORDS = ('one', 'two', 'three', 'four', 'five', 'six')


def examples(kind, count=60):
    rng = np.random.default_rng(7)

    def some(most=3):
        return ' '.join(rng.choice(WORDS, rng.integers(1, most)))

    def one():
        if kind == 'classify':
            return Classified((some(), some()), int(rng.integers(2)), True)
        if kind == 'choose':
            return Choice(some(2), (some(2), some(2), some(2)), int(rng.integers(3)))
        if kind == 'label':
            words = tuple(rng.choice(WORDS, 4))
            return Labelled(words, tuple(int(n) for n in rng.integers(0, 3, 4)))
        return Preference(some(), some(), some())

    return [one() for _ in range(count)]


class Line:
    def note(self, text):
        pass


@pytest.fixture
def made(settings):
    """(settings, corpus) of a task on some mesh."""

    def make(kind, **fields):
        given = {f'task.{name}': value for name, value in NEEDED[kind].items()}
        more = {'task.second': '{b}', 'task.symmetric': True} if kind == 'classify' else {}
        s = settings(
            given | more | {'task.kind': kind, 'task.source': 'made:sentiment', 'model.context': CONTEXT,
             'model.vocab_size': 264, 'model.heads': 4, 'model.scan_layers': True} | fields
        )  # fmt: skip
        splits = {'train': examples(kind), 'validation': examples(kind, 20)}
        return s, task_corpus.make(s.task, splits, BYTES, CONTEXT, print)

    return make


def batches(s, corpus, rows=None):
    for first in range(0, STEPS * s.train.batch, s.train.batch):
        yield (rows or corpus.train).take(np.arange(first, first + s.train.batch) % len(corpus.train))


MESHES = {
    'fsdp_and_tensor': {'mesh.data': 2, 'mesh.fsdp': 2, 'mesh.tensor': 2, 'mesh.strategy': 'fsdp'},
    'pipeline': {'mesh.data': 2, 'mesh.pipeline': 2, 'mesh.tensor': 2},
    'data': {'mesh.data': 2},
    'microbatches': {'mesh.data': 2, 'train.microbatch': 2},
}
CASES = [
    pytest.param('classify', 'fsdp_and_tensor', marks=pytest.mark.slow),
    pytest.param('choose', 'pipeline', marks=pytest.mark.slow),
    pytest.param('label', 'microbatches', marks=pytest.mark.slow),
    ('label', 'data'),
    pytest.param('prefer', 'fsdp_and_tensor', marks=pytest.mark.slow),
]


@pytest.mark.parametrize(('kind', 'mesh'), CASES)
def test_every_mesh_learns_and_decides_as_one_device(made, kind, mesh):
    auxiliary = {} if kind == 'prefer' else {'task.auxiliary': 0.5}
    found = []
    for fields in ({}, MESHES[mesh]):
        s, corpus = made(kind, **auxiliary, **fields)
        program = assemble.build(s)
        rows = corpus.train
        if kind == 'prefer':
            rows = task_scores.with_references(s, program, rows, program.init().params, Line())
        losses_and_state = run(s, batches=batches(s, corpus, rows))
        params = losses_and_state[1].params
        decided = task_scores.decide(s, program, rows, params, Line())
        found.append((losses_and_state, decided))
    (alone, one), (spread, many) = found
    same(alone, spread)
    np.testing.assert_allclose(many.scores, one.scores, atol=2e-3)
    np.testing.assert_array_equal(many.answers, one.answers)
    assert alone[0][0] == pytest.approx(np.log({'choose': 3, 'label': 3}.get(kind, 2)), abs=0.1)


def features(s, params, row):
    """Of one stretch alone in a row of its own."""
    ids = np.asarray(row, np.int32)[None]
    return GPT(s.model, ANYWHERE, train=False).apply({'params': unstack(params, s.model.layers)}, ids)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    'kind', ['choose', *(pytest.param(kind, marks=SLOW) for kind in ('classify', 'label', 'prefer'))]
)
def test_scores_are_those_of_each_example_alone(made, kind):
    """Packed rows, groups and masks against one text at a time, in the definition's own words."""
    s, corpus = made(kind)
    program = assemble.build(s)
    params = program.init().params
    rows = corpus.validation
    if kind == 'prefer':
        nothing = [[np.zeros(one.inputs, np.float32) for one in example.stretches] for example in rows.examples]
        rows = packed.dataclasses.replace(rows, references=nothing)
    decided = task_scores.decide(s, program, rows, params, Line())
    expected = []
    for example in rows.examples[:6]:
        outputs = []
        for one in example.stretches:
            found = features(s, params, one.ids[: one.inputs])
            if kind == 'prefer':
                log_p = losses.log_probabilities(found.x_BLD, found.w_VD, one.ids[None, 1:], s.model)
                outputs.append(float(np.sum(np.asarray(log_p[0], np.float64)[one.learned[1:]])))
            else:
                z_LY = np.asarray(head.scores(params, found.x_BLD, s.task, s.model, ANYWHERE)[0], np.float64)
                outputs.append(z_LY[np.nonzero(one.read[: one.inputs])[0]])
        if kind == 'classify':
            expected.append(outputs[0][0] + outputs[1][0])
        elif kind == 'label':
            expected.extend(outputs[0])
        else:
            expected.append(np.ravel(outputs))
    np.testing.assert_allclose(decided.scores[: len(expected)], np.stack(expected), atol=1e-4)


def test_preferences_begin_at_log_2_and_fall(made):
    """Rafailov et al. 2023, equation 7: no text is likelier than before, so every margin is 0."""
    s, corpus = made('prefer', **{'optimizer.learning_rate': 3e-3})
    program = assemble.build(s)
    rows = task_scores.with_references(s, program, corpus.train, program.init().params, Line())
    found, state = run(s, batches=batches(s, corpus, rows))
    assert found[0] == pytest.approx(np.log(2), abs=1e-5)
    assert found[-1] < found[0]
    scored = task_scores.decide(s, program, rows, state.params, Line()).scores
    assert np.mean(scored[:, 0] > scored[:, 1]) > 0.5


def test_the_loss_of_the_text_beside_has_its_coefficient(made):
    """GPT-1, equation 5, with both losses as means: per question, and per target."""
    s, corpus = made('classify', **{'task.auxiliary': 0.5})
    plain, _ = made('classify')
    batch = corpus.train.take(np.arange(len(corpus.train)))
    params = assemble.build(s).init().params
    params = unstack(params, s.model.layers)
    with_text = assemble.summed_loss(s.model, ANYWHERE, train=False, task=s.task)(params, batch, jax.random.key(0))
    without = assemble.summed_loss(s.model, ANYWHERE, train=False, task=plain.task)(params, batch, jax.random.key(0))
    text = assemble.summed_loss(s.model, ANYWHERE, train=False)(params, batch, jax.random.key(0))[1]
    mean = (with_text[0] - without[0]) / without[1]['weight']
    assert float(mean) == pytest.approx(0.5 * float(text['loss'] / text['weight']), rel=1e-4)


def test_a_text_cut_over_devices_is_refused(made):
    with pytest.raises(UserError, match=r'mesh\.context: .* classify'):
        assemble.build(made('classify', **{'mesh.context': 2})[0])


def test_every_kind_is_learned_somehow():
    from gpt_jax import objective

    assert set(objective.KINDS) == {'none', *encoded.CODERS}
