"""A table of runs is the same in every format, and a malformed one is refused with its row."""

import bz2
import gzip
import io
import json
import lzma
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.scaling.table_formats import parse_table

ROWS = [
    {'name': 'a, é', 'params': '10', 'tokens': '200', 'loss': '3.5'},
    {'name': 'b', 'params': '20', 'tokens': '400', 'loss': '3.25'},
]
NUMBERS = [row | {name: float(row[name]) for name in ('params', 'tokens', 'loss')} for row in ROWS]


def make_csv(delimiter=',', quote='"'):
    lines = [ROWS[0], *(row.values() for row in ROWS)]
    return '\n'.join(delimiter.join(f'{quote}{cell}{quote}' for cell in line) for line in lines)


def parse_rows_of(text, name='runs.csv'):
    return parse_table(name, text.encode() if isinstance(text, str) else text)


@pytest.mark.parametrize('delimiter', [',', ';', '\t'])
@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_csv_of_every_delimiter_and_encoding(delimiter, encoding):
    assert parse_rows_of(make_csv(delimiter).encode(encoding)) == ROWS


def test_the_declared_delimiter_of_excel_is_used():
    assert parse_rows_of('sep=|\r\n' + make_csv('|')) == ROWS


def test_compressed_files_are_known_by_their_content():
    content = make_csv().encode()
    zstandard = pyarrow.compress(content, codec='zstd', asbytes=True)
    for compressed in (gzip.compress(content), bz2.compress(content), lzma.compress(content)):
        assert parse_rows_of(compressed) == ROWS
    assert parse_rows_of(zstandard, 'runs.csv.zst') == ROWS
    with pytest.raises(UserError, match=r'runs\.csv: not a complete gzip file'):
        parse_rows_of(gzip.compress(content)[:-9])


def test_zstandard_without_its_codec_is_one_line(monkeypatch):
    compressed = pyarrow.compress(b'a,b\n1,2\n', codec='zstd', asbytes=True)
    monkeypatch.setattr(pyarrow, 'Codec', SimpleNamespace(is_available=lambda _: False))
    with pytest.raises(UserError, match='pyarrow has no Zstandard; decompress the file'):
        parse_rows_of(compressed)


def test_parquet():
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(NUMBERS), stream)
    assert parse_rows_of(stream.getvalue(), 'runs') == NUMBERS
    with pytest.raises(UserError, match='runs: not a complete Parquet file'):
        parse_rows_of(stream.getvalue()[:-9], 'runs')


COLUMNS = {name: [row[name] for row in NUMBERS] for name in NUMBERS[0]}
JSON_SHAPES = {
    'a list': NUMBERS,
    'an object with the list': {'project': 'x', 'runs': NUMBERS},
    'an object of columns': COLUMNS,
    'pandas, columns': {
        name: dict(zip('01', cells, strict=True)) for name, cells in COLUMNS.items()
    },
    'pandas, split': {
        'columns': list(COLUMNS),
        'index': [0, 1],
        'data': [list(row.values()) for row in NUMBERS],
    },
    'an object of runs': {
        row['name']: {name: row[name] for name in ('params', 'tokens', 'loss')} for row in NUMBERS
    },
}


@pytest.mark.parametrize('shape', JSON_SHAPES)
def test_json_in_its_usual_shapes(shape):
    for indent in (None, 2):
        text = json.dumps(JSON_SHAPES[shape], indent=indent)
        assert parse_rows_of(text, 'runs.json') == NUMBERS


def test_json_lines_under_any_name():
    text = '\n'.join(map(json.dumps, NUMBERS))
    for name in ('runs.jsonl', 'runs.json', 'runs.txt', 'runs'):
        assert parse_rows_of(text, name) == NUMBERS
    with pytest.raises(UserError, match=r'runs\.jsonl:3: not JSON'):
        parse_rows_of(f'{text}\n{{"params": 1', 'runs.jsonl')
    with pytest.raises(UserError, match='row 2: must be a JSON object with a key per column'):
        parse_rows_of('[{"params": 1}, 3]', 'runs.json')


def test_inner_objects_are_columns():
    run = {'name': 'a', 'config': {'size': 10}, 'summary': {'eval': {'loss': 3.0}}}
    assert parse_rows_of(json.dumps([run]), 'runs.json') == [
        {'name': 'a', 'config.size': 10, 'summary.eval.loss': 3.0}
    ]


def losses(text):
    return [row['loss'] for row in parse_rows_of(text)]


def test_decimal_commas_are_read_where_they_separate_no_columns():
    assert losses('loss;tokens\n5,7021;1\n3,412;2\n') == ['5.7021', '3.412']
    assert losses('loss\ttokens\n5,7\t1\n3,4e1\t2\n') == ['5.7', '3.4e1']
    # With decimal points in the file, commas stand between thousands.
    assert losses('loss;tokens\n5,702;1.5\n') == ['5702']
    assert losses('loss,tokens\n"5,702,000",1\n') == ['5702000']
    # Nothing says which of the two it is: not a number, which `runs` refuses.
    assert losses('loss;tokens\n5,702;1\n') == ['5,702']


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (
            'params,tokens,loss\n1,2,5,7021\n3,4,5,6\n',
            r'row 1 \(line 2\) has 4 cells, and the header has 3 columns: if the numbers have a '
            'decimal comma, write 5.7 for 5,7 or separate the columns by semicolons',
        ),
        ('a,b\n1,2\n\n3\n', r'row 2 \(line 4\) has 1 cells, and the header has 2 .* one cell per'),
        ('a;b\n1;2;3\n', r'row 1 \(line 2\) has 3 cells, and .* separated by semicolons'),
        ('PK\x03\x04 etc', 'an Excel workbook or another zip archive; save it as CSV'),
    ],
)
def test_rows_of_another_length_are_refused(text, message):
    with pytest.raises(UserError, match=message) as error:
        parse_rows_of(text)
    assert '\n' not in str(error.value)


def test_empty_cells_at_the_end_are_no_other_length():
    assert parse_rows_of('a,b,\n1,2,\n3,4\n,,,\n') == [{'a': '1', 'b': '2'}, {'a': '3', 'b': '4'}]


def test_row_names_without_a_header_are_recognized():
    """R writes them; they shift no column, and neither do pandas' index columns."""
    rows = [{'a': '5', 'loss': '3.5'}, {'a': '6', 'loss': '3.25'}]
    assert parse_rows_of('a,loss\n1,5,3.5\n2,6,3.25\n') == rows
    assert parse_rows_of(',a,loss\n0,5,3.5\n1,6,3.25\n') == rows
    assert parse_rows_of('Unnamed: 0,a,loss\n0,5,3.5\n1,6,3.25\n') == rows
    named = parse_rows_of('a,loss\nx,5,3.5\ny,6,3.25\n')
    assert named == [{'name': name} | row for name, row in zip('xy', rows, strict=True)]
    # Without a decimal point in the file, it may also be a decimal comma.
    for text in ('id,a,loss\n1,5,3,5\n2,6,3,25\n', 'id,a,loss\nx,5,3,5\ny,6,3,25\n'):
        with pytest.raises(UserError, match='has 4 cells'):
            parse_rows_of(text)


def test_text_is_not_taken_for_a_table():
    """Sentences have commas too, but hardly a number between two of them."""
    text = 'First Citizen:\nBefore we proceed, any further, hear me speak.\n' * 30 + 'In 1595,\n'
    with pytest.raises(UserError, match=r'not a table of runs: 0 of \d+ lines have a cell with'):
        parse_rows_of(text, 'prose.txt')
