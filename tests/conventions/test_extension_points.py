"""The examples of docs/howto/extend.md run as they are written."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import in_process, program

PAGE = Path(__file__).parents[2] / 'docs' / 'howto' / 'extend.md'


@pytest.fixture(scope='module')
def my_lab(tmp_path_factory):
    """A folder with the package my_lab of the page."""
    folder = tmp_path_factory.mktemp('lab')
    for block in re.findall(r'```python\n(.*?)```', PAGE.read_text(), re.DOTALL):
        name = re.match(r'# (my_lab/\w+\.py)\n', block)[1]
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(block)
    (folder / 'my_lab' / '__init__.py').touch()
    return folder


@pytest.fixture
def environment(my_lab, monkeypatch):
    path = os.pathsep.join([str(my_lab), os.environ.get('PYTHONPATH', '')])
    monkeypatch.setenv('PYTHONPATH', path)
    monkeypatch.syspath_prepend(str(my_lab))


@pytest.mark.usefixtures('environment')
def test_norm_optimizer_source_and_tracker_train(tmp_path):
    fields = {
        'config.model.layers': 1,
        'config.model.norm': 'my_lab.norms:power_norm',
        'config.optimizer.name': 'my_lab.optimizers:make_lion',
        'config.optimizer.learning_rate': 1e-3,
        'config.data.source': 'my_lab.sources:read_poems',
        'config.data.cache': tmp_path / 'cache',
        'config.train.steps': 20,
        'config.train.trackers': 'my_lab.trackers:CsvTracker',
    }
    in_process.run(in_process.command(tmp_path / 'run', **fields))
    loss = program.summary(tmp_path / 'run')['validation_loss']
    assert loss < 5.3  # log 257 is 5.55
    with open(tmp_path / 'run' / 'losses.csv', newline='') as file:
        *rows, last = csv.reader(file)
    assert [int(step) for step, _ in rows] == [5, 10, 15, 20]
    assert last == ['validation', str(loss)]


@pytest.mark.usefixtures('environment')
def test_law_is_fitted(tmp_path, capsys):
    from gpt_jax.cli import main

    with open(tmp_path / 'runs.csv', 'w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['params', 'tokens', 'loss'])
        for n in (1e7, 3e7, 1e8, 3e8, 1e9):
            for d in (1e9, 3e9, 1e10, 3e10):
                writer.writerow([n, d, 60 * n**-0.08 * d**-0.06])
    main.main(['fit', str(tmp_path / 'runs.csv'), '--law=my_lab.laws:POWER_PRODUCT', '--draws=10'])
    out = capsys.readouterr().out
    assert re.search(r'\ba\D+0\.08', out)
    assert re.search(r'\bb\D+0\.06', out)


@pytest.mark.usefixtures('environment')
def test_launcher_is_rendered(tmp_path):
    command = [*program.command(tmp_path / 'run'), '--launch=my_lab.launchers:FARM', '--dry_run']
    out, _ = in_process.run([*command, '--launch_option=queue=night'])
    assert 'farm-submit --queue night' in out
    assert 'run.py' in out


def test_task_is_parsed(my_lab):
    code = (
        'from gpt_jax.core import config, config_cli; '
        f'raw = config_cli.read_config_file({str(my_lab / "my_lab" / "reviews.py")!r}); '
        'print(config.parse_config(raw, 256).task.labels)'
    )
    result = subprocess.run(
        [sys.executable, '-c', code], cwd=program.ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "('bad', 'good')"


def test_a_path_that_cannot_be_imported_is_one_line(tmp_path):
    fields = {'config.model.norm': 'my_lab.nowhere:norm'}
    _, err = in_process.run(in_process.command(tmp_path / 'run', **fields), code=2)
    assert "config.model.norm: cannot import 'my_lab.nowhere:norm'" in err
    assert err.splitlines()[-1].startswith('run.py: config.model.norm')
