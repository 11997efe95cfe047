"""Are the rows of every kind of source those that it holds, in the splits that a task wants?"""

import gzip
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from gpt_jax.data import made, rows
from gpt_jax.errors import UserError

TEXT = tfds.features.Text()
CONLL = tfds.features.ClassLabel(names=['O', 'B-PER'])
RECORD = {
    'text': 'Ünder\n', 'label': 1, 'score': 3.8, 'flag': True, 'tokens': ['Ada', 'ran'], 'tags': [1, 0],
    'answers': {'text': ['a', 'b'], 'start': [3, 4]}, 'empty': [],
    'translation': {'de': 'Hund', 'en': 'dog'}, 'inner': {'names': ['n']},
}  # fmt: skip


class TinyRows(tfds.core.GeneratorBasedBuilder):
    """Features as text sets have them (but no ragged ones: TFDS writes them by TensorFlow), and conll2003's splits."""

    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
        features = {
            'text': TEXT,
            'label': tfds.features.ClassLabel(names=['no', 'yes']),
            'score': tfds.features.Scalar(np.float32),
            'flag': tfds.features.Scalar(np.bool_),
            'tokens': tfds.features.Sequence(TEXT),
            'tags': tfds.features.Sequence(CONLL),
            'answers': tfds.features.Sequence({'text': TEXT, 'start': tfds.features.Scalar(np.int32)}),
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
        yield rows.read('task.source', 'tfds:tiny_rows', tmp_path_factory.mktemp('cache'))


def test_tfds_gives_plain_python(tiny):
    read = list(tiny.splits['train']())
    assert [row.columns for row in read] == [RECORD] * 3
    assert read[2].place == 'task.source: tfds:tiny_rows train[2]'
    json.dumps(read[0].columns)  # raises where NumPy is left
    assert tiny.words == {'label': ('no', 'yes'), 'tags': ('O', 'B-PER')}


def test_tfds_splits_by_their_usual_names(tiny):
    assert {split: len(list(reading())) for split, reading in tiny.splits.items()} == {
        'train': 3, 'validation': 2, 'test': 1,
    }  # fmt: skip
    assert [row.columns['label'] for row in tiny.splits['test']()] == [-1]


def test_files_in_order_and_by_their_kind(tmp_path):
    (tmp_path / 'b.csv').write_text('text,label\nzwei,1\n')
    (tmp_path / 'a.jsonl.gz').write_bytes(gzip.compress(b'{"text": "eins", "label": 0}\n'))
    source = f'files:{tmp_path}/*.csv,{tmp_path}/*.gz'
    found = rows.read('task.source', source, tmp_path)
    assert list(found.splits) == ['train']
    assert [(row.place, row.columns) for row in found.splits['train']()] == [
        (f'{tmp_path}/a.jsonl.gz:1', {'text': 'eins', 'label': 0}),
        (f'{tmp_path}/b.csv:2', {'text': 'zwei', 'label': '1'}),
    ]
    with pytest.raises(UserError, match=r"^task\.source: '.*nope' matches no file"):
        rows.read('task.source', f'files:{tmp_path}/nope', tmp_path)


def test_made_sets_are_made_once(tmp_path, monkeypatch):
    calls = []

    def few(stdlib):
        calls.append(stdlib)
        return {'train': [{'text': 'é'}, {'text': 'b'}], 'validation': [{'text': 'c'}], 'test': []}

    monkeypatch.setitem(made.SETS, 'few', few)
    for _ in range(2):
        found = rows.read('task.source', 'made:few', tmp_path)
        assert [row.columns for row in found.splits['train']()] == [{'text': 'é'}, {'text': 'b'}]
        assert [row.place for row in found.splits['validation']()] == ['task.source: made:few validation[0]']
    assert len(calls) == 1


def test_unknown_made_set(tmp_path):
    with pytest.raises(UserError, match=r'^task\.source: made:cod: no such set; one of code, summaries, .*preferences'):
        rows.read('task.source', 'made:cod', tmp_path)
