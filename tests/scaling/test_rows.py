"""Unfinished trials are left out with their reason, and missing columns are named."""

import json

import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import rows as rows_module


def test_missing_column_is_named_with_the_existing_ones():
    with pytest.raises(
        UserError, match="record b: no column 'tokens'; the columns are: name, tokens, width"
    ):
        rows_module.get_column([{'name': 'a', 'tokens': 1}, {'name': 'b', 'width': 2}], 'tokens')


@pytest.mark.parametrize('loss', [None, float('nan'), float('inf'), 0.0, -1.0, 'low', True])
def test_invalid_rows_are_left_out_with_their_reason(loss):
    rows = [
        {'name': 'good', 'status': 'done', 'validation_loss': 2.0},
        {'name': 'dead', 'status': 'failed: exit code 1'},
        {'name': 'dirty', 'status': 'done', 'validation_loss': loss},
    ]
    fittable, left_out = rows_module.split_fittable(rows, ['validation_loss'])
    assert fittable == rows[:1]
    assert [row['name'] for row in left_out] == ['dead', 'dirty']
    assert 'failed: exit code 1' in left_out[0]['reason']
    assert json.dumps(left_out)
    assert repr(loss) in left_out[1]['reason']


def test_finished_trial_without_the_column_is_an_error():
    with pytest.raises(UserError, match="no column 'validation_loss'"):
        rows_module.split_fittable([{'name': 'a', 'status': 'done'}], ['validation_loss'])
