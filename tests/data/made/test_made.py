"""Is every made set the same each time, with nothing on both sides of a split?"""

import json
import sysconfig
from pathlib import Path

import pytest

from gpt_jax.data import made
from gpt_jax.data.made import library

WRITTEN = ('grammar', 'sentiment', 'pairs', 'similarity', 'roles')  # by a program alone
READ = ('code', 'summaries', 'questions', 'dialogue', 'choices', 'entities', 'preferences')


def test_every_set_is_looked_at():
    assert {*WRITTEN, *READ, 'translation'} == set(made.SETS)


@pytest.mark.parametrize('name', [*WRITTEN, *READ])
def test_the_same_each_time_and_apart(small_stdlib, name):
    one = made.SETS[name](small_stdlib)
    library.modules.cache_clear()
    assert made.SETS[name](small_stdlib) == one
    texts = {split: [json.dumps(row, sort_keys=True) for row in rows] for split, rows in one.items()}
    assert list(texts) == ['train', 'validation', 'test']
    assert all(texts.values())
    assert not set(texts['train']) & {*texts['validation'], *texts['test']}
    if name in READ:
        modules = {split: {row['module'] for row in rows if row.get('module')} for split, rows in one.items()}
        assert not modules['train'] & (modules['validation'] | modules['test'])


@pytest.mark.slow
@pytest.mark.parametrize('name', made.SETS)
def test_some_thousand_rows_of_the_whole_library(name):
    rows = made.SETS[name](Path(sysconfig.get_path('stdlib')))
    assert len(rows['train']) >= 1500
    assert min(len(rows['validation']), len(rows['test'])) >= 50


def test_another_library_is_another_folder(small_stdlib, stdlib_root, tmp_path):
    folders = {made.prepare('summaries', tmp_path, root) for root in (small_stdlib, stdlib_root, small_stdlib)}
    assert len(folders) == 2
    assert sorted(path.name for path in min(folders).iterdir()) == ['test.jsonl', 'train.jsonl', 'validation.jsonl']


def test_what_a_killed_process_left_is_made_again(small_stdlib, tmp_path):
    whole = made.prepare('summaries', tmp_path, small_stdlib)
    content = (whole / 'train.jsonl').read_bytes()
    (whole / 'train.jsonl').write_bytes(content[:50])
    (whole / 'test.jsonl').unlink()
    whole.rename(whole.with_name(f'.{whole.name}'))
    assert (made.prepare('summaries', tmp_path, small_stdlib) / 'train.jsonl').read_bytes() == content
