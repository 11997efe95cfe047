"""Do files give their documents whole, and do broken ones say where?"""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_jax.data import text_files
from gpt_jax.data.text_files import pieces
from gpt_jax.errors import UserError


def texts(path, field='text'):
    documents, open_text = [], ''
    for piece in pieces(path, field):
        open_text += piece.text
        if piece.last:
            documents.append(open_text)
            open_text = ''
    assert not open_text
    return documents


@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet='a é€😀\n\r\t', max_size=200), size=st.integers(4, 40))
def test_plain_text_in_pieces_is_the_whole(tmp_path_factory, text, size):
    path = tmp_path_factory.mktemp('plain') / 'a.txt'
    path.write_bytes(text.encode('utf-8'))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_files, 'PIECE', size)
        assert texts(path) == [text]


def test_large_files_are_cut_before_a_single_space(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, 'PIECE', 16)
    path = tmp_path / 'a.md'
    path.write_text('some words  and \n some more of them here')
    assert [piece.text for piece in pieces(path, '')] == ['some', ' words  and \n some more of', ' them here']


@pytest.mark.parametrize('at', [0, 5, 31, 32, 33, 63, 64, 99])
def test_not_utf8_names_the_byte(tmp_path, monkeypatch, at):
    monkeypatch.setattr(text_files, 'PIECE', 32)
    path = tmp_path / 'a.txt'
    path.write_bytes(b'x' * at + b'\xff' + b'x' * (99 - at))
    with pytest.raises(UserError, match=rf'a\.txt: not UTF-8 at byte {at};'):
        texts(path)


@pytest.mark.parametrize('before', [0, 29, 30, 31, 40])
def test_cut_off_character_names_the_byte(tmp_path, monkeypatch, before):
    monkeypatch.setattr(text_files, 'PIECE', 32)
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
        (b'[1]', r'a\.jsonl:2: expected an object'),
        (b'{"body": "x", "id": 3}', r"a\.jsonl:2: no column 'text' \(it has body, id\); set data\.text_field"),
        (b'{"text": 3}', r"a\.jsonl:2: column 'text' holds int, not text"),
        (b'{"text": "\\ud800"}', r"a\.jsonl:2: the text of 'text' is not UTF-8"),
        (b'{"text": "\xff"}', r'a\.jsonl:2: not UTF-8 at byte 24 of the file'),
    ],
)
def test_broken_json_lines_name_the_line(tmp_path, line, message):
    path = tmp_path / 'a.jsonl'
    path.write_bytes(b'{"text": "a"}\n' + line + b'\n')
    with pytest.raises(UserError, match=message):
        texts(path)


def test_cut_off_gzip(tmp_path):
    path = tmp_path / 'a.jsonl.gz'
    whole = gzip.compress(json.dumps({'text': 'x' * 1000}).encode())
    path.write_bytes(whole[:-12])
    with pytest.raises(UserError, match=r'a\.jsonl\.gz: not a whole gzip file'):
        texts(path)


def test_parquet(tmp_path):
    path = tmp_path / 'a.parquet'
    pyarrow.parquet.write_table(pyarrow.table({'body': ['eins', None, 'é'], 'n': [1, 2, 3]}), path)
    assert texts(path, 'body') == ['eins', '', 'é']
    with pytest.raises(UserError, match=r"no column 'text' \(it has body, n\)"):
        texts(path)
    with pytest.raises(UserError, match=r"row 0: column 'n' holds int"):
        texts(path, 'n')
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(UserError, match='not a whole Parquet file'):
        texts(path, 'body')


def test_unreadable(tmp_path):
    with pytest.raises(UserError, match=r'gone\.txt: cannot be read \(No such file'):
        texts(tmp_path / 'gone.txt')
