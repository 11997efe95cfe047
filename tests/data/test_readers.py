"""Tests of file readers: documents are complete, and errors name the location."""

import csv
import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_jax.core import text_files
from gpt_jax.core.errors import UserError
from gpt_jax.data import readers
from gpt_jax.data.readers import read_chunks


def texts(path, field='text'):
    documents, document = [], ''
    for chunk in read_chunks(path, field):
        document += chunk.text
        if chunk.is_last:
            documents.append(document)
            document = ''
    assert not document
    return documents


@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet='a é€😀\n\r\t', max_size=200), size=st.integers(4, 40))
def test_chunks_of_plain_text_join_to_the_whole(tmp_path_factory, text, size):
    path = tmp_path_factory.mktemp('plain') / 'a.txt'
    path.write_bytes(text.encode('utf-8'))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_files, 'CHUNK_BYTES', size)
        assert texts(path) == [text]


def test_large_files_are_split_before_a_single_space(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, 'CHUNK_BYTES', 16)
    path = tmp_path / 'a.md'
    path.write_text('some words  and \n some more of them here')
    assert [chunk.text for chunk in read_chunks(path, '')] == [
        'some',
        ' words  and \n some more of',
        ' them here',
    ]


@pytest.mark.parametrize('offset', [0, 5, 31, 32, 33, 63, 64, 99])
def test_invalid_utf8_names_the_byte(tmp_path, monkeypatch, offset):
    monkeypatch.setattr(text_files, 'CHUNK_BYTES', 32)
    path = tmp_path / 'a.txt'
    path.write_bytes(b'x' * offset + b'\xff' + b'x' * (99 - offset))
    with pytest.raises(UserError, match=rf'a\.txt: not UTF-8 at byte {offset};'):
        texts(path)


@pytest.mark.parametrize('before', [0, 29, 30, 31, 40])
def test_truncated_character_names_the_byte(tmp_path, monkeypatch, before):
    monkeypatch.setattr(text_files, 'CHUNK_BYTES', 32)
    path = tmp_path / 'a.txt'
    path.write_bytes(b'x' * before + '€'.encode()[:2])
    with pytest.raises(UserError, match=rf'not UTF-8 at byte {before};'):
        texts(path)


@pytest.mark.parametrize(('name', 'opener'), [('a.jsonl', open), ('a.jsonl.gz', gzip.open)])
def test_json_lines(tmp_path, name, opener):
    with opener(tmp_path / name, 'wb') as file:
        file.write('{"text": "eins\\né", "n": 1}\n\n{"text": "zwei"}\n{"text": null}'.encode())
    assert texts(tmp_path / name) == ['eins\né', 'zwei', '']


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        (b'{"text": ', r'a\.jsonl:2: not JSON'),
        (b'[1]', r'a\.jsonl:2: must be an object'),
        (
            b'{"body": "x", "id": 3}',
            r"a\.jsonl:2: no column 'text' \(it has body, id\); set data\.text_field",
        ),
        (b'{"text": 3}', r"a\.jsonl:2: column 'text' must hold text, got int"),
        (b'{"text": "\\ud800"}', r"a\.jsonl:2: the text of 'text' is not UTF-8"),
        (b'{"text": "\xff"}', r'a\.jsonl:2: not UTF-8 at byte 24 of the file'),
    ],
)
def test_broken_json_lines_name_the_line(tmp_path, line, message):
    path = tmp_path / 'a.jsonl'
    path.write_bytes(b'{"text": "a"}\n' + line + b'\n')
    with pytest.raises(UserError, match=message):
        texts(path)


def test_truncated_gzip_is_rejected(tmp_path):
    path = tmp_path / 'a.jsonl.gz'
    whole = gzip.compress(json.dumps({'text': 'x' * 1000}).encode())
    path.write_bytes(whole[:-12])
    with pytest.raises(UserError, match=r'a\.jsonl\.gz: not a complete gzip file'):
        texts(path)


def test_parquet(tmp_path):
    path = tmp_path / 'a.parquet'
    pyarrow.parquet.write_table(pyarrow.table({'body': ['eins', None, 'é'], 'n': [1, 2, 3]}), path)
    assert texts(path, 'body') == ['eins', '', 'é']
    with pytest.raises(UserError, match=r"no column 'text' \(it has body, n\)"):
        texts(path)
    with pytest.raises(UserError, match=r"row 0: column 'n' must hold text, got int"):
        texts(path, 'n')
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(UserError, match='not a complete Parquet file'):
        texts(path, 'body')


def test_unreadable_file_is_rejected(tmp_path):
    with pytest.raises(UserError, match=r'gone\.txt: cannot be read \(No such file'):
        texts(tmp_path / 'gone.txt')


ROWS = [
    {'text': 'eins\né "x"', 'label': 'a'},
    {'text': '', 'label': 'b,c'},
    {'text': 'x' * 200_000, 'label': '\tq'},
]


def read(path):
    return list(readers.read_rows(path))


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
            '{\n"a": 1}',
            r'a\.json:1: not JSON .*; .json is a list of objects, or an object',
        ),
        ('a.json', '[{"a": 1}', r"a\.json: not JSON \(expected ',' at line 1, column 10\)"),
        (
            'a.json',
            '[{"a": 1}] x',
            r"a\.json: not JSON \(unexpected 'x' after the list at line 1, co",
        ),
        ('a.json', '[{"a": "1', r'a\.json: not JSON \(Unterminated string .* column 8\)'),
        ('a.json', '[{"a": 1},\n 3]', r'a\.json: row 1: must be an object'),
        ('a.json', '[{"a": 1},\n{"b": }]', r'a\.json: not JSON \(.* at line 2, column 7\)'),
        ('a.json', b'["\xff"]', r'a\.json: not UTF-8 at byte 2'),
        ('a.json', '[' * 100_000, r'a\.json: JSON is nested too deeply'),
        ('a.jsonl', '{"a": 1}\n{"a"}\n', r'a\.jsonl:2: not JSON'),
        ('a.txt', 'x', r'a\.txt: name must end in \.jsonl, '),
    ],
)
def test_broken_files_name_the_location(tmp_path, name, content, message):
    with pytest.raises(UserError, match=message) as raised:
        read(write(tmp_path / name, content))
    assert '\n' not in str(raised.value)


def test_unreadable_rows_are_rejected(tmp_path):
    with pytest.raises(UserError, match=r'gone\.csv: cannot be read \(No such file'):
        read(tmp_path / 'gone.csv')
