"""Does every room import only from the floors below it?"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_floors_hold():
    lint = Path(sys.executable).with_name('lint-imports')
    result = subprocess.run([lint, '--config', 'setup.cfg'], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_no_room_for_odds_and_ends():
    forbidden = {'utils.py', 'util.py', 'common.py', 'helpers.py', 'misc.py'}
    assert not [path for path in ROOT.glob('**/*.py') if path.name in forbidden and '.venv' not in path.parts]


def test_starting_the_program_and_the_plain_rooms_take_no_jax():
    code = (
        'import sys, gpt_jax.overrides, gpt_jax.launch.sweep, gpt_jax.scaling.forecast, gpt_jax.data.prepare, '
        'gpt_jax.observe.writers; print([m for m in ("jax", "grain", "tensorflow_datasets", "matplotlib") '
        'if m in sys.modules])'
    )
    result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == '[]'
