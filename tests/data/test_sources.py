"""Tests of text sources: which files and splits they name, and how validation text is held out."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_jax.core.errors import UserError
from gpt_jax.data import sources
from gpt_jax.data.readers import TextChunk
from gpt_jax.data.sources import HOLDOUTS


def read(config):
    texts = {}
    for split, chunk in sources.make_split_reader(config, Path(config.cache))():
        texts[split] = texts.get(split, '') + chunk.text
    return texts


def test_globs_are_sorted_without_duplicates(config, tmp_path):
    for name in ('b.txt', 'a.txt', 'deep/er/c.txt', 'a.md'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    globs = f'{tmp_path}/b.txt, {tmp_path}/*.txt,{tmp_path}/**/c.txt'
    assert sources.match_files('data.source', globs) == [
        tmp_path / 'a.txt',
        tmp_path / 'b.txt',
        tmp_path / 'deep/er/c.txt',
    ]
    assert read(config(source=f'files:{globs}', validation_source=f'files:{tmp_path}/a.md')) == {
        'train': 'a.txtb.txtdeep/er/c.txt',
        'validation': 'a.md',
    }


def test_globs_are_relative_to_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / 'a.txt').write_text('a')
    monkeypatch.chdir(tmp_path)
    assert sources.match_files('data.source', '*.txt') == [tmp_path / 'a.txt']


def test_glob_without_files_is_rejected(tmp_path):
    with pytest.raises(
        UserError, match=r"^data\.validation_source: '.*\.nope' matches no file \(looked in "
    ):
        sources.describe_source('validation_source', f'files:{tmp_path}/*.nope')


def test_description_changes_with_the_files(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('a')
    first = sources.describe_source('source', f'files:{path}')
    assert sources.describe_source('source', f'files:{path}') == first
    path.write_text('b')
    assert sources.describe_source('source', f'files:{path}') != first


def test_training_files_cannot_be_validation_files(config, tmp_path):
    (tmp_path / 'a.txt').write_text('a')
    (tmp_path / 'b.txt').write_text('b')
    with pytest.raises(
        UserError, match=r'^data\.validation_source: must not share files .*b\.txt in both'
    ):
        read(config(validation_source=f'files:{tmp_path}/b.*'))


@pytest.mark.usefixtures('stdlib')
def test_stdlib_has_its_own_splits(config):
    texts = read(config(source='tfds:python_stdlib'))
    assert set(texts) == {'train', 'validation', 'test'}
    assert sum(text.count('VALUE') for text in texts.values()) == 60


@pytest.mark.usefixtures('stdlib')
def test_validation_from_another_source(config, tmp_path):
    (tmp_path / 'a.txt').write_text('abc')
    own = read(config(source='tfds:python_stdlib'))
    assert read(config(validation_source='tfds:python_stdlib')) == {
        'train': 'abc',
        'validation': own['validation'],
    }
    texts = read(config(source='tfds:python_stdlib', validation_source=f'files:{tmp_path}/a.txt'))
    assert texts == own | {'validation': 'abc'}


def test_text_size_is_known_for_plain_text_only(tmp_path):
    (tmp_path / 'a.txt').write_text('abc')
    (tmp_path / 'b.jsonl').write_text('{}')
    plain = sources.describe_source('source', f'files:{tmp_path}/*.txt')
    assert sources.count_text_bytes(plain) == 3
    mixed = sources.describe_source('source', f'files:{tmp_path}/*')
    assert sources.count_text_bytes(mixed) is None
    assert sources.count_text_bytes({'tfds': 'x'}) is None


CHUNKS = st.lists(st.builds(TextChunk, st.text('ab é', max_size=9), st.booleans()), max_size=20)


def join_split(split_chunks, name):
    return ''.join(chunk.text for split, chunk in split_chunks if split == name)


@settings(deadline=None)
@given(chunks=CHUNKS, fraction=st.floats(0.01, 0.99))
def test_tail_has_the_last_characters(chunks, fraction):
    chunks = [*chunks, TextChunk('end', True)]
    text = ''.join(chunk.text for chunk in chunks)
    split_chunks = list(HOLDOUTS['tail'](lambda: iter(chunks), fraction))
    cut = int(len(text) * (1 - fraction))
    assert join_split(split_chunks, 'train') == text[:cut]
    assert join_split(split_chunks, 'validation') == text[cut:]
    for split in ('train', 'validation'):
        chunks_of_split = [chunk for name, chunk in split_chunks if name == split]
        # The last document of both splits is complete.
        assert not chunks_of_split or chunks_of_split[-1].is_last


def test_tail_of_one_document_equals_nanogpt_split():
    text = 'x' * 1_115_394
    split_chunks = list(HOLDOUTS['tail'](lambda: iter([TextChunk(text, True)]), 0.1))
    assert [(split, len(chunk.text)) for split, chunk in split_chunks] == [
        ('train', 1_003_854),
        ('validation', 111_540),
    ]


def test_copies_and_chunks_of_a_document_share_a_split():
    documents = [f'document {i % 500}' for i in range(1000)]
    chunks = [
        chunk
        for text in documents
        for chunk in (TextChunk(text, False), TextChunk(' goes on', True))
    ]
    split_chunks = list(HOLDOUTS['documents'](lambda: iter(chunks), 0.2))
    assert [chunk for _, chunk in split_chunks] == chunks
    split_by_text = {}
    for (first, a), (second, _) in zip(split_chunks[::2], split_chunks[1::2], strict=True):
        assert first == second
        assert split_by_text.setdefault(a.text, first) == first
    held_out = sum(split == 'validation' for split in split_by_text.values())
    assert 70 <= held_out <= 130  # 100 expected, standard deviation 9


def test_larger_fraction_holds_out_a_superset():
    chunks = [TextChunk(str(i), True) for i in range(300)]
    held_out = [
        {
            chunk.text
            for split, chunk in HOLDOUTS['documents'](lambda: iter(chunks), fraction)
            if split == 'validation'
        }
        for fraction in (0.05, 0.3)
    ]
    assert held_out[0] < held_out[1]


@pytest.mark.parametrize('holdout', HOLDOUTS)
def test_empty_source_gives_nothing(holdout):
    assert list(HOLDOUTS[holdout](lambda: iter([]), 0.5)) == []
