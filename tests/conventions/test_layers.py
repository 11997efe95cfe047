"""The layers of the packages, and what start-up may import."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_packages_import_only_from_below():
    lint = Path(sys.executable).with_name('lint-imports')
    result = subprocess.run(
        [lint, '--config', 'setup.cfg'], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout


def test_no_module_without_a_topic():
    forbidden = {'utils.py', 'util.py', 'common.py', 'helpers.py', 'misc.py'}
    files = (path for path in ROOT.glob('**/*.py') if '.venv' not in path.parts)
    assert not [path for path in files if path.name in forbidden]


@pytest.mark.parametrize(
    'modules',
    [
        'gpt_jax.core.config_cli, gpt_jax.sweep.worker, gpt_jax.scaling.ladder_forecast, '
        'gpt_jax.data.tokenized_dataset, gpt_jax.train.metrics',
        'gpt_jax.cli.main, gpt_jax.cli.fit, gpt_jax.cli.plan, gpt_jax.cli.generate',
    ],
)
def test_start_up_takes_no_jax(modules):
    slow = ('jax', 'grain', 'tensorflow_datasets', 'matplotlib')
    code = f'import sys, {modules}; print([name for name in {slow} if name in sys.modules])'
    result = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == '[]'
