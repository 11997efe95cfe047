"""Are a task's splits apart, its choice of rows fixed, and its fingerprint that of what is learned from?"""

import json

import pytest

from gpt_jax import overrides, schema
from gpt_jax.data import rows, task_set
from gpt_jax.data.task import TaskConfig
from gpt_jax.errors import UserError


@pytest.fixture
def load(tmp_path):
    """Writes rows to a file and loads the task of classifying them; what was said stands in `load.said`."""

    def make(given, validation=None, **fields):
        (tmp_path / 'train.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in given))
        values = {'kind': 'classify', 'source': f'files:{tmp_path}/train.jsonl', 'prompt': '{text}', 'label': 'label',
                  'labels': ['no', 'yes'], 'validation_fraction': 0.2}  # fmt: skip
        if validation is not None:
            (tmp_path / 'other.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in validation))
            values['validation_source'] = f'files:{tmp_path}/other.jsonl'
        config = schema.from_dict(TaskConfig, overrides.defaults()['task'] | values | fields, 'task')
        make.said = []
        return task_set.load(config, str(tmp_path / 'cache'), None, make.said.append)

    return make


def made(count, **more):
    return [{'id': number, 'text': f'text {number}', 'label': number % 2} | more for number in range(count)]


def texts(found, split):
    return [example.texts[0] for example in found.examples(split)]


def test_splits_hold_every_row_once(load):
    found = load(made(400))
    both = texts(found, 'train') + texts(found, 'validation')
    assert sorted(both) == sorted(f'text {number}' for number in range(400))
    assert 40 < found.counts['validation'] < 120  # a fifth of 400, within five standard deviations
    assert found.counts == {'train': len(texts(found, 'train')), 'validation': len(texts(found, 'validation'))}
    assert texts(found, 'train') == texts(found, 'train')


def test_copies_stay_on_one_side_whatever_their_ids_and_labels(load):
    given = made(100) + [row | {'id': row['id'] + 1000, 'label': 1 - row['label']} for row in made(100)]
    found = load(given)
    assert not set(texts(found, 'train')) & set(texts(found, 'validation'))
    assert found.counts['train'] + found.counts['validation'] == 200


def test_another_wording_carves_alike(load):
    one = texts(load(made(100)), 'validation')
    other = load(made(100), prompt='Say: {text}')
    assert [text.removeprefix('Say: ') for text in texts(other, 'validation')] == one


def test_limit_is_a_fixed_choice(load):
    whole = texts(load(made(300)), 'train')
    some, more = (texts(load(made(300), limit=limit), 'train') for limit in (20, 40))
    assert len(some) == 20
    assert set(some) < set(more) < set(whole)
    assert some != whole[:20]
    assert some == [text for text in whole if text in some]  # in their order
    found = load(made(300), limit=20)
    assert found.counts['train'] == 20
    assert texts(found, 'validation') == texts(load(made(300)), 'validation')
    assert load(made(300), limit=1000).counts['train'] == len(whole)


def test_limit_counts_copies(load):
    found = load([{'text': 'same', 'label': 1}] * 30, validation=made(3), limit=7)
    assert len(texts(found, 'train')) == found.counts['train'] == 7


def test_fingerprint(load, tmp_path):
    one = load(made(50)).fingerprint
    assert one == load(made(50)).fingerprint
    assert len(one) == 64
    changed = made(50)
    changed[7]['text'] += '!'
    others = [
        load(changed), load(made(50), prompt='{text}.'), load(made(50), limit=5), load(made(50), labels=['nay', 'yes']),
        load(made(50), validation_fraction=0.3), load(made(51)), load(made(50, more=1)),
        load(made(50), validation=made(2)),
    ]  # fmt: skip
    assert len({one, *(other.fingerprint for other in others)}) == 9
    load(made(50))
    (tmp_path / 'copy.jsonl').write_text((tmp_path / 'train.jsonl').read_text())
    assert load(made(50), source=f'files:{tmp_path}/copy.jsonl').fingerprint == one  # the same rows elsewhere
    assert load(made(50), auxiliary=0.5, cut='right').fingerprint == one  # how it is learned is not what is learned


def test_rows_come_with_their_examples(load):
    found = load(made(9), validation=made(2, test='assert x'))
    ((row, example), _) = found.pairs('validation')
    assert row.columns == {'id': 0, 'text': 'text 0', 'label': 0, 'test': 'assert x'}
    assert row.place.endswith('other.jsonl:1')
    assert example.label == 0


def test_rows_without_labels_are_passed_over_and_told(load):
    found = load([*made(10), {'text': 'x', 'label': -1}], validation=[{'text': 'y', 'label': None}, *made(1)])
    assert found.counts == {'train': 10, 'validation': 1}
    assert load.said == [
        'task: 1 of 11 rows of train have nothing to learn (no label, no words, or two equal answers): passed over',
        'task: 1 of 2 rows of validation have nothing to learn (no label, no words, or two equal answers): passed over',
    ]


@pytest.mark.parametrize(
    ('given', 'validation', 'message'),
    [
        ([], None, r'^config\.task\.source: files:.*: holds no rows$'),
        ([], made(1), r'^config\.task\.source: .*: holds no rows for train'),
        (made(1), None, r'^config\.task\.source: .*: holds no rows for (train|validation); .*validation_fraction=0\.2'),
        (made(5), [], r'^config\.task\.validation_source: .*: holds no rows for validation'),
        ([{'text': 'x', 'label': -1}], made(2), r'^config\.task\.source: .*: none of its 1 rows for train has a label'),
        ([{'text': '\ud800', 'label': 1}], made(2), r'train\.jsonl:1: holds half a surrogate pair'),
        ([{'text': 'x', 'label': 3}], made(2), r'train\.jsonl:1: 3 is none of the labels'),
    ],
)
def test_what_cannot_be_learned_from(load, given, validation, message):
    with pytest.raises(UserError, match=message) as caught:
        load(given, validation)
    assert '\n' not in str(caught.value)


def test_training_data_does_not_validate(load, tmp_path):
    with pytest.raises(UserError, match=r'^config\.task\.validation_source: .*train\.jsonl is training data too'):
        load(made(5), validation_source=f'files:{tmp_path}/*.jsonl')


def test_chat_wants_a_template(load):
    with pytest.raises(
        UserError, match=r'^config\.task\.chat: the tokenizer carries no chat template; put a chat_template'
    ):
        load(made(5), kind='answer', answer='{text}', prompt='', label='', labels=[], chat=True)


def test_a_source_of_its_own_splits(load, monkeypatch):
    def read(field, source, cache):
        del field, cache
        if source == 'made:without':
            return rows.Rows({'test': lambda: iter(())}, {})
        splits = {
            split: lambda split=split: iter([rows.Row(split, {'text': split, 'label': 0})]) for split in rows.SPLITS
        }
        return rows.Rows(splits, {'label': ('yes', 'no')})

    monkeypatch.setattr(rows, 'read', read)
    found = load([], source='made:x')
    assert {split: texts(found, split) for split in rows.SPLITS} == {split: [split] for split in rows.SPLITS}
    assert next(found.examples('test')).label == 1  # 'yes' by the source's own words
    with pytest.raises(UserError, match=r'^config\.task\.source: made:without has no train split \(it has test\)'):
        load([], source='made:without')
