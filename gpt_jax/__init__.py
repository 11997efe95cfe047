"""Scaling experiments for GPTs in JAX/Flax: plan, sweep, fit, forecast, verify.

`gpt_jax.load` loads a trained model; `gpt_jax.base_config` is the start of a config file.
"""

import importlib
from typing import Any

__version__ = '0.1.0'


_LAZY = {
    'load': 'gpt_jax.inference.language_model',
    'LanguageModel': 'gpt_jax.inference.language_model',
    'base_config': 'gpt_jax.core.config',
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:  # imported at first use, so that `import gpt_jax` stays fast
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
