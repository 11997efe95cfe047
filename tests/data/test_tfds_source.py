"""Tests of TFDS sources: read without TensorFlow, with errors that say what to do."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from gpt_jax.core.errors import UserError
from gpt_jax.data import tfds_source

TEXT = tfds.features.Text()
RAGGED = [np.array([b'x'], object), np.array([], object)]  # as TFDS gives a Sequence of Sequences


class TinyLm1b(tfds.core.GeneratorBasedBuilder):
    """lm1b's features and splits."""

    VERSION = tfds.core.Version('1.1.0')
    SPLITS = {'train': 30, 'test': 4}  # noqa: RUF012
    FEATURES = {'text': TEXT}  # noqa: RUF012

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(self.FEATURES)
        )

    def _split_generators(self, _):
        return {
            split: self._generate_examples(split, count) for split, count in self.SPLITS.items()
        }

    def _generate_examples(self, split, count):
        for i in range(count):
            yield i, {name: f'{name} {split} {i} é' for name in self.FEATURES}


class TinyC4(TinyLm1b):
    """c4's features and splits."""

    VERSION = tfds.core.Version('3.1.0')
    SPLITS = {'train': 100, 'validation': 7}  # noqa: RUF012
    FEATURES = dict.fromkeys(('content-length', 'content-type', 'text', 'timestamp', 'url'), TEXT)


class TinyWithoutNetwork(TinyLm1b):
    """A dataset whose preparation fails."""

    def _split_generators(self, _):
        raise ConnectionError('no route to host\nand more')


@pytest.fixture(autouse=True)
def data_dir(tmp_path, monkeypatch):
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'sets'))


def read(tmp_path, name, column='text'):
    return tfds_source.make_chunk_readers('source', name, column, tmp_path / 'cache', tmp_path)


@pytest.mark.parametrize(('name', 'builder'), [('tiny_lm1b', TinyLm1b), ('tiny_c4', TinyC4)])
def test_splits_and_texts(tmp_path, name, builder):
    for _ in range(2):  # first prepares the dataset, then opens it
        readers = read(tmp_path, name)
        assert set(readers) == set(builder.SPLITS)
        for split, count in builder.SPLITS.items():
            chunks = list(readers[split]())
            assert all(chunk.is_last for chunk in chunks)
            assert sorted(chunk.text for chunk in chunks) == sorted(
                f'text {split} {i} é' for i in range(count)
            )
            assert list(readers[split]()) == chunks
    assert (tmp_path / 'sets' / name).is_dir()


def test_another_column(tmp_path):
    assert next(read(tmp_path, 'tiny_c4', 'url')['validation']()).text.startswith('url validation ')


def test_missing_column_lists_the_columns(tmp_path):
    message = (
        r"data\.source: tfds:tiny_c4: no column 'body' \(it has content-length, .*text.*\); set"
    )
    with pytest.raises(UserError, match=message):
        read(tmp_path, 'tiny_c4', 'body')


def test_unknown_name_is_rejected(tmp_path):
    with pytest.raises(
        UserError, match=r'^data\.source: tfds:no_such_set: TensorFlow Datasets has no dataset'
    ) as raised:
        read(tmp_path, 'no_such_set')
    assert '\n' not in str(raised.value)


def test_failed_preparation_says_what_to_do(tmp_path):
    with pytest.raises(
        UserError, match=r"ConnectionError: no route to host.*pip install '\.\[tf\]'.*TFDS_DATA"
    ) as raised:
        read(tmp_path, 'tiny_without_network')
    assert '\n' not in str(raised.value)


@pytest.mark.parametrize(
    ('name', 'column'),
    [('c4/en', 'text'), ('cnn_dailymail', 'article'), ('wmt14_translate/de-en', 'en')],
)
def test_datasets_that_register_on_import_are_found(tmp_path, monkeypatch, name, column):
    def fail(*_, **__):
        raise ConnectionError('tests do not download')

    monkeypatch.setattr(tfds.core.DatasetBuilder, 'download_and_prepare', fail)
    with pytest.raises(UserError, match='tests do not download'):
        read(tmp_path, name, column)


def test_json_types_and_class_names():
    features = tfds.features.FeaturesDict(
        {
            'label': tfds.features.ClassLabel(names=['no', 'yes']),
            'tags': tfds.features.Sequence(tfds.features.ClassLabel(names=['O', 'B'])),
            'choices': tfds.features.Sequence(
                {'text': TEXT, 'label': tfds.features.ClassLabel(num_classes=2)}
            ),
            'inner': {'deep': tfds.features.ClassLabel(names=['x'])},
            'text': TEXT,
        }
    )
    assert tfds_source.find_class_names(features) == {
        'label': ('no', 'yes'),
        'tags': ('O', 'B'),
        'choices[label]': ('0', '1'),
        'inner[deep]': ('x',),
    }
    record = {
        'a': 'é'.encode(),
        'b': np.array([b'x', b'y'], object),
        'c': np.float32(3.8),
        'd': np.array(7),
        'e': RAGGED,
    }
    assert tfds_source.to_json_types(record) == {
        'a': 'é',
        'b': ['x', 'y'],
        'c': 3.8,
        'd': 7,
        'e': [['x'], []],
    }
    assert type(tfds_source.to_json_types(np.bool_(True))) is bool
    floats = [3.799999952316284, 3.79, 1e300, np.float64(0.1)]
    assert tfds_source.to_json_types(floats) == [3.8, 3.79, 1e300, 0.1]


def test_damaged_dataset_says_what_to_do(tmp_path):
    read(tmp_path, 'tiny_lm1b')
    (record,) = (tmp_path / 'sets').rglob('*train*array_record*')
    record.write_bytes(record.read_bytes()[:-100])
    with pytest.raises(UserError, match=r'tfds:tiny_lm1b cannot be read .*delete .*tiny_lm1b'):
        list(read(tmp_path, 'tiny_lm1b')['train']())


def test_several_processes_prepare_stdlib_at_once(stdlib_root, tmp_path):
    code = (
        'import sys; from pathlib import Path; from gpt_jax.data import tfds_source;'
        'cache, stdlib = map(Path, sys.argv[1:]);'
        'readers = tfds_source.make_chunk_readers('
        "'source', 'python_stdlib', 'text', cache, stdlib);"
        "print(sum(1 for read in readers.values() for _ in read()), 'tensorflow' in sys.modules)"
    )
    command = [sys.executable, '-c', code, str(tmp_path), str(stdlib_root)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [process.communicate()[0].split() for process in running] == [['60', 'False']] * 3
