"""Files of two recipes are read with the same conventions, or refused in one line."""

from pathlib import Path

import numpy as np
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import comparison, recipe_files
from tests.scaling import synthetic
from tests.scaling.simulated_recipes import MULTIPLIER, chinchilla, ladder

CASES = Path(__file__).resolve().parents[3] / 'shared' / 'cases' / 'reports'


def write(path, *, saves=1.0, loss=1.0, drop=(), **factors):
    """Write a ladder without noise, with a column `name` of factor x 6ND for each of `factors`."""
    rows = []
    for n, d in zip(*ladder(5), strict=True):
        scale = np.sqrt(saves)
        row = {'params': n, 'tokens': d, 'loss': loss * chinchilla(n * scale, d * scale)}
        row |= {name: factor * 6 * n * d for name, factor in factors.items()}
        rows.append({name: value for name, value in row.items() if name not in drop})
    return synthetic.write_csv(path, rows)


def read(*paths, columns=None, **options):
    return recipe_files.read_recipes(list(paths), columns=columns or {}, **options)


def measure(recipes, **options):
    return comparison.compare_recipes(recipes, draws=0, **options)['multiplier']


@pytest.fixture
def paths(tmp_path):
    return tmp_path / 'a.csv', tmp_path / 'b.csv'


def test_a_constant_factor_is_counted_alike(paths):
    a, b = write(paths[0], flops=8 / 6), write(paths[1], saves=MULTIPLIER)
    recipes, notes = read(a, b)
    assert len(notes) == 1
    assert 'a.csv counts 8 FLOPs per parameter and token' in notes[0]
    assert measure(recipes) == pytest.approx([MULTIPLIER] * 25, rel=2e-3)
    assert recipe_files.describe_conventions(recipes, 'flops')['cost'] == 'FLOPs by 6ND'
    assert read(write(paths[0], flops=1.0), b)[1] == []


def test_records_count_by_the_most_complete_column_that_all_have(paths):
    """The parameters of a mixture of experts are not those that a token uses."""
    a = write(paths[0], flops_6N=1.0, flops_with_attention=1.3)
    b = write(paths[1], saves=MULTIPLIER, flops_6N=0.25)
    recipes, notes = read(a, b)
    assert notes == []
    assert [one.provenance['flops'] for one in recipes] == ['flops_6N', 'flops_6N']
    assert measure(recipes) == pytest.approx([4 * MULTIPLIER] * 25, rel=2e-3)


@pytest.mark.parametrize(
    ('a', 'b', 'options', 'said'),
    [
        ({'flops': 0.25}, {}, {}, 'a.csv records FLOPs (0.25 times 6 x params x tokens'),
        ({'flops': 8 / 6}, {'flops': 1.0}, {}, 'counts 8 FLOPs per parameter and token and'),
        ({'flops': 1e-9}, {'flops': 1.0}, {}, 'counts 6e-09 FLOPs per parameter'),
        ({'flops': 1.0}, {'flops_6N': 1.0}, {}, '--columns=flops_6N=flops, or use --flops=6ND'),
        ({'flops_causal': 1.0}, {'flops_6N': 1.0}, {}, 'by different conventions'),
        ({}, {}, {'by': 'seconds'}, 'column seconds is missing in 5 of 5 runs'),
    ],
)
def test_what_differs_is_refused(a, b, options, said, paths):
    files = [write(path, **columns) for path, columns in zip(paths, (a, b), strict=True)]
    with pytest.raises(UserError) as error:
        read(*files, **options)
    assert said in str(error.value)
    assert '\n' not in str(error.value)
    if not options:
        read(*files, flops='6ND')


def test_a_stated_column_is_taken_as_it_is(paths):
    a, b = write(paths[0], flops=8 / 6), write(paths[1], flops=1.0)
    recipes, _ = read(a, b, flops='column')
    assert measure(recipes) == pytest.approx([8 / 6] * 25, rel=2e-3)


def test_units_of_the_loss_must_agree(paths):
    a, b = write(paths[0]), write(paths[1], loss=0.3, drop=())
    text = Path(b).read_text().replace('loss', 'bits_per_byte', 1)
    Path(b).write_text(text)
    with pytest.raises(UserError, match=r'losses in nats/token and .*b\.csv in bits/byte'):
        read(a, b, columns={'bits_per_byte': 'loss'})


def test_parameters_must_be_counted_alike_where_flops_come_from_them(paths):
    a = write(paths[0])
    b = write(paths[1], params_total=1e-12, drop=('params',))
    with pytest.raises(UserError, match=r'counts parameters as given and .* total'):
        read(a, b)


def test_seconds_of_most_runs_are_enough(paths):
    a, b = write(paths[0], seconds=1e-14), write(paths[1], seconds=1e-14, saves=MULTIPLIER)
    text = Path(a).read_text().splitlines()
    text[3] = ','.join([*text[3].split(',')[:3], ''])
    Path(a).write_text('\n'.join(text))
    recipes, _ = read(a, b, by='seconds')
    assert recipes[0].left_out[-1]['reason'] == 'seconds is missing'
    assert measure(recipes, by='seconds') == pytest.approx([MULTIPLIER] * 25, rel=2e-3)


@pytest.mark.parametrize('options', [{}, {'count': 'active'}])
def test_reported_experts_save_what_is_true(options):
    """Fault reports: 0.375 times instead of 1.5, and an interval of 0.675 to 2.73."""
    recipes, _ = read(get_case('dense.jsonl'), get_case('moe.jsonl'), **options)
    result = comparison.compare_recipes(recipes, draws=200)
    assert all(
        1.498 < low < high < 1.502 for low, high in zip(result['low'], result['high'], strict=True)
    )
    assert result['recipes'][1]['overall']['multiplier'] == pytest.approx(1.5, abs=0.001)


def test_reported_8nd_is_not_a_saving():
    recipes, _ = read(get_case('compare_a_8nd.csv'), get_case('compare_b.csv'))
    overall = comparison.compare_recipes(recipes, draws=200)['recipes'][1]['overall']
    assert 1.45 < overall['low'] < 1.5 < overall['high'] < 1.6


def get_case(name):
    if not (CASES / name).exists():
        pytest.skip(f'{name} is not available')
    return str(CASES / name)
