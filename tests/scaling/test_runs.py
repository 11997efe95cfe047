"""Every row of a messy file is fitted, left out with a reason, or a one-line error."""

import json

import numpy as np
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import analysis, bootstrap, outliers, runs
from gpt_jax.scaling.rows import read_rows as all_rows
from tests.scaling import synthetic


def make_messy_rows():
    """A clean grid with one defect of each kind: (rows, reasons by row number)."""
    rows = [
        row | {'status': 'done', 'planned_tokens': row['tokens']}
        for row in synthetic.rows(synthetic.grid(8, 7))
    ]
    reasons = {}

    def put(at, change, word):
        rows[at] = rows[at] | change
        reasons[at + 1] = word

    put(3, {'loss': 'nan'}, 'loss is nan')
    put(10, {'loss': 'inf'}, 'loss is inf')
    put(17, {'loss': ''}, 'loss is missing')
    put(18, {'loss': '-inf'}, 'loss is -inf')
    put(22, {'status': 'diverged', 'loss': 'diverged'}, "status is 'diverged'")
    put(23, {'status': 'diverged', 'loss': 0}, "status is 'diverged'")
    put(24, {'status': 'failed', 'loss': '', 'tokens': 0}, "status is 'failed'")
    put(25, {'planned_tokens': 'inf'}, 'planned_tokens is inf')
    put(30, {'planned_tokens': 2 * rows[30]['tokens']}, 'unfinished')
    put(41, {'loss': rows[41]['loss'] * 1.4}, 'outlier')
    rows.append(dict(rows[5]))
    reasons[len(rows)] = 'the same as row 6'
    return rows, reasons


def test_defective_rows_are_left_out_with_their_reason(tmp_path):
    rows, reasons = make_messy_rows()
    read = outliers.drop_outliers(
        'chinchilla', runs.read_runs(synthetic.write_csv(tmp_path / 'runs.csv', rows)), delta=1e-3
    )
    assert {one['row']: one['reason'] for one in read.left_out}.keys() == reasons.keys()
    for one in read.left_out:
        assert reasons[one['row']] in one['reason']
    assert len(read) == len(rows) - len(reasons)


def test_records_are_read_under_every_convention(tmp_path):
    path = tmp_path / 'records.jsonl'
    record = {
        'name': 'a',
        'status': 'done',
        'tokens': 100,
        'validation_loss': 3.0,
        'params_total': 10,
        'params_non_embedding': 6,
        'flops_with_attention': 7000,
        'flops_causal': 6500,
    }
    other = record | {'name': 'b', 'tokens': 200, 'validation_loss': 2.5}
    path.write_text(
        ''.join(
            json.dumps(one) + '\n' for one in (record, other, {'name': 'c', 'status': 'failed: x'})
        )
    )
    total = runs.read_runs(str(path))
    assert total.params.tolist() == [10, 10]
    assert total.flops.tolist() == [6000, 12000]
    assert total.left_out[0]['reason'] == "status is 'failed: x'"
    kaplan = runs.read_runs(str(path), count='non_embedding', flops='with_attention')
    assert kaplan.params.tolist() == [6, 6]
    assert kaplan.flops.tolist() == [7000, 7000]
    assert kaplan.provenance['count'] == 'non_embedding'
    assert total.provenance['count'] == 'total'


def test_other_column_names_and_thousands_separators(tmp_path):
    rows = [{'N': '1_000', 'D': 2e5, 'val': 3.0}, {'N': 2000, 'D': 2e5, 'val': 2.9}]
    path = synthetic.write_csv(tmp_path / 'theirs.csv', rows)
    read = runs.read_runs(path, columns={'N': 'params', 'D': 'tokens', 'val': 'loss'})
    assert read.params.tolist() == [1000, 2000]


ONE = {'params': 10, 'tokens': 100, 'loss': 3.0}
BAD = [
    ([{'params': 10, 'loss': 3.0}], {}, "no column 'tokens'; the columns are: params, loss"),
    ([ONE, ONE | {'loss': 'low'}], {}, "row 2: loss is 'low', not a number"),
    ([ONE], {}, '1 of 1 rows can be fitted'),
    ([ONE, ONE | {'tokens': -5}], {}, 'row 2: tokens: must be above zero, got -5'),
    ([ONE, ONE | {'params': 20}], {}, 'all 2 losses are 3'),
    (
        [ONE, ONE | {'loss': 2}],
        {'flops': 'causal'},
        "column 'flops_causal' is missing in 2 of 2 runs",
    ),
    (
        [ONE | {'flops': 60}, ONE | {'loss': 2}],
        {},
        "column 'flops' is missing in 1 of 2 runs; use --flops=6ND",
    ),
    ([ONE, ONE | {'params': 1e-300}], {}, 'row 2: params: must be at least 1, got 1e-300'),
    ([ONE, ONE | {'params': 1e300}], {}, 'row 2: params is 1e+300, which no run has'),
    ([ONE, ONE | {'flops': 1e-300}], {}, 'row 2: flops is 1e-300, which no run has'),
    ([ONE | {'loss ': 4}], {}, "2 columns are named 'loss'"),
    (
        [ONE, ONE | {'loss': 2}],
        {'columns': {'zzz': 'loss'}},
        "no column 'zzz'; the columns are: params, tokens, loss",
    ),
    (
        [ONE, ONE | {'loss': 2}],
        {'count': 'total'},
        "--count=total: no column 'params_total'; the columns are: params",
    ),
    ([ONE, ONE | {'loss': 2}], {'columns': {'X': 'loss2'}}, "no column 'X'"),
]


