"""Every row of a messy file is fitted, left out with a reason, or a one-line error."""

import json

import numpy as np
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import analysis, bootstrap, interpolated_runs, isoflop, outliers, runs
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


def read(tmp_path, rows, **flags):
    return runs.read_runs(synthetic.write_csv(tmp_path / 'runs.csv', rows), **flags)


@pytest.mark.parametrize('column', ['state', 'State', 'Status', '_state'])
def test_status_columns_are_known_by_their_usual_names(column, tmp_path):
    states = ['finished', 'crashed', 'failed', 'running', 'killed', 'finished']
    rows = [ONE | {'loss': 3 - k / 10, column: state} for k, state in enumerate(states)]
    found = read(tmp_path, rows)
    assert found.rows.tolist() == [1, 6]
    assert found.left_out[0]['reason'] == "status is 'crashed'"


def test_a_state_column_without_states_is_said(tmp_path):
    rows = [ONE | {'state': 'Ohio'}, ONE | {'loss': 2, 'state': 'Utah'}]
    found = read(tmp_path, rows)
    assert len(found) == 2
    assert "column 'state' is not read as the status" in found.notes[0]


def test_abbreviated_counts_and_sums_of_columns(tmp_path):
    rows = [
        {'body': '124M', 'head': '6_000k', 'D': '2.5 B', 'loss': 3.0},
        {'body': '1.3B', 'head': '', 'D': '1t', 'loss': 2.9},
        {'body': '1.3B', 'head': 0, 'D': '1e12', 'loss': 2.5},
    ]
    columns = {'body+head': 'params', 'D': 'tokens'}
    found = read(tmp_path, rows, columns=columns)
    assert found.params.tolist() == [130e6, 1.3e9]
    assert found.tokens.tolist() == [2.5e9, 1e12]
    assert found.left_out[0]['reason'] == 'params is missing'
    with pytest.raises(UserError, match="row 2: params is 'big', not a number; correct"):
        read(tmp_path, [rows[0], rows[2] | {'body': 'big'}], columns=columns)
    with pytest.raises(
        UserError, match=r"--columns=body\+x=params: no column 'x'; the columns are"
    ):
        read(tmp_path, rows, columns={'body+x': 'params', 'D': 'tokens'})


BITS_NOTE = "loss: column 'val_bits' is bits per token, converted to nats per token (by its name"


@pytest.mark.parametrize(
    ('column', 'flag', 'losses', 'unit', 'note'),
    [
        ('val_ppl', '', np.log([30, 20]), 'perplexity', "column 'val_ppl' is a perplexity, conv"),
        ('val_ppl', 'nats', [30, 20], 'nats', 'the median is 25, too high for nats per token'),
        ('log_ppl', '', [30, 20], 'nats', 'too high for nats per token; --loss_unit=perplexity'),
        ('loss', 'perplexity', np.log([30, 20]), 'perplexity', '(--loss_unit)'),
        ('val_bits', '', np.log(2) * np.array([30, 20]), 'bits', BITS_NOTE),
        ('eval/bpb', '', [30, 20], 'bits_per_byte', 'is in bits per byte, and so are all losses'),
        ('bits_per_byte', '', [30, 20], 'bits_per_byte', 'is in bits per byte'),
    ],
)
def test_units_of_the_loss(column, flag, losses, unit, note, tmp_path):
    rows = [{'params': 10, 'tokens': 100, column: loss} for loss in (30, 20)]
    found = read(tmp_path, rows, columns={column: 'loss'}, loss_unit=flag)
    assert found.loss == pytest.approx(losses)
    assert found.provenance['loss_unit'] == unit
    assert note in found.notes[0]
    rows[1][column] = 0.9
    if unit == 'perplexity':
        with pytest.raises(UserError, match='row 2: loss: a perplexity must be above 1'):
            read(tmp_path, rows, columns={column: 'loss'}, loss_unit=flag)


@pytest.mark.parametrize(
    ('factor', 'words'),
    [
        (1.2, None),
        (8 / 6, '1.33 times 6 x params x tokens: attention or embeddings count otherwise'),
        (1e-9, '1e-09 times 6 x params x tokens: the column seems to be in GFLOPs'),
        (1 / 8.64e19, 'in PFLOP/s-days'),
        (1e9, 'params or tokens seem to be in units (product 1e+09), not counts'),
    ],
)
def test_flops_are_held_against_6nd(factor, words, tmp_path):
    rows = [ONE | {'tokens': 100 * k, 'loss': 4 - k, 'flops': 6000 * k * factor} for k in (1, 2)]
    notes = read(tmp_path, rows).notes
    assert words in notes[0] if words else notes == []
    assert read(tmp_path, rows, flops='6ND').notes == []


