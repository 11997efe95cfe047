"""Copies of Python's standard library shared by the tests of gpt_jax/tasks."""

import shutil
import sysconfig
from pathlib import Path

import pytest

from tests.data.conftest import stdlib_root  # noqa: F401  a fixture

# Modules of Python's library, in every split, that have the content the synthetic datasets need.
MODULES = (
    'textwrap.py',
    'statistics.py',
    'heapq.py',
    'string.py',
    'difflib.py',
    'shutil.py',
    'argparse.py',
    'html/parser.py',
    'posixpath.py',
    'ntpath.py',
    'urllib/parse.py',
    'ipaddress.py',
    'random.py',
    'json/decoder.py',
    'logging/__init__.py',
    'json/encoder.py',
    'wave.py',
    'collections/__init__.py',
    'inspect.py',
    'functools.py',
    'mailbox.py',
    'tarfile.py',
    'configparser.py',
    'unittest/mock.py',
    'email/message.py',
    'email/utils.py',
    'pydoc_data/topics.py',
    'calendar.py',
    'pathlib.py',
    'unittest/case.py',
    'subprocess.py',
    'typing.py',
    'asyncio/locks.py',
    'email/_policybase.py',
    'multiprocessing/util.py',
    'modulefinder.py',
    'runpy.py',
    'datetime.py',
    'ctypes/__init__.py',
)


@pytest.fixture(scope='session')
def small_stdlib(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of MODULES."""
    stdlib, root = Path(sysconfig.get_path('stdlib')), tmp_path_factory.mktemp('library')
    for name in MODULES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if (stdlib / name).exists():
            shutil.copy(stdlib / name, root / name)
        else:  # a package in this version of Python: pathlib since 3.13, string since 3.14
            package = name.removesuffix('.py')
            shutil.copytree(stdlib / package, root / package)
    return root
