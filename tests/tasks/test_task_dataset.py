"""Tests of task datasets: disjoint splits, a fixed choice of rows, and fingerprints."""

import json

import numpy as np
import pytest

from gpt_jax.core import config_fields
from gpt_jax.core.config import TaskConfig, default_config
from gpt_jax.core.errors import UserError
from gpt_jax.data import tokenizer
from gpt_jax.tasks import examples, row_sources, task_dataset
from gpt_jax.tasks.row_sources import Row
from tests.tasks import test_chat_template
from tests.tasks.test_encoding import make_task


@pytest.fixture
def load(tmp_path):
    """Writes rows to a file and loads the task of classifying them; logs to `load.log`."""

    def load_rows(train, validation=None, **fields):
        (tmp_path / 'train.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in train))
        values = {
            'kind': 'classification',
            'source': f'files:{tmp_path}/train.jsonl',
            'prompt': '{text}',
            'label': 'label',
            'labels': ['no', 'yes'],
            'validation_fraction': 0.2,
        }
        if validation is not None:
            (tmp_path / 'other.jsonl').write_text(
                ''.join(json.dumps(row) + '\n' for row in validation)
            )
            values['validation_source'] = f'files:{tmp_path}/other.jsonl'
        config = config_fields.from_dict(
            TaskConfig, default_config()['task'] | values | fields, 'task'
        )
        load_rows.log = []
        return task_dataset.load_examples(
            config, str(tmp_path / 'cache'), None, load_rows.log.append
        )

    return load_rows


def make_rows(count, **more):
    return [
        {'id': number, 'text': f'text {number}', 'label': number % 2} | more
        for number in range(count)
    ]


def texts(loaded, split):
    return [example.texts[0] for example in loaded.examples(split)]


def test_splits_have_every_row_once(load):
    loaded = load(make_rows(400))
    both = texts(loaded, 'train') + texts(loaded, 'validation')
    assert sorted(both) == sorted(f'text {number}' for number in range(400))
    assert 40 < loaded.counts['validation'] < 120  # a fifth of 400, within five standard deviations
    assert loaded.counts == {
        'train': len(texts(loaded, 'train')),
        'validation': len(texts(loaded, 'validation')),
    }
    assert texts(loaded, 'train') == texts(loaded, 'train')


def test_copies_share_a_split_despite_ids_and_labels(load):
    copies = [row | {'id': row['id'] + 1000, 'label': 1 - row['label']} for row in make_rows(100)]
    loaded = load(make_rows(100) + copies)
    assert not set(texts(loaded, 'train')) & set(texts(loaded, 'validation'))
    assert loaded.counts['train'] + loaded.counts['validation'] == 200


def test_another_prompt_holds_out_the_same_rows(load):
    expected = texts(load(make_rows(100)), 'validation')
    other = load(make_rows(100), prompt='Say: {text}')
    assert [text.removeprefix('Say: ') for text in texts(other, 'validation')] == expected


def test_max_examples_is_a_fixed_choice(load):
    everything = texts(load(make_rows(300)), 'train')
    some, more = (texts(load(make_rows(300), max_examples=count), 'train') for count in (20, 40))
    assert len(some) == 20
    assert set(some) < set(more) < set(everything)
    assert some != everything[:20]
    assert some == [text for text in everything if text in some]  # in the same order
    loaded = load(make_rows(300), max_examples=20)
    assert loaded.counts['train'] == 20
    assert texts(loaded, 'validation') == texts(load(make_rows(300)), 'validation')
    assert load(make_rows(300), max_examples=1000).counts['train'] == len(everything)


def test_max_examples_counts_copies(load):
    loaded = load([{'text': 'same', 'label': 1}] * 30, validation=make_rows(3), max_examples=7)
    assert len(texts(loaded, 'train')) == loaded.counts['train'] == 7


def test_fingerprint(load, tmp_path):
    first = load(make_rows(50)).fingerprint
    assert first == load(make_rows(50)).fingerprint
    assert len(first) == 64
    changed = make_rows(50)
    changed[7]['text'] += '!'
    others = [
        load(changed),
        load(make_rows(50), prompt='{text}.'),
        load(make_rows(50), max_examples=5),
        load(make_rows(50), labels=['nay', 'yes']),
        load(make_rows(50), validation_fraction=0.3),
        load(make_rows(51)),
        load(make_rows(50, more=1)),
        load(make_rows(50), validation=make_rows(2)),
    ]
    assert len({first, *(other.fingerprint for other in others)}) == 9
    load(make_rows(50))
    (tmp_path / 'copy.jsonl').write_text((tmp_path / 'train.jsonl').read_text())
    copied = load(make_rows(50), source=f'files:{tmp_path}/copy.jsonl')
    assert copied.fingerprint == first
    # Loss weights and truncation do not change the examples.
    other_loss = load(make_rows(50), lm_loss_weight=0.5, truncation_side='right')
    assert other_loss.fingerprint == first


def test_pairs_have_rows_and_examples(load):
    loaded = load(make_rows(9), validation=make_rows(2, test='assert x'))
    ((row, example), _) = loaded.pairs('validation')
    assert row.columns == {'id': 0, 'text': 'text 0', 'label': 0, 'test': 'assert x'}
    assert row.location.endswith('other.jsonl:1')
    assert example.label == 0


def test_rows_without_labels_are_skipped_and_logged(load):
    loaded = load(
        [*make_rows(10), {'text': 'x', 'label': -1}],
        validation=[{'text': 'y', 'label': None}, *make_rows(1)],
    )
    assert loaded.counts == {'train': 10, 'validation': 1}
    assert load.log == [
        'task: skipped 1 of 11 rows of train: no label, no words, or two equal answers',
        'task: skipped 1 of 2 rows of validation: no label, no words, or two equal answers',
    ]


@pytest.mark.parametrize(
    ('train', 'validation', 'message'),
    [
        ([], None, r'^config\.task\.source: files:.*: has no rows$'),
        ([], make_rows(1), r'^config\.task\.source: .*: has no rows for train'),
        (
            make_rows(1),
            None,
            r'^config\.task\.source: .*: has no rows for (train|validation); .*_fraction=0\.2',
        ),
        (make_rows(5), [], r'^config\.task\.validation_source: .*: has no rows for validation'),
        (
            [{'text': 'x', 'label': -1}],
            make_rows(2),
            r'^config\.task\.source: .*: all 1 rows of train lack a label',
        ),
        (
            [{'text': '\ud800', 'label': 1}],
            make_rows(2),
            r'train\.jsonl:1: must be valid Unicode, got a lone surrogate',
        ),
        ([{'text': 'x', 'label': 3}], make_rows(2), r'train\.jsonl:1: label must be in .*; got 3$'),
    ],
)
def test_unusable_rows_are_rejected(load, train, validation, message):
    with pytest.raises(UserError, match=message) as raised:
        load(train, validation)
    assert '\n' not in str(raised.value)


def test_training_files_cannot_be_validation_files(load, tmp_path):
    with pytest.raises(
        UserError,
        match=r'^config\.task\.validation_source: must not share files .*train\.jsonl in both',
    ):
        load(make_rows(5), validation_source=f'files:{tmp_path}/*.jsonl')


def test_chat_needs_a_template(load):
    with pytest.raises(
        UserError,
        match=r'^config\.task\.chat: must be False for a tokenizer without a chat template; or add',
    ):
        load(
            make_rows(5),
            kind='completion',
            answer='{text}',
            prompt='',
            label='',
            labels=[],
            chat=True,
        )


def test_source_with_its_own_splits(load, monkeypatch):
    def open_row_source(field, source, cache):
        del field, cache
        if source == 'synthetic:without':
            return row_sources.RowSource({'test': lambda: iter(())}, {})
        splits = {
            split: lambda split=split: iter([Row(split, {'text': split, 'label': 0})])
            for split in row_sources.SPLITS
        }
        return row_sources.RowSource(splits, {'label': ('yes', 'no')})

    monkeypatch.setattr(row_sources, 'open_row_source', open_row_source)
    loaded = load([], source='synthetic:x')
    assert {split: texts(loaded, split) for split in row_sources.SPLITS} == {
        split: [split] for split in row_sources.SPLITS
    }
    assert next(loaded.examples('test')).label == 1  # 'yes' by the source's class names
    with pytest.raises(
        UserError,
        match=r'^config\.task\.source: must have a train split, got synthetic:without with test$',
    ):
        load([], source='synthetic:without')


MARKS = ('<|im_start|>', '<|im_end|>')


@pytest.fixture(scope='module')
def bpe():
    import tokenizers

    plain = tokenizer.train_bpe(['Why? Because. Yes.\nAnd no. system user assistant'] * 3, 300)
    inner = tokenizers.Tokenizer.from_str(plain.content.decode())
    inner.add_special_tokens(list(MARKS))
    return tokenizer.parse_tokenizer_json(inner.to_str().encode(), 'the tokenizer')


def encode_dialogue(bpe, chat):
    task = make_task('completion', answer='', messages='turns', chat=chat)
    template = test_chat_template.make_template(test_chat_template.CHATML)
    row = Row('train[0]', {'turns': test_chat_template.DIALOGUE})
    example = examples.make_example(row, task, {}, template)
    splits = {'train': [example], 'validation': [example]}
    dataset = task_dataset.make_task_dataset(task, splits, bpe, 256, lambda _: None)
    batch = dataset.train.make_batch([0])
    return {name: array[0] for name, array in batch.items()}, example, dataset


def test_template_marks_are_special_tokens_and_end_the_answers(bpe):
    row, example, _ = encode_dialogue(bpe, chat=True)
    start, end = (bpe.vocab_size - 2 + n for n in range(2))
    assert np.sum(row['inputs'] == start) == 5  # the system's turn and four others
    targets = row['targets'][row['weights'] > 0]
    with_marks = tokenizer.encode_special_tokens(bpe)
    assert np.sum(targets == end) == 2
    assert start not in targets
    text = ''.join(part for part, _ in example.parts)
    assert row['inputs'][: np.sum(row['segments'] > 0)].tolist() == with_marks.encode(text).tolist()
    assert with_marks.decode(targets) == 'Because.<|im_end|>\nYes.\nAnd no.<|im_end|>\n'


def test_plain_text_never_becomes_a_special_token(bpe):
    assert set(bpe.encode('<|im_end|>').tolist()).isdisjoint(
        {bpe.vocab_size - 1, bpe.vocab_size - 2}
    )
    row, _, _ = encode_dialogue(bpe, chat=False)
    assert np.sum(row['inputs'] == bpe.vocab_size - 1) == 0


def test_fingerprint_depends_on_the_template(bpe):
    assert (
        encode_dialogue(bpe, chat=True)[2].fingerprint
        != encode_dialogue(bpe, chat=False)[2].fingerprint
    )
