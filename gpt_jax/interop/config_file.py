"""How does an imported model read as a config file, from which training goes on? Values, in the style of configs/."""

from pathlib import Path
from typing import Any

AFFORDABLE = 1024  # tokens of one sequence, where the model leaves the choice


def text(name: str, model: dict[str, Any], base: dict[str, Any], source: str, workdir: Path, tokenizer: Path) -> str:
    """The file's text.

    Args:
      name: of the run that it describes.
      model: the model section that the import made.
      base: the model section of configs/base.py; what is equal there is left out.
      source: what was imported, as it was named.
      workdir: the folder of the imported run.
      tokenizer: the folder of its tokenizer.
    """
    changed = {field: value for field, value in model.items() if value != base[field]}
    note = ''
    if model['position'] != 'learned' and model['context'] > AFFORDABLE:
        changed['context'], note = AFFORDABLE, f'  # up to {model["context"]}'
    lines = '\n'.join(
        f'    config.model.{field} = {_literal(value)}{note if field == "context" else ""}'
        for field, value in changed.items()
    )
    return f'''"""Trains on from {_quoted(source)}.

python run.py --config={_quoted(_shown(workdir / 'config.py'))} --workdir=runs/{name} \\\\
    '--config.data.source=files:corpus/*.txt'
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = {name!r}
    config.init_from = {str(workdir)!r}
    config.data.tokenizer = {str(tokenizer)!r}

    config.train.batch = 8
    config.train.tokens = 1_000_000
    config.optimizer.learning_rate = 2e-5
    config.optimizer.warmup_fraction = 0.05

    # The model is what the weights are of; only how it is computed may change.
{lines}
    return config
'''


def _literal(value: Any) -> str:
    return repr(tuple(value)) if isinstance(value, list) else repr(value)


def _quoted(text: str) -> str:
    """As it may stand in a docstring."""
    return text.replace('\\', '\\\\').replace('"', "'")


def _shown(path: Path) -> str:
    """The path as it is typed where run.py is: from there, if it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