@pytest.mark.parametrize(('rows', 'flags', 'message'), BAD, ids=lambda value: str(value)[:30])
def test_bad_files_are_rejected_in_one_line(rows, flags, message, tmp_path):
    with pytest.raises(UserError) as error:
        runs.read_runs(synthetic.write_csv(tmp_path / 'runs.csv', rows), **flags)
    assert message in str(error.value)
    assert '\n' not in str(error.value)


def test_missing_file_and_torn_json(tmp_path):
    with pytest.raises(UserError, match='No such file'):
        runs.read_runs(str(tmp_path / 'none.csv'))
    (tmp_path / 'torn.jsonl').write_text('{"params": 1\n')
    with pytest.raises(UserError, match=r'torn\.jsonl:1: not JSON'):
        runs.read_runs(str(tmp_path / 'torn.jsonl'))


def test_renamed_column_replaces_an_existing_one(tmp_path):
    path = synthetic.write_csv(tmp_path / 'runs.csv', [{'val': 2.9} | ONE, {'val': 2.8} | ONE])
    assert runs.read_runs(path, columns={'val': 'loss'}).loss.tolist() == [2.9, 2.8]


def test_one_run_is_enough_to_score_a_forecast(tmp_path):
    path = synthetic.write_csv(tmp_path / 'runs.csv', [ONE | {'flops': 60}, ONE | {'params': 20}])
    assert len(runs.read_runs(path, for_fitting=False)) == 2
    synthetic.write_csv(tmp_path / 'runs.csv', [ONE])
    assert runs.read_runs(path, for_fitting=False).loss.tolist() == [3]
    synthetic.write_csv(tmp_path / 'runs.csv', [ONE | {'status': 'failed'}])
    with pytest.raises(UserError, match="1 rows and no finished run; row 1: status is 'failed'"):
        runs.read_runs(path, for_fitting=False)


def test_rows_without_flops_are_left_out_where_most_have_them(tmp_path):
    rows = [ONE | {'loss': 3 - 0.1 * k, 'flops': 9000 + k} for k in range(4)]
    rows[1]['flops'], rows[2]['flops'] = '', 'inf'
    path = synthetic.write_csv(tmp_path / 'runs.csv', rows)
    for flops in ('', 'column'):
        read = runs.read_runs(path, flops=flops)
        assert read.flops.tolist() == [9000, 9003]
        assert read.provenance['flops'] == 'column'
        reasons = {one['row']: one['reason'] for one in read.left_out}
        assert reasons == {
            2: 'flops is missing, and most rows have it (--flops=6ND needs none)',
            3: 'flops is inf',
        }
    assert runs.read_runs(path, flops='6ND').flops.tolist() == [6000] * 4


def test_line_separators_inside_cells(tmp_path):
    path = tmp_path / 'runs.jsonl'
    rows = [ONE | {'name': 'a\u2028b'}, ONE | {'loss': 2, 'name': 'c\x85d'}]
    path.write_text(
        '\n'.join(json.dumps(row, ensure_ascii=False) for row in rows), encoding='utf-8'
    )
    assert runs.read_runs(str(path)).names == ['a\u2028b', 'c\x85d']
    rows = [ONE | {'name': 'a\nb'}, ONE | {'loss': 2, 'name': 'c' * 200_000}]
    assert runs.read_runs(synthetic.write_csv(tmp_path / 'runs.csv', rows)).names == [
        'a\nb',
        'c' * 200_000,
    ]
    path.write_text('[' * 100_000)
    with pytest.raises(UserError, match=r'runs\.jsonl:1: not JSON'):
        runs.read_runs(str(path))


def test_seed_noise():
    random = np.random.default_rng(0)
    n, d = np.repeat(np.geomspace(1e6, 1e9, 40), 5), np.full(200, 1e9)
    noise, freedom = bootstrap.estimate_seed_noise(
        synthetic.runs(n, d, synthetic.loss(n, d) * np.exp(0.004 * random.standard_normal(200)))
    )
    assert freedom == 160
    assert noise == pytest.approx(0.004, rel=0.15)
    assert bootstrap.estimate_seed_noise(synthetic.grid())[1] == 0


def test_curves_stay_with_their_runs(tmp_path):
    path = tmp_path / 'records.jsonl'
    given = [
        [[200, 3.5], [100, 4.0]],
        'none',
        [[100, None], [-1, 2.0], [50, 4.2, 1], [70, float('nan')], [60, 4.1]],
    ]
    rows = [ONE | {'loss': 3.0 - 0.1 * k, 'curve': curve} for k, curve in enumerate(given)]
    rows += [ONE | {'loss': 2.0, 'curve': [[10**400, 2.0]]}, ONE | {'loss': 1.9}]
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    read = runs.read_runs(str(path))
    curves = [[(100, 4.0), (200, 3.5)], [], [(60, 4.1)], [], []]
    assert read.curves == curves
    assert read.take(np.array([2, 0, 2])).curves == [curves[2], curves[0], curves[2]]
    assert read.exclude({0: 'far'}).curves == curves[1:]
    assert analysis.describe_runs(read)['residuals']['curves'] == curves
    assert len(all_rows(str(path))) == 5


def test_csv_has_no_curves(tmp_path):
    rows = [ONE | {'curve': '[[100, 4.0]]'}, ONE | {'loss': 2, 'curve': ''}]
    assert runs.read_runs(synthetic.write_csv(tmp_path / 'runs.csv', rows)).curves == [[], []]
