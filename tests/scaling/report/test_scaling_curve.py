"""The figure of a law over one variable: its files, its labels, no global matplotlib state."""

import subprocess
import sys

import matplotlib
import numpy as np
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import ladder_forecast
from gpt_jax.scaling.report import scaling_curve
from gpt_jax.scaling.report.figure_style import format_tick

SIZES = np.geomspace(6e3, 1e6, 6)


def make_ladder(count):
    """Returns a fit and its records."""
    x = SIZES[:count]
    loss = 1.1 + 25 * x**-0.4
    fit = ladder_forecast.leave_largest_out(x, loss)
    fit |= {'x_column': 'params_non_embedding', 'loss_column': 'validation_loss'}
    rows = [
        {
            'name': f'size{k}',
            'status': 'done',
            'params_non_embedding': float(a),
            'validation_loss': float(b),
        }
        for k, (a, b) in enumerate(zip(x, loss, strict=True))
    ]
    return fit, rows


def test_the_figure_is_written_and_labelled(tmp_path):
    before = matplotlib.rcParams.copy()
    fit, rows = make_ladder(6)
    rows.append({'name': 'dead', 'status': 'failed: exit code 1'})
    png, svg = scaling_curve.draw_scaling_curve(fit, rows, tmp_path / 'curve.png')
    assert png.read_bytes().startswith(b'\x89PNG')
    assert png.stat().st_size > 10_000
    text = svg.read_text()
    words = (
        'non-embedding parameters',
        'validation loss (nats/token)',
        '10k',
        '100k',
        '1M',
        'size0',
        'size5',
        '95% interval of a run',
        'floor at these tokens: 1.100',
        'measured, left out',
        'within the 2% tolerance',
    )
    for word in words:
        assert word in text, word
    assert 'dead' not in text
    assert 'matplotlib.pyplot' not in sys.modules
    assert matplotlib.rcParams.copy() == before


def test_equal_results_give_equal_files(tmp_path):
    fit, rows = make_ladder(5)
    first, again = (
        scaling_curve.draw_scaling_curve(fit, rows, tmp_path / name)[1].read_bytes()
        for name in ('a.png', 'b.png')
    )
    assert first == again


def test_too_few_runs_get_no_band(tmp_path):
    fit, rows = make_ladder(4)
    text = scaling_curve.draw_scaling_curve(fit, rows, tmp_path / 'curve')[1].read_text()
    assert 'no band: too few sizes' in text
    assert 'bootstrap' not in text


def test_missing_column_is_named(tmp_path):
    fit, rows = make_ladder(5)
    del rows[2]['params_non_embedding']
    with pytest.raises(UserError, match="record size2: no column 'params_non_embedding'"):
        scaling_curve.draw_scaling_curve(fit, rows, tmp_path / 'curve.png')


@pytest.mark.parametrize(
    ('value', 'words'),
    [(500, '500'), (1e3, '1k'), (2500, '2.5k'), (1e6, '1M'), (1.5e9, '1.5B'), (1e15, '1e15')],
)
def test_format_tick(value, words):
    assert format_tick(value) == words


def test_figures_need_no_jax_and_the_terminal_no_matplotlib():
    code = (
        'import sys, gpt_jax.scaling.ladder_forecast, gpt_jax.scaling.report.terminal; '
        'early = "matplotlib" in sys.modules or "jinja2" in sys.modules; '
        'import gpt_jax.scaling.report.scaling_curve; '
        'print(early, "matplotlib" in sys.modules, "jax" in sys.modules)'
    )
    result = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ['False', 'True', 'False']
