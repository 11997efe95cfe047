"""IsoFLOP plans are centred on the optimum, continue existing runs and extend an edge."""

import numpy as np
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import compute_optimal
from gpt_jax.scaling.plan import isoflop_plan, planner, trial_rows
from gpt_jax.scaling.plan.shapes import ShapeFamily
from tests.scaling import sweep_records

SMALL = {1e14: (64, 96, 128, 160, 192), 2e14: (64, 96, 128, 160, 224)}
FRAME = ShapeFamily('without_positions', sweep_records.CONTEXT, sweep_records.VOCAB, 32, 2)
HARDWARE = {'peak': 1e15, 'utilization': 0.4, 'devices': 8}
TRUE = compute_optimal.compute_split(sweep_records.LAW)


def isoflop(
    budgets, previous=None, *, sizes=5, span=3.0, family=FRAME, rate=None, batch=sweep_records.BATCH
):
    return isoflop_plan.plan_isoflop(
        budgets,
        sizes=sizes,
        span=span,
        family=family,
        rules=trial_rows.TrialRules(rate, batch, previous),
        hardware=HARDWARE,
        price=2.0,
    )


def rows(result):
    return [row for one in result['budgets'] for row in one['trials']]


def test_every_trial_uses_its_budget_to_within_half_a_step():
    result = isoflop(
        (1e20, 1e18, 1e19),
        family=ShapeFamily('without_positions', 2048, 50257, None, None),
        batch=None,
    )
    assert [one['flops'] for one in result['budgets']] == [1e18, 1e19, 1e20]
    split = compute_optimal.compute_split(planner.PUBLISHED_LAW)
    for one in result['budgets']:
        assert one['params'] == pytest.approx(split.at(one['flops'])[0])
        sizes = np.array([row['params'] for row in one['trials']])
        assert np.log(sizes / one['params']) == pytest.approx(
            np.linspace(-1, 1, 5) * np.log(3), abs=0.12
        )
        for row in one['trials']:
            step = row['flops'] / row['steps']
            assert abs(row['flops'] - one['flops']) <= step / 2
            assert row['tokens'] == row['steps'] * row['batch'] * 2048
            assert row['trial']['train.flops'] == one['flops']
            assert row['trial']['train.batch_size'] == planner.suggest_batch_size(
                one['flops'], 2048
            )
    names = [row['name'] for row in rows(result)]
    assert len(set(names)) == 15
    assert result['batch'] is None
    assert result['total'] == result['new']
    assert result['total']['flops'] == pytest.approx(5 * 1.11e20, rel=1e-3)
    hours = sum(row['flops_with_attention'] for row in rows(result)) / (1e15 * 0.4 * 8) / 3600
    assert result['total']['hours'] == pytest.approx(hours)
    assert result['total']['cost'] == pytest.approx(hours * 16)


def test_existing_runs_stay_and_other_budgets_are_recentred(tmp_path):
    path, old = sweep_records.write(tmp_path, SMALL)
    result = isoflop((1e14, 2e14, 8e14, 2e15), trial_rows.read_previous_runs(path, {}, ''))
    small, large = result['budgets'][:2], result['budgets'][2:]
    assert [row['trial'] for one in small for row in one['trials']] == old
    assert not any(row['new'] for one in small for row in one['trials'])
    assert all(one['source'] == 'its own minimum' for one in small)
    for one in large:
        assert one['params'] == pytest.approx(TRUE.at(one['flops'])[0], rel=0.05)
        assert all(row['new'] for row in one['trials'])
        middle = one['trials'][2]
        assert middle['params'] == pytest.approx(one['params'], rel=0.25)
        assert middle['learning_rate'] == pytest.approx(
            0.4 / middle['width'], rel=0.02
        )  # the sweep's own rule
    assert result['batch'] == sweep_records.BATCH
    assert result['new']['trials'] == 10
    assert result['total']['trials'] == 20


