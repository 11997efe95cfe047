"""Tests of file formats: the name that the user gave says how a file is read, or it is refused."""

import bz2
import gzip
import json
import lzma
import tracemalloc
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_jax.core import text_files
from gpt_jax.core.errors import UserError
from gpt_jax.data import readers, sources, tokenized_dataset

TEXTS = ['eins é', 'zwei']
ROWS = [{'text': text} for text in TEXTS]
ROW_CONTENTS = {
    '.jsonl': ''.join(json.dumps(row) + '\n' for row in ROWS),
    '.ndjson': '\n\n'.join(json.dumps(row, ensure_ascii=False) for row in ROWS),
    '.json': json.dumps(ROWS, indent=1),
    '.csv': 'text\n"eins é"\nzwei\n',
    '.tsv': 'text\neins é\nzwei\n',
}


def compress_zstandard(content):
    stream = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(stream, 'zstd') as compressed:
        compressed.write(content)
    return stream.getvalue().to_pybytes()


COMPRESSORS = {
    '': bytes,
    '.gz': gzip.compress,
    '.bz2': bz2.compress,
    '.xz': lzma.compress,
    '.zst': compress_zstandard,
}
# Encodings with a byte order mark.
ENCODINGS = {'utf-8-sig': b'', 'utf-16-le': b'\xff\xfe', 'utf-16-be': b'\xfe\xff', 'utf-32': b''}


def read(path, separator=''):
    documents, document = [], ''
    for chunk in readers.read_chunks(path, 'text', separator):
        document += chunk.text
        if chunk.is_last:
            documents.append(document)
            document = ''
    return documents


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize('compression', COMPRESSORS)
@pytest.mark.parametrize('suffix', ROW_CONTENTS)
def test_rows_of_every_format(tmp_path, suffix, compression):
    content = COMPRESSORS[compression](ROW_CONTENTS[suffix].encode())
    path = write(tmp_path / f'a{suffix}{compression}', content)
    assert read(path) == TEXTS
    assert [row for _, row in readers.read_rows(path)] == ROWS


@pytest.mark.parametrize('compression', COMPRESSORS)
def test_compressed_text(tmp_path, compression):
    text = 'one two\n' * 100_000
    path = write(tmp_path / f'A.TXT{compression.upper()}', COMPRESSORS[compression](text.encode()))
    assert read(path) == [text]


def test_parts_of_a_compressed_file_are_joined(tmp_path):
    for compression, compress in COMPRESSORS.items():
        path = write(tmp_path / f'a.txt{compression}', compress(b'one ') + compress(b'two'))
        assert read(path) == ['one two']


@pytest.mark.parametrize('compression', list(COMPRESSORS)[1:])
@pytest.mark.parametrize('suffix', ['.txt', '.jsonl'])
def test_damaged_compression_is_rejected(tmp_path, suffix, compression):
    content = COMPRESSORS[compression](ROW_CONTENTS['.jsonl'].encode() * 1000)
    for damaged in (content[:-9], b'not compressed'):
        path = write(tmp_path / f'a{suffix}{compression}', damaged)
        with pytest.raises(UserError, match=rf'a{suffix}{compression}: not a complete \w+ file'):
            read(path)


@pytest.mark.parametrize('encoding', ENCODINGS)
@pytest.mark.parametrize('suffix', ['.txt', *ROW_CONTENTS])
def test_byte_order_marks_are_dropped(tmp_path, monkeypatch, suffix, encoding):
    monkeypatch.setattr(text_files, 'CHUNK_BYTES', 7)  # in the middle of characters
    text = ROW_CONTENTS.get(suffix, 'eins é 😀 zwei')
    path = write(tmp_path / f'a{suffix}', ENCODINGS[encoding] + text.encode(encoding))
    assert read(path) == ([text] if suffix == '.txt' else TEXTS)


def test_utf16_that_cannot_be_read_is_named(tmp_path):
    for suffix in ('.txt', '.jsonl'):
        path = write(tmp_path / f'a{suffix}', 'plain'.encode('utf-16-le'))
        with pytest.raises(UserError, match='looks like UTF-16 without a byte order mark; convert'):
            read(path)
        with pytest.raises(UserError, match='not UTF-16'):
            read(write(path, b'\xff\xfea\0\0\xd8b\0'))
    with pytest.raises(UserError, match=r'a\.txt: not UTF-16 at byte 4'):
        read(tmp_path / 'a.txt')


