"""Generated datasets: reproducible rows, disjoint splits, and the cache on disk."""

import json
import sysconfig
from pathlib import Path

import pytest

from gpt_jax.tasks import synthetic
from gpt_jax.tasks.synthetic import library

FROM_GRAMMARS = ('grammar', 'sentiment', 'pairs', 'similarity', 'roles')
FROM_LIBRARY = ('code', 'summaries', 'questions', 'dialogue', 'choices', 'entities', 'preferences')


def test_every_dataset_is_tested():
    assert {*FROM_GRAMMARS, *FROM_LIBRARY, 'translation'} == set(synthetic.DATASETS)


@pytest.mark.parametrize('name', [*FROM_GRAMMARS, *FROM_LIBRARY])
def test_rows_are_reproducible_and_splits_disjoint(small_stdlib, name):
    splits = synthetic.DATASETS[name](small_stdlib)
    library.parse_modules.cache_clear()
    assert synthetic.DATASETS[name](small_stdlib) == splits
    texts = {
        split: [json.dumps(row, sort_keys=True) for row in rows] for split, rows in splits.items()
    }
    assert list(texts) == ['train', 'validation', 'test']
    assert all(texts.values())
    assert not set(texts['train']) & {*texts['validation'], *texts['test']}
    if name in FROM_LIBRARY:
        modules = {
            split: {row['module'] for row in rows if row.get('module')}
            for split, rows in splits.items()
        }
        assert not modules['train'] & (modules['validation'] | modules['test'])


@pytest.mark.slow
@pytest.mark.parametrize('name', synthetic.DATASETS)
def test_the_whole_library_gives_some_thousand_rows(name):
    rows = synthetic.DATASETS[name](Path(sysconfig.get_path('stdlib')))
    assert len(rows['train']) >= 1500
    assert min(len(rows['validation']), len(rows['test'])) >= 30  # the library differs by version


def test_each_library_has_its_own_folder(small_stdlib, stdlib_root, tmp_path):
    folders = {
        synthetic.generate_dataset('summaries', tmp_path, root)
        for root in (small_stdlib, stdlib_root, small_stdlib)
    }
    assert len(folders) == 2
    names = sorted(path.name for path in min(folders).iterdir())
    assert names == ['test.jsonl', 'train.jsonl', 'validation.jsonl']


def test_an_unfinished_dataset_is_generated_again(small_stdlib, tmp_path):
    folder = synthetic.generate_dataset('summaries', tmp_path, small_stdlib)
    content = (folder / 'train.jsonl').read_bytes()
    (folder / 'train.jsonl').write_bytes(content[:50])
    (folder / 'test.jsonl').unlink()
    folder.rename(folder.with_name(f'.{folder.name}'))
    folder = synthetic.generate_dataset('summaries', tmp_path, small_stdlib)
    assert (folder / 'train.jsonl').read_bytes() == content
