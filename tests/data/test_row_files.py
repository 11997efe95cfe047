"""Do files give their rows whole, and do broken ones say where?"""

import csv
import datetime
import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from gpt_jax.data import row_files
from gpt_jax.errors import UserError

ROWS = [{'text': 'eins\né "x"', 'label': 'a'}, {'text': '', 'label': 'b,c'}, {'text': 'x' * 200_000, 'label': '\tq'}]


def read(path):
    return list(row_files.rows(path))


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_json(tmp_path):
    lines = '\n\n'.join(json.dumps(row) for row in ROWS)
    zipped = write(tmp_path / 'b.jsonl.gz', gzip.compress(lines.encode()))
    for path, places in [
        (write(tmp_path / 'a.jsonl', lines), [':1', ':3', ':5']),
        (zipped, [':1', ':3', ':5']),
        (write(tmp_path / 'c.json', json.dumps(ROWS)), [': row 0', ': row 1', ': row 2']),
    ]:
        assert read(path) == [(f'{path}{place}', row) for place, row in zip(places, ROWS, strict=True)]


def test_csv_as_python_writes_it(tmp_path):
    path = tmp_path / 'a.csv'
    with open(path, 'w', newline='', encoding='utf-8-sig') as file:
        writer = csv.DictWriter(file, ['text', 'label'])
        writer.writeheader()
        writer.writerows(ROWS)
    assert [row for _, row in read(path)] == ROWS
    assert [place for place, _ in read(path)] == [f'{path}:2', f'{path}:4', f'{path}:5']  # where each row begins


def test_tsv_has_no_quotes(tmp_path):
    path = write(tmp_path / 'a.tsv', 'text\tlabel\n"so" he said\t1\n\n"\t0\n')
    assert [row for _, row in read(path)] == [{'text': '"so" he said', 'label': '1'}, {'text': '"', 'label': '0'}]


def test_parquet(tmp_path):
    path = tmp_path / 'a.parquet'
    day = datetime.date(2020, 1, 2)
    rows = [{'words': ['a', 'b'], 'about': {'n': 1}, 'raw': 'é'.encode(), 'day': day}, {'words': [], 'about': None}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    found = [{'words': ['a', 'b'], 'about': {'n': 1}, 'raw': 'é', 'day': '2020-01-02'},
             {'words': [], 'about': None, 'raw': None, 'day': None}]  # fmt: skip
    assert read(path) == [(f'{path}: row {number}', row) for number, row in enumerate(found)]
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(UserError, match='not a whole Parquet file'):
        read(path)


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('a.csv', 'a,b\n1,2\n3\n', r'a\.csv:3: 1 fields, where the header has 2'),
        ('a.csv', 'a,b\n"1\n2",2\n3\n', r'a\.csv:4: 1 fields'),
        ('a.csv', 'a,b\n"1,2\n3,4\n', r'a\.csv:2: not a row of a table \(unexpected end of data\)'),
        ('a.csv', 'a,a\n', r"a\.csv:1: wants a line with the names of the columns, each once, got \['a', 'a'\]"),
        ('a.csv', '', r'a\.csv:1: wants a line'),
        ('a.csv', b'a,b\n1,\xff\n', r'a\.csv:2: not UTF-8 at byte 6 of the file'),
        ('a.tsv', 'a\tb\n1\t2\t3\n', r'a\.tsv:2: 3 fields'),
        ('a.json', '{"a": 1}', r'a\.json: expected a list of objects, got dict; one object a line is \.jsonl'),
        ('a.json', '[{"a": 1},\n 3]', r'a\.json: row 1: expected an object'),
        ('a.json', '[{"a": 1},\n{"b": }]', r'a\.json: not JSON \(.* at line 2, column 7\)'),
        ('a.json', b'["\xff"]', r'a\.json: not UTF-8 at byte 2'),
        ('a.json', '[' * 100_000, r'a\.json: not JSON that can be read \(it is nested too deep\)'),
        ('a.jsonl', '{"a": 1}\n{"a"}\n', r'a\.jsonl:2: not JSON'),
        ('a.txt', 'x', r'a\.txt: its rows cannot be told by its name; wants one that ends in \.jsonl, '),
    ],
)
def test_broken_files_name_the_place(tmp_path, name, content, message):
    with pytest.raises(UserError, match=message) as caught:
        read(write(tmp_path / name, content))
    assert '\n' not in str(caught.value)


def test_unreadable(tmp_path):
    with pytest.raises(UserError, match=r'gone\.csv: cannot be read \(No such file'):
        read(tmp_path / 'gone.csv')