@pytest.mark.parametrize(
    'name', ['enwik8', 'a.md', 'a.py', 'a.TeX', 'a.b.txt', 'wiki.train.tokens']
)
def test_plain_text(tmp_path, name):
    assert read(write(tmp_path / name, '{"text": "x"}')) == ['{"text": "x"}']


@pytest.mark.parametrize(
    'name', ['a.dat', 'a.zip', 'a.tar.gz', 'a.gz', 'a.parquet.gz', 'a.ipynb', 'a.jsonl.bak']
)
def test_unknown_suffixes_are_refused(tmp_path, name):
    write(tmp_path / name, 'x')
    with pytest.raises(UserError) as raised:
        sources.describe_source('source', f'files:{tmp_path}/*')
    message = str(raised.value)
    assert message.startswith(f'data.source: {tmp_path / name}: name must end in .txt, .md')
    assert '.jsonl, .ndjson, .json, .csv, .tsv, .parquet, also with .gz, ' in message


def test_a_link_is_read_by_its_own_name(config, tmp_path):
    blob = write(tmp_path / 'blobs/4f2a', '{"text": "a"}\n{"text": "b"}\n')
    (tmp_path / 'data.jsonl').symlink_to(blob)
    assert read(tmp_path / 'data.jsonl') == ['a', 'b']
    assert sources.match_files('data.source', f'{tmp_path}/*.jsonl') == [tmp_path / 'data.jsonl']
    # Without a suffix of its own, that of the file that it links to.
    (tmp_path / 'newest').symlink_to(tmp_path / 'data.jsonl')
    write(tmp_path / 'b.jsonl', '{"text": "c"}\n')
    (tmp_path / 'current').symlink_to(tmp_path / 'b.jsonl')
    assert read(tmp_path / 'current') == ['c']
    # Two names of one file are one file, with the suffix of either.
    globs = f'{tmp_path}/blobs/*,{tmp_path}/data*,{blob}'
    assert sources.match_files('data.source', globs) == [tmp_path / 'data.jsonl']
    for validation in (blob, tmp_path / 'data.jsonl'):
        data = config(source=f'files:{tmp_path}/d*', validation_source=f'files:{validation}')
        with pytest.raises(
            UserError, match=r'must not share files with data\.source, got .* in both'
        ):
            sources.make_split_reader(data, tmp_path)


def make_hub_cache(folder, repository, files):
    """Write files in the layout of the hub's cache; return the folder of the snapshot."""
    snapshot = folder / repository / 'snapshots' / 'c0ffee'
    for number, (name, content) in enumerate(files.items()):
        blob = write(folder / repository / 'blobs' / f'{number}abc', content)
        link = snapshot / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(*['..'] * (2 + name.count('/')), 'blobs', blob.name))
    write(folder / repository / 'refs/main', 'c0ffee')
    return snapshot


def test_datasets_of_the_hub_cache(config, tmp_path):
    contents = {
        'data/train.jsonl': ROW_CONTENTS['.jsonl'],
        'data/train.csv.gz': gzip.compress(ROW_CONTENTS['.csv'].encode()),
        'README.md': '# About',
    }
    snapshot = make_hub_cache(tmp_path, 'datasets--org--name', contents)
    source = f'files:{tmp_path}/datasets--org--name/snapshots/*/**/train.*'
    data = config(source=source, holdout='documents', validation_fraction=0.4)
    reader = sources.make_split_reader(data, tmp_path)
    assert sorted(chunk.text for _, chunk in reader()) == sorted(2 * TEXTS)
    with pytest.raises(UserError, match=rf'is a folder; write files:{snapshot}/\*\*/\*\.'):
        sources.match_files('data.source', str(snapshot))


def test_a_folder_says_what_to_write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / 'some folder/deep/a.jsonl.gz', b'')
    for pattern in ('some folder', 'some folder/', f'{tmp_path}/some folder'):
        expected = f"'{pattern}' is a folder; write files:{pattern.rstrip('/')}/**/*.jsonl.gz for"
        with pytest.raises(UserError) as raised:
            sources.match_files('data.source', pattern)
        assert expected in str(raised.value)
    with pytest.raises(UserError, match=r"'\*' matches only folders; write files:/.*/some folder/"):
        sources.match_files('data.source', '*')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match=r'is a folder; write files:empty/\*\*/\*\.txt for'):
        sources.match_files('data.source', 'empty')


