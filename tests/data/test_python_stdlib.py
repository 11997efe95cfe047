"""Is the library's set complete, without copies, and split the same way every time?"""

import sysconfig
from pathlib import Path

from gpt_jax.data import python_stdlib, tfds_sets


def collect(readings):
    return {split: [piece.text for piece in reading()] for split, reading in readings.items()}


def test_documents_are_the_modules_each_once(stdlib_root):
    kept, left = python_stdlib.documents(stdlib_root)
    assert [path for path, _ in kept] == sorted(path for path, _ in kept)
    assert sorted(text for _, text in kept) == sorted(f'"""Module {i}: é."""\n\nVALUE = {i}\n' for i in range(60))
    assert left == {'not_utf8': 1, 'duplicate': 2, 'empty': 1}


def test_splits_are_disjoint_complete_and_about_as_large_as_said():
    paths = [f'package/module{i}.py' for i in range(4000)]
    shares = {
        split: sum(python_stdlib.split_of(path) == split for path in paths) / 4000
        for split in ('train', 'validation', 'test')
    }
    assert sum(shares.values()) == 1
    assert abs(shares['train'] - 0.9) < 0.02
    assert abs(shares['validation'] - 0.05) < 0.015
    assert abs(shares['test'] - 0.05) < 0.015


def test_set_is_the_same_from_anywhere_and_holds_the_documents(stdlib_root, tmp_path, monkeypatch):
    found = []
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        cache = tmp_path / f'cache-{name}'
        found.append(collect(tfds_sets.readings('source', 'python_stdlib', 'text', cache, stdlib_root)))
        assert list((tmp_path / name).iterdir()) == []
    assert found[0] == found[1]
    assert {split: sorted(texts) for split, texts in found[0].items()} == {
        split: sorted(
            text for path, text in python_stdlib.documents(stdlib_root)[0] if python_stdlib.split_of(path) == split
        )
        for split in ('train', 'validation', 'test')
    }


def test_the_running_pythons_library_is_there():
    root = Path(sysconfig.get_path('stdlib'))
    kept, _ = python_stdlib.documents(root)
    paths = {path for path, _ in kept}
    assert {'argparse.py', 'json/decoder.py', 'asyncio/events.py'} <= paths
    assert not any('test' in Path(path).parts or 'site-packages' in Path(path).parts for path in paths)
    assert sum(len(text) for _, text in kept) > 5_000_000
