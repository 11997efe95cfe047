"""Small sources and data configs shared by the tests of gpt_jax/data."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gpt_jax.core.config import DataConfig
from gpt_jax.data import sources

MakeConfig = Callable[..., DataConfig]


@pytest.fixture
def config(tmp_path: Path) -> MakeConfig:
    """Makes a data config: bytes of *.txt in tmp_path, the last tenth held out."""

    def make(**changes: str | float) -> DataConfig:
        values = {
            'source': f'files:{tmp_path}/*.txt',
            'validation_source': '',
            'validation_fraction': 0.1,
            'holdout': 'tail',
            'text_field': 'text',
            'separator': '',
            'tokenizer': 'bytes',
            'packing': 'concatenate',
            'cache': str(tmp_path / 'cache'),
        }
        return DataConfig(**(values | changes))  # type: ignore[arg-type]

    return make


@pytest.fixture(scope='session')
def stdlib_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of 60 modules, some duplicated, and every kind of file that must be excluded."""
    root = tmp_path_factory.mktemp('stdlib')
    for i in range(60):
        path = root / f'package{i % 4}' / f'module{i}.py'
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'"""Module {i}: é."""\n\nVALUE = {i}\n')
    for name in ('copy.py', 'package1/copy.py'):
        (root / name).write_text('"""Module 7: é."""\n\nVALUE = 7\n')
    (root / 'empty.py').write_text('')
    (root / 'latin.py').write_bytes(b'# caf\xe9\n')
    for name in (
        'test/test_a.py',
        'site-packages/b.py',
        'package0/tests/c.py',
        'idlelib/idle_test/d.py',
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f'LEFT_OUT = {name!r}\n')
    (root / '_sysconfigdata_x.py').write_text('LEFT_OUT = 1\n')
    return root


@pytest.fixture
def stdlib(stdlib_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replaces the library of the running Python by `stdlib_root`."""
    monkeypatch.setattr(sources, 'stdlib_folder', lambda: stdlib_root)
    return stdlib_root
