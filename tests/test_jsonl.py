"""Are JSON lines read back whole, torn ones dropped, and broken ones named?"""

import pytest

from gpt_jax import jsonl
from gpt_jax.errors import UserError


def test_records_are_read_back_as_they_were_appended(tmp_path):
    path = tmp_path / 'new folder' / 'records.jsonl'
    rows = [{'name': 'a', 'validation_loss': 0.1 + 0.2, 'status': 'done'}, {'name': 'b', 'status': 'failed: 1'}]
    for row in rows:
        jsonl.append(path, row)
    assert jsonl.read(path) == rows


def test_torn_last_line_is_dropped_on_read_and_cut_off_on_append(tmp_path, caplog):
    path = tmp_path / 'records.jsonl'
    jsonl.append(path, {'name': 'a'})
    with path.open('a') as file:
        file.write('{"name": "b", "validation_lo')
    assert jsonl.read(path) == [{'name': 'a'}]
    assert 'torn last line' in caplog.text
    jsonl.append(path, {'name': 'c'})
    assert jsonl.read(path) == [{'name': 'a'}, {'name': 'c'}]
    assert path.read_bytes() == b'{"name": "a"}\n{"name": "c"}\n'


def test_whole_last_line_that_lacks_its_newline_is_kept(tmp_path):
    path = tmp_path / 'records.jsonl'
    path.write_text('{"name": "by hand"}')
    jsonl.append(path, {'name': 'b'})
    assert [row['name'] for row in jsonl.read(path)] == ['by hand', 'b']


@pytest.mark.parametrize('broken', ['{"name": ', '[1, 2]', '\xff', '[' * 100_000], ids=range(4))
def test_broken_line_is_named_by_file_and_number(tmp_path, broken):
    path = tmp_path / 'records.jsonl'
    path.write_bytes(b'{"name": "a"}\n' + broken.encode('latin-1') + b'\n{"name": "c"}\n')
    with pytest.raises(UserError, match=r'records\.jsonl:2: '):
        jsonl.read(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r'absent\.jsonl: no such file'):
        jsonl.read(tmp_path / 'absent.jsonl')
    with pytest.raises(UserError, match='Is a directory'):
        jsonl.read(tmp_path)


def test_nan_is_refused_and_nothing_written(tmp_path):
    path = tmp_path / 'records.jsonl'
    with pytest.raises(ValueError, match='not JSON compliant'):
        jsonl.append(path, {'name': 'a', 'validation_loss': float('nan')})
    assert not path.exists()