@pytest.mark.parametrize(
    ('name', 'pattern'),
    [
        ('a,b.txt', 'a,b.txt'),
        ('a,b.txt', 'a,b.*'),
        ('a,b/c.txt', 'a,b/*.txt'),
        ('a[1].txt', 'a[1].txt'),
        ('a [1], 2/c d.txt', 'a [1], 2/*.txt'),
        ('a*b.txt', 'a*b.txt'),
        (' a b .txt', ' a b .txt'),
        ('a,b.txt', 'nope.txt, a?b.txt'),
    ],
)
def test_names_with_special_characters(tmp_path, monkeypatch, name, pattern):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / name, 'x')
    write(tmp_path / 'nope.txt', '')
    found = sources.match_files('data.source', pattern)
    assert tmp_path / name in found
    assert found == [tmp_path / name] or 'nope' in pattern


def test_a_list_with_a_comma_in_a_name_says_what_to_write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / 'a,b.txt', 'x')
    write(tmp_path / 'c.txt', 'x')
    with pytest.raises(UserError, match=r"'a' matches no file .*; .* write \? for a comma"):
        sources.match_files('data.source', 'a,b.txt,c.txt')
    assert len(sources.match_files('data.source', 'a?b.txt,c.txt')) == 2


@settings(max_examples=80, deadline=None)
@given(
    text=st.text(alphabet='a b|', max_size=80),
    separator=st.sampled_from(['|', '||', '| |', 'a||b']),
    size=st.integers(4, 20),
)
def test_separated_documents_are_those_of_str_split(tmp_path_factory, text, separator, size):
    path = tmp_path_factory.mktemp('separated') / 'a.txt.gz'
    path.write_bytes(gzip.compress(text.encode()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_files, 'CHUNK_BYTES', size)
        assert read(path, separator) == text.split(separator)


def test_copies_of_a_separated_document_have_the_same_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, 'CHUNK_BYTES', 16)
    document = 'some words of a document that is long'
    path = write(tmp_path / 'a.txt', '<|>'.join(['x', document, 'yz' * 5, document, document]))
    documents = [[]]
    for chunk in readers.read_chunks(path, '', '<|>'):
        documents[-1].append(chunk.text)
        if chunk.is_last:
            documents.append([])
    assert documents[1] == documents[3] == documents[4]
    assert documents[1] == ['some words of', ' a document', ' that is long']


def test_documents_of_a_source_with_a_separator(config, tmp_path):
    write(tmp_path / 'a.txt', 'eins\n\nzwei\n\ndrei')
    data = config(source=f'files:{tmp_path}/a.txt', separator=r'\n\n')
    reader = sources.make_split_reader(data, tmp_path)
    assert [text for _, (text, is_last) in reader() if is_last][:2] == ['eins', 'zwei']
    assert sources.unescape_separator(r'a\\n\t' + '\n') == 'a\\n\t\n'
    with pytest.raises(
        UserError, match=r"^data\.separator: must separate .* got '<s>', which is in"
    ):
        list(sources.make_split_reader(config(source=data.source, separator='<s>'), tmp_path)())
    with pytest.raises(UserError, match=r"config\.data\.separator: must be '' unless"):
        config(source='tfds:c4', separator='\n')


def test_a_separator_changes_the_tokens_and_nothing_else_does(config, tmp_path):
    write(tmp_path / 'a.txt', 'one|two|three|four')
    plain, link = config(), tmp_path / 'link'
    fingerprint = tokenized_dataset.prepare_dataset(plain).fingerprint
    assert fingerprint.startswith('87e1cff8b7704794')
    link.symlink_to(tmp_path / 'a.txt')
    linked = tokenized_dataset.prepare_dataset(config(source=f'files:{link}'))
    assert linked.fingerprint == fingerprint
    split = tokenized_dataset.prepare_dataset(config(separator='|'))
    assert split.fingerprint != fingerprint
    assert len(split.train.document_starts) == 4


def test_a_long_json_list_is_read_in_bounded_memory(tmp_path):
    row = json.dumps({'text': 'x' * 1000})
    path = write(tmp_path / 'a.json', '[' + ', '.join([row] * 8000) + ']')
    tracemalloc.start()
    assert sum(len(row['text']) for _, row in readers.read_rows(path)) == 8_000_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000
