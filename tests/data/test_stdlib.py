"""Tests of the python_stdlib dataset: complete, without duplicates, with stable splits."""

import sysconfig
from pathlib import Path

from gpt_jax.data import stdlib, tfds_source


def collect(readers):
    return {split: [chunk.text for chunk in read()] for split, read in readers.items()}


def test_documents_are_the_modules_without_duplicates(stdlib_root):
    documents, skipped = stdlib.read_documents(stdlib_root)
    assert [path for path, _ in documents] == sorted(path for path, _ in documents)
    assert sorted(text for _, text in documents) == sorted(
        f'"""Module {i}: é."""\n\nVALUE = {i}\n' for i in range(60)
    )
    assert skipped == {'not_utf8': 1, 'duplicate': 2, 'empty': 1}


def test_splits_have_the_documented_sizes():
    paths = [f'package/module{i}.py' for i in range(4000)]
    shares = {
        split: sum(stdlib.assign_split(path) == split for path in paths) / 4000
        for split in ('train', 'validation', 'test')
    }
    assert sum(shares.values()) == 1
    assert abs(shares['train'] - 0.9) < 0.02
    assert abs(shares['validation'] - 0.05) < 0.015
    assert abs(shares['test'] - 0.05) < 0.015


def test_dataset_does_not_depend_on_the_working_directory(stdlib_root, tmp_path, monkeypatch):
    datasets = []
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        cache = tmp_path / f'cache-{name}'
        readers = tfds_source.make_chunk_readers(
            'source', 'python_stdlib', 'text', cache, stdlib_root
        )
        datasets.append(collect(readers))
        assert list((tmp_path / name).iterdir()) == []
    assert datasets[0] == datasets[1]
    assert {split: sorted(texts) for split, texts in datasets[0].items()} == {
        split: sorted(
            text
            for path, text in stdlib.read_documents(stdlib_root)[0]
            if stdlib.assign_split(path) == split
        )
        for split in ('train', 'validation', 'test')
    }


def test_library_of_the_running_python_is_complete():
    root = Path(sysconfig.get_path('stdlib'))
    documents, _ = stdlib.read_documents(root)
    paths = {path for path, _ in documents}
    assert {'argparse.py', 'json/decoder.py', 'asyncio/events.py'} <= paths
    assert not any(
        'test' in Path(path).parts or 'site-packages' in Path(path).parts for path in paths
    )
    assert sum(len(text) for _, text in documents) > 5_000_000
