"""How does a command hand over what it has? Lines to the terminal, numbers and figures into files that it names."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpt_jax import files
from gpt_jax.scaling import analysis


def say(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


def figures(paths: Iterable[Path]) -> None:
    say(f'figure: {path}' for path in paths)


def numbers(result: dict[str, Any], path: str | None) -> None:
    if path:
        files.write_json(path, analysis.plain(result))
        print(f'numbers: {path}')
