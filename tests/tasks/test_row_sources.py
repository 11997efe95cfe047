"""Tests of row sources: rows and splits of every kind of source and file."""

import csv
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


ROWS = [
    {'text': 'eins\né "x"', 'label': 'a'},
    {'text': '', 'label': 'b,c'},
    {'text': 'x' * 200_000, 'label': '\tq'},
]


def read(path):
    return list(row_sources.read_rows(path))


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_json_files(tmp_path):
    lines = '\n\n'.join(json.dumps(row) for row in ROWS)
    compressed = write(tmp_path / 'b.jsonl.gz', gzip.compress(lines.encode()))
    for path, locations in [
        (write(tmp_path / 'a.jsonl', lines), [':1', ':3', ':5']),
        (compressed, [':1', ':3', ':5']),
        (write(tmp_path / 'c.json', json.dumps(ROWS)), [': row 0', ': row 1', ': row 2']),
    ]:
        expected = [(f'{path}{end}', row) for end, row in zip(locations, ROWS, strict=True)]
        assert read(path) == expected


def test_csv_of_the_csv_module(tmp_path):
    path = tmp_path / 'a.csv'
    with open(path, 'w', newline='', encoding='utf-8-sig') as file:
        writer = csv.DictWriter(file, ['text', 'label'])
        writer.writeheader()
        writer.writerows(ROWS)
    assert [row for _, row in read(path)] == ROWS
    # The lines where the rows start.
    assert [location for location, _ in read(path)] == [f'{path}:{line}' for line in (2, 4, 5)]


def test_tsv_has_no_quotes(tmp_path):
    path = write(tmp_path / 'a.tsv', 'text\tlabel\n"so" he said\t1\n\n"\t0\n')
    assert [row for _, row in read(path)] == [
        {'text': '"so" he said', 'label': '1'},
        {'text': '"', 'label': '0'},
    ]


def test_parquet(tmp_path):
    path = tmp_path / 'a.parquet'
    day = datetime.date(2020, 1, 2)
    rows = [
        {'words': ['a', 'b'], 'about': {'n': 1}, 'raw': 'é'.encode(), 'day': day},
        {'words': [], 'about': None},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    expected = [
        {'words': ['a', 'b'], 'about': {'n': 1}, 'raw': 'é', 'day': '2020-01-02'},
        {'words': [], 'about': None, 'raw': None, 'day': None},
    ]
    assert read(path) == [(f'{path}: row {number}', row) for number, row in enumerate(expected)]
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(UserError, match='not a complete Parquet file'):
        read(path)


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('a.csv', 'a,b\n1,2\n3\n', r'a\.csv:3: must have 2 fields, like the header, got 1'),
        ('a.csv', 'a,b\n"1\n2",2\n3\n', r'a\.csv:4: must have 2 fields'),
        ('a.csv', 'a,b\n"1,2\n3,4\n', r'a\.csv:2: not a row of a table \(unexpected end of data\)'),
        (
            'a.csv',
            'a,a\n',
            r"a\.csv:1: must be a header of distinct column names, got \['a', 'a'\]",
        ),
        ('a.csv', '', r'a\.csv:1: must be a header'),
        ('a.csv', b'a,b\n1,\xff\n', r'a\.csv:2: not UTF-8 at byte 6 of the file'),
        ('a.tsv', 'a\tb\n1\t2\t3\n', r'a\.tsv:2: must have 2 fields, like the header, got 3'),
        (
            'a.json',
            '{"a": 1}',
            r'a\.json: must be a list of objects, got dict; .* one object per line, .*\.jsonl',
        ),
        ('a.json', '[{"a": 1},\n 3]', r'a\.json: row 1: must be an object'),
        ('a.json', '[{"a": 1},\n{"b": }]', r'a\.json: not JSON \(.* at line 2, column 7\)'),
        ('a.json', b'["\xff"]', r'a\.json: not UTF-8 at byte 2'),
        ('a.json', '[' * 100_000, r'a\.json: JSON is nested too deeply'),
        ('a.jsonl', '{"a": 1}\n{"a"}\n', r'a\.jsonl:2: not JSON'),
        ('a.txt', 'x', r'a\.txt: file name must end in one of \.jsonl, '),
    ],
)
def test_broken_files_name_the_location(tmp_path, name, content, message):
    with pytest.raises(UserError, match=message) as raised:
        read(write(tmp_path / name, content))
    assert '\n' not in str(raised.value)


def test_unreadable_file_is_rejected(tmp_path):
    with pytest.raises(UserError, match=r'gone\.csv: cannot be read \(No such file'):
        read(tmp_path / 'gone.csv')
