"""Are records read back whole, torn lines dropped, broken ones named, unfinished trials listed with their reason?"""

import json

import pytest

from gpt_jax.errors import UserError
from gpt_jax.scaling import records


def test_records_are_read_back_as_they_were_appended(tmp_path):
    path = tmp_path / 'new folder' / 'records.jsonl'
    rows = [{'name': 'a', 'validation_loss': 0.1 + 0.2, 'status': 'done'}, {'name': 'b', 'status': 'failed: 1'}]
    for row in rows:
        records.append(path, row)
    assert records.read(path) == rows


def test_torn_last_line_is_dropped_on_read_and_cut_off_on_append(tmp_path, caplog):
    path = tmp_path / 'records.jsonl'
    records.append(path, {'name': 'a'})
    with path.open('a') as file:
        file.write('{"name": "b", "validation_lo')
    assert records.read(path) == [{'name': 'a'}]
    assert 'torn last line' in caplog.text
    records.append(path, {'name': 'c'})
    assert records.read(path) == [{'name': 'a'}, {'name': 'c'}]
    assert path.read_bytes() == b'{"name": "a"}\n{"name": "c"}\n'


def test_whole_last_line_that_lacks_its_newline_is_kept(tmp_path):
    path = tmp_path / 'records.jsonl'
    path.write_text('{"name": "by hand"}')
    records.append(path, {'name': 'b'})
    assert [row['name'] for row in records.read(path)] == ['by hand', 'b']


@pytest.mark.parametrize('broken', ['{"name": ', '[1, 2]', '\xff'])
def test_broken_line_is_named_by_file_and_number(tmp_path, broken):
    path = tmp_path / 'records.jsonl'
    path.write_bytes(b'{"name": "a"}\n' + broken.encode('latin-1') + b'\n{"name": "c"}\n')
    with pytest.raises(UserError, match=r'records\.jsonl:2: '):
        records.read(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r'absent\.jsonl: no such file'):
        records.read(tmp_path / 'absent.jsonl')


def test_nan_is_refused_and_nothing_written(tmp_path):
    path = tmp_path / 'records.jsonl'
    with pytest.raises(ValueError, match='not JSON compliant'):
        records.append(path, {'name': 'a', 'validation_loss': float('nan')})
    assert not path.exists()


def test_missing_column_is_named_with_those_there_are():
    with pytest.raises(UserError, match="record b: no column 'tokens'; the columns are: name, tokens, width"):
        records.column([{'name': 'a', 'tokens': 1}, {'name': 'b', 'width': 2}], 'tokens')


@pytest.mark.parametrize('loss', [None, float('nan'), float('inf'), 0.0, -1.0, 'low', True])
def test_dirty_rows_are_left_out_with_their_reason(loss):
    rows = [
        {'name': 'good', 'status': 'done', 'validation_loss': 2.0},
        {'name': 'dead', 'status': 'failed: exit code 1'},
        {'name': 'dirty', 'status': 'done', 'validation_loss': loss},
    ]
    kept, left_out = records.fittable(rows, ['validation_loss'])
    assert kept == rows[:1]
    assert [row['name'] for row in left_out] == ['dead', 'dirty']
    assert 'failed: exit code 1' in left_out[0]['reason']
    assert json.dumps(left_out)
    assert repr(loss) in left_out[1]['reason']


def test_finished_trial_without_the_column_is_an_error_and_not_left_out():
    with pytest.raises(UserError, match="no column 'validation_loss'"):
        records.fittable([{'name': 'a', 'status': 'done'}], ['validation_loss'])