@pytest.mark.parametrize(
    ('widths', 'which'), [((160, 192, 224, 256), 'smaller'), ((32, 40, 48, 64), 'larger')]
)
def test_minimum_on_the_edge_gets_sizes_beyond_it(tmp_path, widths, which):
    path, old = sweep_records.write(tmp_path, {1e14: SMALL[1e14], 4e14: widths})
    one = isoflop((1e14, 4e14, 1e15), trial_rows.read_previous_runs(path, {}, ''))['budgets'][1]
    assert [row['trial'] for row in one['trials'] if not row['new']] == old[5:]
    new = [row['width'] for row in one['trials'] if row['new']]
    assert len(new) == 2
    assert max(new) < widths[0] if which == 'smaller' else min(new) > widths[-1]
    assert one['note'].endswith(f'the minimum is not inside the sweep: 2 {which} added')


def test_budget_with_too_few_sizes_is_filled_up(tmp_path):
    path, old = sweep_records.write(tmp_path, SMALL | {8e14: (96, 192)})
    one = isoflop((1e14, 8e14), trial_rows.read_previous_runs(path, {}, ''))['budgets'][1]
    assert one['note'].startswith('2 runs are too few for a curve')
    assert [row['trial'] for row in one['trials'] if not row['new']] == old[-2:]
    assert len(one['trials']) >= 4
    assert len({row['width'] for row in one['trials']}) == len(one['trials'])


def test_planned_trial_without_run_is_restored(tmp_path):
    path, old = sweep_records.write(tmp_path, SMALL | {8e14: (96, 128, 192, 256, 320)})
    lines = (tmp_path / 'records.jsonl').read_text().splitlines(keepends=True)
    (tmp_path / 'records.jsonl').write_text(''.join(lines[:10]))
    planned = {one['name']: one for one in old}
    rows_of_budget = isoflop((1e14, 8e14), trial_rows.read_previous_runs(path, {}, ''))['budgets'][
        1
    ]['trials']
    same = [row['trial'] for row in rows_of_budget if row['name'] in planned]
    assert same
    assert all(planned[one['name']] == one for one in same)


def test_runs_of_other_budgets_get_a_note(tmp_path):
    path, _ = sweep_records.write(tmp_path, SMALL)
    result = isoflop((8e14, 2e15), trial_rows.read_previous_runs(path, {}, ''))
    assert result['notes'] == ['10 runs of other budgets refine N* but are not in the config']


def test_narrow_span_gets_a_note():
    assert 'puts the minimum on the edge' in isoflop((1e16, 1e17), span=2.0, sizes=5)['notes'][0]
    assert isoflop((1e16, 1e17))['notes'] == []


BAD = [
    ({'budgets': (1e18,)}, 'one budget gives one minimum and no line'),
    ({'budgets': (1e18, 1.05e18)}, 'a fit cannot tell budgets'),
    ({'budgets': (1e18, 1e19), 'span': 0.5}, '--span: must be above 1, got 0.5'),
    ({'budgets': (1e18, 1e19), 'sizes': 3}, '--sizes: must be at least 4, got 3'),
    (
        {'budgets': (1e12, 1e13), 'family': FRAME._replace(head_dim=64)},
        'shapes of whole layers from',
    ),
    ({'budgets': (1e16, 1e17), 'batch': 100_000}, 'give a smaller --batch, or a larger budget'),
]


@pytest.mark.parametrize(('flags', 'message'), BAD)
def test_impossible_sweeps_are_rejected(flags, message):
    with pytest.raises(UserError, match=message):
        isoflop(**flags)


def test_budget_close_to_that_of_the_runs_is_rejected(tmp_path):
    path, _ = sweep_records.write(tmp_path, SMALL)
    with pytest.raises(UserError, match='has runs of 1e\\+14 FLOPs; give that budget'):
        isoflop((1.05e14, 8e14), trial_rows.read_previous_runs(path, {}, ''))
