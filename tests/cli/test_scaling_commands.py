"""`gpt-jax fit`, `plan`, `forecast`, `verify` and `compare`: output, files and errors."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from gpt_jax.cli import main as cli
from tests import program
from tests.scaling import sweep_records, synthetic


@pytest.fixture
def data(tmp_path):
    given = synthetic.isoflop()
    rows = synthetic.rows(given)
    for row, noise in zip(rows, np.random.default_rng(0).standard_normal(len(rows)), strict=True):
        row['loss'] *= np.exp(0.001 * noise)
    return synthetic.write_csv(tmp_path / 'runs.csv', rows)


def test_fit_prints_writes_and_draws(data, tmp_path, capsys):
    cli.main(
        [
            'fit',
            data,
            '--approach=all',
            '--at-flops=1e23',
            '--draws=10',
            '--starts=16',
            f'--json={tmp_path / "fit.json"}',
            f'--plots={tmp_path / "figures"}',
        ]
    )
    out = capsys.readouterr().out
    for word in (
        '54 runs',
        'alpha',
        'starts reached it',
        'drawn: runs, with replacement',
        'held out',
        '3 parametric',
        'D/N',
        'N* = ',
        'by Akima interpolation: a ',
    ):
        assert word in out, word
    result = json.loads((tmp_path / 'fit.json').read_text())
    assert result['fit']['constants']['alpha'] == pytest.approx(synthetic.TRUTH['alpha'], rel=0.05)
    names = {path.name for path in (tmp_path / 'figures').iterdir()}
    for name in ('loss_over_compute', 'isoflop', 'optimal_split', 'residuals'):
        assert {f'{name}.png', f'{name}.svg'} <= names


def test_plan_forecast_verify_and_compare(data, tmp_path, capsys):
    cli.main(
        [
            'plan',
            '--flops=1e20',
            f'--runs={data}',
            '--draws=20',
            f'--config={tmp_path / "planned.py"}',
        ]
    )
    assert 'nearest shape' in capsys.readouterr().out
    assert 'def get_config' in (tmp_path / 'planned.py').read_text()
    path = str(tmp_path / 'ledger.jsonl')
    cli.main(['forecast', data, '--params=1e10', '--tokens=2e11', f'--ledger={path}'])
    out = capsys.readouterr().out
    assert 'law auto through 54 runs' in out
    assert re.search(r'in \d+ rollouts at 10 times the compute on these runs: median error', out)
    assert 'written to' in out
    line = json.loads((tmp_path / 'ledger.jsonl').read_text())
    assert line['low'] < line['loss'] < line['high']
    assert line['rollouts']['factor'] == 10
    assert set(line['constants']) == {'E', 'A', 'B', 'alpha', 'beta', 'kappa'}
    run = {'params': 1e10, 'tokens': 2e11, 'loss': float(synthetic.loss(1e10, 2e11))}
    later = synthetic.write_csv(tmp_path / 'later.csv', [run])
    cli.main(['verify', path, f'--runs={later}'])
    assert '1 of 1 verified: 1 inside' in capsys.readouterr().out
    (tmp_path / 'file').touch()
    for command, said in (
        (['verify', path, f'--runs={later}', f'--json={tmp_path}'], f'{tmp_path}: Is a directory'),
        (
            ['verify', path, f'--runs={later}', f'--json={tmp_path}/file/x'],
            'is a file, not a folder',
        ),
        (['plan', '--flops=1e20', f'--config={tmp_path}'], f'{tmp_path}: Is a directory'),
        (
            ['compare', data, data, '--draws=10', f'--plots={tmp_path}/file'],
            'is a file, not a folder',
        ),
    ):
        refused(command, said, capsys)
    cli.main(['compare', data, data, '--draws=10', f'--plots={tmp_path}'])
    assert ': 1 times (from' in capsys.readouterr().out
    assert (tmp_path / 'compare.png').exists()


def test_many_runs_are_forecast_by_one_fit(data, tmp_path, capsys):
    path = tmp_path / 'targets.csv'
    path.write_text('params,tokens,name\n1e10,2e11,one\n2e10,8e11,two\n')
    output, ledger = tmp_path / 'forecasts.json', tmp_path / 'ledger.jsonl'
    cli.main(['forecast', data, f'--targets={path}', f'--json={output}', f'--ledger={ledger}'])
    table = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert table[table.index('name') :][:4] == ['name', '----', 'one', 'two']
    forecasts = json.loads(output.read_text())
    assert [row['name'] for row in forecasts] == ['one', 'two']
    for row in forecasts:
        assert {'params', 'tokens', 'loss', 'low', 'high', 'level', 'law'} <= set(row)
        assert row['low'] < float(synthetic.loss(row['params'], row['tokens'])) < row['high']
    assert len(ledger.read_text().splitlines()) == 2
    cli.main(['forecast', data, '--params=1e10', '--tokens=2e11', f'--ledger={tmp_path / "one"}'])
    one = json.loads((tmp_path / 'one').read_text())
    assert (one['loss'], one['low']) == (forecasts[0]['loss'], forecasts[0]['low'])
    path.write_text('params,tokens\n1e10,\n')
    refused(['forecast', data, f'--targets={path}'], 'row 1: tokens is missing', capsys)


def test_backtest_prints_and_writes_every_rollout(tmp_path, capsys):
    rows = synthetic.rows(synthetic.isoflop(budgets=3, sizes=4))
    data = synthetic.write_csv(tmp_path / 'runs.csv', rows)
    path = tmp_path / 'backtest.json'
    cli.main(['backtest', data, '--law=auto,tied', f'--json={path}'])
    table = capsys.readouterr().out.splitlines()
    assert table[0].split()[:3] == ['law', 'compute', 'rollouts']
    assert {line.split()[0] for line in table[2:-1]} >= {'auto', 'tied', 'no', 'line'}
    result = json.loads(path.read_text())
    assert sum(row['rollouts'] for row in result['scores']) == len(result['rollouts'])
    assert result['rollouts'][0]['flops'] > result['rollouts'][0]['origin']
    refused(['backtest', data, '--law=chincilla'], 'chincilla', capsys)


def test_backtest_of_curves(tmp_path, capsys):
    x = np.geomspace(1e6, 1e9, 12)
    rows = [
        {'task': task, 'tokens': n, 'loss': 0.3 + 30 * n**-exponent, 'done': int(n < 3e8)}
        for task, exponent in (('a', 0.3), ('b', 0.25))
        for n in x
    ]
    data = synthetic.write_csv(tmp_path / 'curves.csv', rows)
    path = tmp_path / 'curves.json'
    cli.main(['backtest', data, '--over=D', '--group=task', '--split=done', f'--json={path}'])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[2:4]] == [['auto', '2'], ['power', '2']]
    result = json.loads(path.read_text())
    assert len(result['curves']) == 4
    assert result['scores'][0]['inside'] == 1
    assert result['scores'][1]['rms'] < 1e-4  # the law is true
    refused(['backtest', data, '--group=task'], '--group: needs --over', capsys)
    refused(['backtest', data, '--over=D', '--law=tied'], '--law: with --over, one of', capsys)


def test_unique_tokens_and_all_parameters_reach_the_law(tmp_path, capsys):
    rows = synthetic.rows(synthetic.grid(5, 5))
    rows = [row | {'unique_tokens': row['tokens'], 'params_total': row['params']} for row in rows]
    extra = dict(rows[3], tokens=64 * rows[3]['tokens'], unique_tokens=rows[3]['tokens'])
    data = synthetic.write_csv(tmp_path / 'runs.csv', [*rows, extra])
    targets = synthetic.write_csv(
        tmp_path / 'targets.csv',
        [
            {'params': 2e10, 'tokens': 2e12, 'unique_tokens': unique, 'name': name}
            for name, unique in (('new', 2e12), ('repeated', 2e10))
        ],
    )
    path = tmp_path / 'out.json'
    cli.main(['forecast', data, f'--targets={targets}', f'--json={path}'])
    capsys.readouterr()
    new, repeated = json.loads(path.read_text())
    assert repeated['unique_tokens'] == 2e10
    assert repeated['loss'] > 1.005 * new['loss']
    assert repeated['high'] - repeated['low'] > new['high'] - new['low']


def test_fit_and_forecast_by_a_broken_law(tmp_path, capsys):
    n = np.geomspace(1e6, 1e9, 14)
    rows = [
        {'params': size, 'tokens': 1e10, 'loss': 1 + 2 * (1 + (size / 3e7) ** 2) ** -0.15}
        for size in n
    ]
    data = synthetic.write_csv(tmp_path / 'runs.csv', rows)
    cli.main(['fit', data, '--law=broken'])
    out = capsys.readouterr().out
    assert 'without the largest' in out
    assert out.rstrip().endswith('+0.00%') or out.rstrip().endswith('-0.00%')
    refused(['fit', data, '--law=broken', '--plots=x'], '--plots: not with --law=broken', capsys)
    refused(
        ['fit', data, '--law=farseer', '--at_flops=1e20'], 'only auto, chinchilla, tied', capsys
    )


@pytest.mark.parametrize(
    'command',
    [
        'fit DATA --draws=0 --starts=4',
        'forecast DATA --law=chinchilla --params=1e11 --tokens=1e12 --draws=10 --ledger=LEDGER',
        'backtest DATA --law=tied',
        'compare DATA DATA --draws=10',
        'plan --flops=1e22 --runs=DATA --draws=20',
        'verify LEDGER --runs=DATA',
    ],
)
def test_notes_on_the_table_are_printed(command, tmp_path, capsys):
    rows = synthetic.rows(synthetic.isoflop(budgets=3, sizes=4))
    for row in rows:
        row['loss'] *= 1.4427
    names = {
        'DATA': synthetic.write_csv(tmp_path / 'runs.csv', rows),
        'LEDGER': str(tmp_path / 'ledger.jsonl'),
    }
    (tmp_path / 'ledger.jsonl').touch()
    for name, path in names.items():
        command = command.replace(name, path)
    cli.main([*command.split(), '--loss-unit=bits'])
    out = capsys.readouterr().out
    note = "  note: loss: column 'loss' is bits per token, converted to nats per token"
    assert out.count(note) == (2 if command.startswith('compare') else 1)


@pytest.mark.parametrize('law', ['tied', 'kaplan', 'power'])
def test_the_other_laws_print(law, data, capsys):
    cli.main(
        ['fit', data, f'--law={law}', '--draws=10', *(['--starts=12'] if law != 'power' else [])]
    )
    assert 'objective' in capsys.readouterr().out


def test_a_plan_of_sweeps_prints_writes_and_names_its_source(tmp_path, capsys):
    path, trials = sweep_records.write(
        tmp_path, {1e14: (64, 96, 128, 192), 2e14: (64, 96, 128, 192)}
    )
    config, numbers = tmp_path / 'sweep.py', tmp_path / 'sweep.json'
    cli.main(
        [
            'plan',
            '--isoflop=8e14,1e14,2e14',
            f'--runs={path}',
            f'--config={config}',
            f'--json={numbers}',
            '--base=cpu',
        ]
    )
    out = capsys.readouterr().out
    for word in (
        'approach 2, the line through 2 minima',
        'its own minimum',
        'done, loss',
        'new: 5 trials',
        'hours on',
    ):
        assert word in out, word
    assert 'import cpu as base' in config.read_text()
    assert all(repr(one['name']) in config.read_text() for one in trials)
    result = json.loads(numbers.read_text())
    assert [one['flops'] for one in result['budgets']] == [1e14, 2e14, 8e14]
    assert result['frame'] == {
        'counted': 'without_positions',
        'context': 512,
        'vocab': 1000,
        'head_dim': 32,
        'layers': 2,
    }
    cli.main(
        [
            'plan',
            '--cooldowns=1e9,4e9',
            '--params=1e8',
            f'--config={config}',
            f'--json={numbers}',
            '--price=2',
        ]
    )
    out = capsys.readouterr().out
    for word in (
        'branches at',
        'own tokens',
        'trunk and branches:',
        'separate runs:',
        'at that price',
        'saved: ',
    ):
        assert word in out, word
    assert 'design.make_cooldowns(' in config.read_text()
    assert 0.5 < json.loads(numbers.read_text())['share'] < 1


BAD = [
    (['fit', 'none.csv'], 'none.csv: No such file'),
    (['plan', '--flops=1e20', '--device=abacus'], '--device=abacus: must be one of'),
    (['plan', '--isoflop=1e18,1e19', '--flops=1e20'], 'not allowed with argument'),
    (['plan', '--isoflop=1e18'], '--isoflop: one budget gives one minimum and no line'),
    (['fit', 'x.csv', '--law=power', '--holdout=flops>=1'], '--holdout: not with --law=power'),
    (['fit', 'x.csv', '--law=power', '--approach=3'], '--approach: not with --law=power'),
    (['fit', 'x.csv', '--law=power', '--at-flops=1e20'], '--at_flops: not with --law=power'),
    (['fit', 'x.csv', '--law=power', '--starts=8'], '--starts: not with --law=power'),
    (['fit', 'x.csv', '--base=E=1,A=1,B=1,alpha=1,beta=1'], '--base: not with --law=auto'),
    (['fit', 'x.csv', '--over=N'], '--over: not with --law=auto'),
    (['report', 'x.csv', '--no-irreducible'], '--no_irreducible: not with --law=auto'),
    (
        ['fit', 'x.csv', '--law=kaplan', '--approach=1'],
        '--approach: not with --law=kaplan; that law is for',
    ),
    (
        ['fit', 'x.csv', '--law=kaplan', '--at-flops=1e20'],
        '--at_flops: not with --law=kaplan; that law is for',
    ),
    (['plan', '--flops=1e20', '--columns=a=params'], '--columns: requires --runs'),
    (['plan', '--flops=1e40'], 'the largest shape with a vocabulary'),
    (
        ['forecast', 'x.csv', '--config=configs/cpu.py', '--params=1e6'],
        '--config: not with --params or --tokens',
    ),
    (['forecast', 'x.csv', '--params=1e6'], 'the run is missing: give --config=PATH'),
    (['forecast', 'x.csv', '--params=1e6', '--targets=x'], '--targets: not with --config, --pa'),
    (['forecast', 'x.csv', '--targets=x', '--law=power'], '--targets: not with --law=power'),
    (['forecast', 'x.csv', '--params=1', '--tokens=1', '--json=x'], '--json: needs --targets'),
    (['forecast', 'x.csv', '--config=configs/ladder_cpu.py'], 'is a sweep; add --trial='),
    (
        ['forecast', 'x.csv', '--config=configs/gpt3.py:350x'],
        'configs/gpt3.py:350x: must be one of 125m, 350m,',
    ),
    (['forecast', 'x.csv', '--config=configs/cpu.py:x'], 'has no variants'),
    (['forecast', 'x.csv', '--config=README.md'], "a config file's name must end in .py"),
    (
        ['forecast', 'x.csv', '--law=chincilla', '--params=1', '--tokens=1'],
        "the nearest is 'chinchilla'",
    ),
    (['fit', 'experiments/isoflop/records.jsonl', '--law=json:dumps'], 'must be a LawForm'),
    (['fit', 'x.csv', '--law=repeated', '--base=x.json'], 'must be E=...,A=...,B=...'),
    (['fit', 'x.csv', '--draws=1'], 'must be at least 10, or 0 for no interval'),
    (['compare', 'x.csv', 'x.csv', '--draws=1'], 'must be at least 10, got 1'),
    (['forecast', 'x.csv', '--draws=0'], 'must be at least 10, got 0'),
    (['launch'], 'use python run.py --config=FILE --launch=LAUNCHER'),
    (['forecast', 'x.csv', '--params=1e6', '--tokens=1e8', '--trial=a'], '--trial: needs --config'),
    (['plan', '--isoflop=,'], 'must be numbers separated by commas'),
    (['plan', '--isoflop=1e18,many'], "must be a number, got 'many'"),
    (['plan', '--flops=1e18', '--sizes=5'], '--sizes: requires --isoflop'),
    (['plan', '--isoflop=1e18,1e19', '--width=64'], '--width: requires --cooldowns'),
    (['plan', '--isoflop=1e18,1e19', '--base=a-b'], '--base: must name a module of configs/'),
    (['plan', '--cooldowns=1e9,2e9'], '--cooldowns: needs a model'),
    (['plan', '--cooldowns=1e9,1e6', '--params=1e8'], 'longer horizons'),
    (['verify', 'none.jsonl', '--runs=x.csv'], 'none.jsonl: no such ledger'),
    (['fit', 'x.csv', '--seed=-1'], "must be an integer of 0 or more, got '-1'"),
    (['compare', 'x.csv', 'x.csv', '--seed=-1'], "must be an integer of 0 or more, got '-1'"),
    (['forecast', 'x.csv', '--seed=-1'], "must be an integer of 0 or more, got '-1'"),
    (['fit', 'x.csv', '--drop-highest=-60'], "must be an integer of 0 or more, got '-60'"),
    (['fit', 'x.csv', '--draws=²'], "must be an integer of 0 or more, got '²'"),
]


@pytest.mark.parametrize(('arguments', 'message'), BAD)
def test_bad_input_is_one_line_and_code_2(arguments, message, capsys):
    refused(arguments, message, capsys)


def refused(arguments, message, capsys):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert len(err.strip().splitlines()) == 1
    assert message in err


def test_a_condition_that_is_none(data, capsys):
    with pytest.raises(SystemExit):
        cli.main(['fit', data, '--holdout=flops~3', '--starts=4', '--draws=0'])
    assert "such as 'flops>=1e21'" in capsys.readouterr().err


def test_two_files_are_compared_that_name_their_columns_otherwise(data, tmp_path, capsys):
    rows = [{'N': n, 'D': d, 'L': loss} for n, d, loss in zip(*synthetic_columns(), strict=True)]
    theirs = synthetic.write_csv(tmp_path / 'theirs.csv', rows)
    cli.main(['compare', data, theirs, '--draws=10', '--columns=N=params,D=tokens,L=loss'])
    assert 'times (from' in capsys.readouterr().out
    refused(
        ['compare', data, theirs, '--columns=N=params,D=tokens,X=loss'], "no column 'X'", capsys
    )


def test_several_recipes_are_ranked_at_a_loss_and_a_budget(data, tmp_path, capsys):
    better = [
        {'N': n, 'D': d, 'L': 0.99 * loss} for n, d, loss in zip(*synthetic_columns(), strict=True)
    ]
    theirs = synthetic.write_csv(tmp_path / 'theirs.csv', better)
    command = ['compare', data, theirs, data, '--draws=20', '--columns=N=params,D=tokens,L=loss']
    written = ['--at-loss=3,2.9', '--at-flops=1e21', f'--json={tmp_path / "numbers.json"}']
    cli.main([*command, *written, f'--plots={tmp_path}'])
    out = capsys.readouterr().out
    assert 'conventions: loss in nats/token, C is FLOPs by 6ND' in out
    assert out.count('best with probability') == 9
    table = out[out.index('ranking, the best first:') :].splitlines()
    assert table[3].split()[0] == 'B'
    made = json.loads((tmp_path / 'numbers.json').read_text())
    assert made['ranking'][0] == 'B'
    assert made['at_cost'][0]['recipes'][1]['p_best'] == 1
    assert (tmp_path / 'compare.svg').exists()
    refused([*command, '--at-seconds=9'], '--at_seconds: requires --by=seconds', capsys)
    refused([*command, '--by=seconds'], 'column seconds is missing in 54 of 54 runs', capsys)


def synthetic_columns():
    given = synthetic.isoflop()
    return given.params, given.tokens, given.loss


@pytest.mark.parametrize(
    ('output', 'code', 'message'),
    [('a closed pipe', 141, ''), ('/dev/full', 5, 'output: no space left')],
)
def test_closed_or_full_output(output, code, message):
    if output == '/dev/full':
        out = os.open(output, os.O_WRONLY)
    else:
        inward, out = os.pipe()
        os.close(inward)
    command = [sys.executable, '-m', 'gpt_jax', 'plan', '--cooldowns=1e9,2e9', '--params=1e8']
    result = subprocess.run(
        command, cwd=program.ROOT, stdout=out, stderr=subprocess.PIPE, text=True
    )
    os.close(out)
    assert result.returncode == code
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == (1 if message else 0)


def test_help_needs_neither_jax_nor_scipy():
    code = (
        'import sys; from gpt_jax.cli import main as cli\n'
        'try: cli.main(["--help"])\n'
        'except SystemExit: pass\n'
        'print([name for name in ("jax", "scipy", "matplotlib", "numpy") if name in sys.modules])'
    )
    result = subprocess.run(
        [sys.executable, '-c', code], cwd=program.ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == '[]'
    assert 'compare' in result.stdout


def test_plan_takes_speed_from_a_benchmark(tmp_path, capsys):
    path = tmp_path / 'benchmark.json'
    path.write_text(json.dumps({'peak_flops': 4e12, 'devices': 2, 'model_flops_utilization': 0.5}))
    cli.main(
        [
            'plan',
            '--hours=1',
            f'--measured={path}',
            '--vocab=256',
            '--context=128',
            f'--json={tmp_path}/plan.json',
        ]
    )
    made = json.loads((tmp_path / 'plan.json').read_text())
    assert made['hours'] == pytest.approx(1, rel=0.02)
    assert made['shape_flops']['with_attention'] == pytest.approx(3600 * 2e12 * 0.5, rel=0.02)
    assert '50% of its peak' in capsys.readouterr().out
    for text, said in (
        ('{}', 'must be a file that --benchmark_output writes'),
        ('{"devices": 0, "peak_flops": 1}', 'must be a file that --benchmark_output writes'),
        ('[' * 100_000, 'not JSON'),
    ):
        path.write_text(text)
        refused(['plan', '--hours=1', f'--measured={path}'], said, capsys)


def test_plan_spends_the_hours_that_it_is_given(tmp_path):
    cli.main(['plan', '--hours=24', '--device=h100', '--devices=8', f'--json={tmp_path}/plan.json'])
    assert json.loads((tmp_path / 'plan.json').read_text())['hours'] == pytest.approx(24, rel=0.02)
