"""Tests of row sources: rows and splits of every kind of source and file."""

import datetime
import gzip
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds

from gpt_jax.core.errors import UserError
from gpt_jax.tasks import row_sources, synthetic

DAY = datetime.date(2020, 1, 2)
TEXT = tfds.features.Text()
NER = tfds.features.ClassLabel(names=['O', 'B-PER'])
RECORD = {
    'text': 'Ünder\n',
    'label': 1,
    'score': 3.8,
    'flag': True,
    'tokens': ['Ada', 'ran'],
    'tags': [1, 0],
    'answers': {'text': ['a', 'b'], 'start': [3, 4]},
    'empty': [],
    'translation': {'de': 'Hund', 'en': 'dog'},
    'inner': {'names': ['n']},
}


class TinyRows(tfds.core.GeneratorBasedBuilder):
    """The features of text datasets and the splits of conll2003.

    Without ragged features, which TFDS writes with TensorFlow.
    """

    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
        features = {
            'text': TEXT,
            'label': tfds.features.ClassLabel(names=['no', 'yes']),
            'score': tfds.features.Scalar(np.float32),
            'flag': tfds.features.Scalar(np.bool_),
            'tokens': tfds.features.Sequence(TEXT),
            'tags': tfds.features.Sequence(NER),
            'answers': tfds.features.Sequence(
                {'text': TEXT, 'start': tfds.features.Scalar(np.int32)}
            ),
            'empty': tfds.features.Sequence(TEXT),
            'translation': tfds.features.Translation(languages=['de', 'en']),
            'inner': {'names': tfds.features.Sequence(TEXT)},
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, _):
        return {
            'train': self._generate_examples(3),
            'dev': self._generate_examples(2),
            'test': self._generate_examples(1),
        }

    def _generate_examples(self, count):
        for number in range(count):
            yield number, RECORD | {'label': -1 if count == 1 else 1}


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TFDS_DATA_DIR', str(tmp_path_factory.mktemp('sets')))
        yield row_sources.open_row_source(
            'task.source', 'tfds:tiny_rows', tmp_path_factory.mktemp('cache')
        )


def test_tfds_rows_have_json_types(tiny):
    rows = list(tiny.splits['train']())
    assert [row.columns for row in rows] == [RECORD] * 3
    assert rows[2].location == 'task.source: tfds:tiny_rows train[2]'
    json.dumps(rows[0].columns)  # raises for NumPy types
    assert tiny.class_names == {'label': ('no', 'yes'), 'tags': ('O', 'B-PER')}


def test_tfds_splits_get_standard_names(tiny):
    counts = {split: len(list(read())) for split, read in tiny.splits.items()}
    assert counts == {'train': 3, 'validation': 2, 'test': 1}
    assert [row.columns['label'] for row in tiny.splits['test']()] == [-1]


def test_files_in_order_of_their_names(tmp_path):
    (tmp_path / 'b.csv').write_text('text,label\nzwei,1\n')
    (tmp_path / 'a.jsonl.gz').write_bytes(gzip.compress(b'{"text": "eins", "label": 0}\n'))
    source = f'files:{tmp_path}/*.csv,{tmp_path}/*.gz'
    opened = row_sources.open_row_source('task.source', source, tmp_path)
    assert list(opened.splits) == ['train']
    assert [(row.location, row.columns) for row in opened.splits['train']()] == [
        (f'{tmp_path}/a.jsonl.gz:1', {'text': 'eins', 'label': 0}),
        (f'{tmp_path}/b.csv:2', {'text': 'zwei', 'label': '1'}),
    ]
    with pytest.raises(UserError, match=r"^task\.source: '.*nope' matches no file"):
        row_sources.open_row_source('task.source', f'files:{tmp_path}/nope', tmp_path)


def test_synthetic_datasets_are_generated_once(tmp_path, monkeypatch):
    calls = []

    def few(stdlib):
        calls.append(stdlib)
        return {'train': [{'text': 'é'}, {'text': 'b'}], 'validation': [{'text': 'c'}], 'test': []}

    monkeypatch.setitem(synthetic.DATASETS, 'few', few)
    for _ in range(2):
        opened = row_sources.open_row_source('task.source', 'synthetic:few', tmp_path)
        assert [row.columns for row in opened.splits['train']()] == [{'text': 'é'}, {'text': 'b'}]
        assert [row.location for row in opened.splits['validation']()] == [
            'task.source: synthetic:few validation[0]'
        ]
    assert len(calls) == 1


def test_unknown_synthetic_dataset_is_rejected(tmp_path):
    with pytest.raises(
        UserError,
        match=r'^task\.source: synthetic:cod: no such dataset; .* code, summaries, .*preferences',
    ):
        row_sources.open_row_source('task.source', 'synthetic:cod', tmp_path)


def test_parquet_has_json_types(tmp_path):
    rows = [
        {'words': ['a', 'b'], 'about': {'n': 1}, 'raw': 'é'.encode(), 'day': DAY},
        {'words': [], 'about': None},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / 'a.parquet')
    opened = row_sources.open_row_source('task.source', f'files:{tmp_path}/*.parquet', tmp_path)
    assert [row.columns for row in opened.splits['train']()] == [
        {'words': ['a', 'b'], 'about': {'n': 1}, 'raw': 'é', 'day': '2020-01-02'},
        {'words': [], 'about': None, 'raw': None, 'day': None},
    ]


def test_files_of_plain_text_are_rejected_at_once(tmp_path):
    (tmp_path / 'a.txt').write_text('x')
    with pytest.raises(UserError, match=r'^task\.source: .*a\.txt: name must end in \.jsonl, \.nd'):
        row_sources.open_row_source('task.source', f'files:{tmp_path}/*', tmp_path)
