"""Small sources and configurations that the tests of this room share."""

import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt_jax.data import sources
from gpt_jax.data.config import DataConfig

Make = Callable[..., DataConfig]


@pytest.fixture
def config(tmp_path: Path) -> Make:
    """A function that makes a configuration: bytes of tmp_path's *.txt, the last tenth held out, but for `changes`."""

    def make(**changes: str | float) -> DataConfig:
        values = {
            'source': f'files:{tmp_path}/*.txt',
            'validation_source': '',
            'validation_fraction': 0.1,
            'holdout': 'tail',
            'text_field': 'text',
            'tokenizer': 'bytes',
            'packing': 'concatenate',
            'cache': str(tmp_path / 'cache'),
        }
        return DataConfig(**(values | changes))  # type: ignore[arg-type]

    return make


@pytest.fixture(scope='session')
def stdlib_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of 60 modules, some twice, with all that must be left out."""
    root = tmp_path_factory.mktemp('stdlib')
    for i in range(60):
        path = root / f'package{i % 4}' / f'module{i}.py'
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'"""Module {i}: é."""\n\nVALUE = {i}\n')
    for name in ('copy.py', 'package1/copy.py'):
        (root / name).write_text('"""Module 7: é."""\n\nVALUE = 7\n')
    (root / 'empty.py').write_text('')
    (root / 'latin.py').write_bytes(b'# caf\xe9\n')
    for name in ('test/test_a.py', 'site-packages/b.py', 'package0/tests/c.py', 'idlelib/idle_test/d.py'):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f'LEFT_OUT = {name!r}\n')
    (root / '_sysconfigdata_x.py').write_text('LEFT_OUT = 1\n')
    return root


# Some modules of the running Python's library, of every split, that have what the made sets look for.
MODULES = (
    'textwrap.py', 'statistics.py', 'heapq.py', 'string.py', 'difflib.py', 'shutil.py', 'argparse.py', 'html/parser.py',
    'posixpath.py', 'ntpath.py', 'urllib/parse.py', 'ipaddress.py', 'random.py', 'json/decoder.py',
    'logging/__init__.py', 'json/encoder.py', 'wave.py',
    'collections/__init__.py', 'inspect.py', 'functools.py', 'mailbox.py', 'tarfile.py', 'configparser.py',
    'unittest/mock.py', 'email/message.py', 'email/utils.py', 'pydoc_data/topics.py', 'calendar.py', 'pathlib.py',
    'unittest/case.py', 'subprocess.py', 'typing.py', 'asyncio/locks.py', 'email/_policybase.py',
    'multiprocessing/util.py',    'modulefinder.py', 'runpy.py', 'datetime.py', 'ctypes/__init__.py',
)  # fmt: skip


@pytest.fixture(scope='session')
def small_stdlib(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of MODULES."""
    root = tmp_path_factory.mktemp('library')
    for name in MODULES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(sysconfig.get_path('stdlib')) / name, root / name)
    return root


@pytest.fixture
def stdlib(stdlib_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That library in the place of the running Python's."""
    monkeypatch.setattr(sources, 'stdlib_folder', lambda: stdlib_root)
    return stdlib_root