def test_text_in_an_optional_column_refuses_nothing(tmp_path):
    rows = [ONE | {'error': '', 'seed': 'a', 'budget': 'small', 'unique_tokens': 50}]
    rows += [rows[0] | {'loss': 2, 'error': 'OOM'}, rows[0] | {'loss': 1, 'error': 0.5}]
    found = read(tmp_path, rows)
    assert len(found) == 3
    assert set(found.extra) == {'unique_tokens'}
    assert [note.partition(': correct')[0][:48] for note in found.notes] == [
        "column 'budget' is not used: row 1: budget is 's",
        "column 'seed' is not used: row 1: seed is 'a', n",
        "column 'error' is not used: row 2: error is 'OOM",
        '2 rows repeat another but for their loss: too fe',
    ]


def test_equal_losses_of_other_seeds_or_names_are_evidence(tmp_path):
    for column in ('name', 'seed', 'host'):
        rows = [ONE | {column: number} for number in (1, 2, 1)] + [ONE | {'loss': 2, column: 1}]
        found = read(tmp_path, rows)
        assert found.rows.tolist() == [1, 2, 4]
        assert [one['reason'] for one in found.left_out] == ['the same as row 1 in every column']


def test_the_best_hyperparameters_of_each_size_and_length_are_fitted(tmp_path):
    grid = [(1e-3, 0, 3.0), ('0.001', 1, 3.3), (1e-2, 0, 3.2), (1e-2, 1, 2.99)]
    rows = [ONE | {'config/lr': rate, 'seed': seed, 'loss': loss} for rate, seed, loss in grid]
    rows.append(ONE | {'params': 20, 'config/lr': 1e-4, 'seed': 0, 'loss': 2.5})
    found = read(tmp_path, rows)
    assert found.rows.tolist() == [3, 4, 5]  # by the mean over seeds; one of its own size stays
    assert 'not the best of its N and D' in found.left_out[0]['reason']
    assert 'config/lr=0.01' in found.left_out[0]['reason']
    assert found.notes[0].startswith('2 of 5 runs are left out because another run of the same N')
    assert len(read(tmp_path, rows, keep_untuned=True)) == 5
    assert len(read(tmp_path, [row | {'config/lr': 1} for row in rows])) == 5


def test_labelled_budgets_are_curves_under_any_count(tmp_path):
    """As in nanochat's table: the label counts FLOPs in its own way, and N is a sum of columns."""
    given = synthetic.isoflop(budgets=3, sizes=6)
    rows = [
        {'flops_budget': 1.5 * c, 'body': n / 2, 'head': 30 * n**0.75, 'tokens': d, 'loss': loss}
        for c, n, d, loss in zip(given.flops, given.params, given.tokens, given.loss, strict=True)
    ]
    found = read(tmp_path, rows, columns={'body+head': 'params'})
    assert np.ptp(found.flops[:6]) > 0.1 * found.flops[0]
    assert interpolated_runs.interpolate_isoflop_runs(found) == (found, False)
    assert [len(group) for _, group in isoflop.group_by_budget(found)] == [6, 6, 6]


def test_targets_need_no_column_of_the_runs(tmp_path):
    columns = {'N': 'params', 'body+head': 'params', 'D': 'tokens', 'val': 'loss'}
    path = synthetic.write_csv(tmp_path / 'targets.csv', [{'N': '7B', 'tokens': '2T', 'name': 'a'}])
    (target,) = runs.read_targets(path, columns=columns)
    assert target[:3] == ('a', 7e9, 2e12)
    assert np.isnan(target[3:]).all()


def test_a_folder_and_exports_of_one_curve_are_named(tmp_path):
    with pytest.raises(UserError, match=r'event files; give a file, such as .*records\.jsonl'):
        runs.read_runs(str(tmp_path))
    with pytest.raises(UserError, match='a chart of W&B; export its table of runs'):
        read(tmp_path, [{'Step': 1, 'a - loss': 3, 'a - loss__MIN': 3}])
    with pytest.raises(UserError, match="one run's curve from TensorBoard"):
        read(tmp_path, [{'Wall time': 1, 'Step': 3, 'Value': 3}])
