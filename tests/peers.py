"""Optional libraries that tests compare with, each imported when a test first uses it.

All workers collect all tests, but each runs only some of them.
"""

import importlib
import importlib.util
from types import ModuleType
from typing import Any

import pytest


class LazyModule:
    """A module that is imported when a public attribute is first read."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith('_'):  # pytest looks for such attributes in all objects
            raise AttributeError(attribute)
        return getattr(_import_quietly(self._name), attribute)


def find_or_skip(name: str, reason: str) -> LazyModule:
    """Return the library; where it is not installed, skip the tests of the calling module."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f'{name} is not installed: {reason}', allow_module_level=True)
    return LazyModule(name)


def _import_quietly(name: str) -> ModuleType:
    module = importlib.import_module(name)
    if name == 'transformers':
        module.logging.set_verbosity_error()
        module.logging.disable_progress_bar()
    return module
