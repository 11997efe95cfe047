"""gpt_jax: scaling experiments for GPTs in JAX/Flax (plan -> sweep -> fit -> forecast -> verify).

`gpt_jax.load` reads a trained model (gpt_jax/language_model.py); importing gpt_jax alone loads nothing else.
"""

import importlib
from typing import Any

__version__ = '0.1.0'


def __getattr__(name: str) -> Any:
    if name in ('load', 'LanguageModel'):
        # By name, since the floors below import this package for its version.
        return getattr(importlib.import_module('gpt_jax.language_model'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
