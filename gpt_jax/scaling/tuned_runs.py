"""Runs that differ in hyperparameters only: the best of each size and token count.

A law is about the loss that a size and a token count can reach, so a grid of learning rates is not
noise between seeds: its best setting is fitted, and the others are not. The best of several noisy
losses is a little too low; with seeds, the mean of a setting's seeds decides.
"""

import functools
import re
from collections.abc import Callable

import numpy as np

from gpt_jax.scaling.table_formats import Row, list_names

# Of the last part of a column's name: `lr` of `config.optimizer/lr`.
HYPERPARAMETER = re.compile(
    '(peak_|max_|base_)?(lr|learning_rate)|(global_|train_)?(batch(_size)?|bs|bsz)|weight_decay|wd|'
    'warmup(_steps|_tokens|_ratio|_fraction|_iters)?|(adam_)?(beta_?[12]|eps|epsilon)|momentum|'
    '(grad_|gradient_)?clip(_norm|ping)?|dropout|optimizer|((lr_)?schedule|scheduler)(_type)?|'
    'init_std|(final|min)_lr(_fraction|_ratio)?|z_loss|label_smoothing'
)


def find_untuned(rows: list[Row], sizes: np.ndarray, loss: np.ndarray) -> dict[int, str]:
    """Find the runs whose hyperparameters are not the best of their size and token count.

    Args:
      rows: the row of each run, [runs].
      sizes: what a law predicts the loss from (N, D and the like), [runs, columns].
      loss: [runs].

    Returns:
      {index of the run: the reason}.
    """
    if len(np.unique(sizes, axis=0)) == len(rows):
        return {}
    names = find_varying(rows, is_hyperparameter)
    if not names:
        return {}
    groups: dict[bytes, dict[tuple[str, ...], list[int]]] = {}
    for index, setting in enumerate(list_settings(rows, names)):
        groups.setdefault(sizes[index].tobytes(), {}).setdefault(setting, []).append(index)
    reasons = {}
    for settings in groups.values():
        if len(settings) == 1:
            continue
        best = min(settings, key=lambda setting: float(np.log(loss[settings[setting]]).mean()))
        for setting, indices in settings.items():
            others = zip(names, setting, best, strict=True)
            better = ', '.join(f'{name}={b or "none"}' for name, a, b in others if a != b)
            for index in indices if setting != best else ():
                reasons[index] = f'not the best of its N and D, which is that with {better}'
    return reasons


def is_hyperparameter(column: str) -> bool:
    """Return whether a column is that of a hyperparameter, by its name."""
    return HYPERPARAMETER.fullmatch(last_word(column)) is not None


def find_varying(rows: list[Row], is_wanted: Callable[[str], bool]) -> list[str]:
    """Return the columns of the wanted names whose values differ between the rows."""
    names = filter(is_wanted, list_names(rows))
    return [name for name in names if _varies(rows, name)]


def _varies(rows: list[Row], name: str) -> bool:
    first = _normalize(rows[0].get(name))
    return any(_normalize(row.get(name)) != first for row in rows)


def list_settings(rows: list[Row], names: list[str]) -> list[tuple[str, ...]]:
    """Return the values of these columns in each row, one text for equal values."""
    if not names:
        return [()] * len(rows)
    return list(zip(*([_normalize(row.get(name)) for row in rows] for name in names), strict=True))


def last_word(name: str) -> str:
    """Return the last part of a column's name: `lr` of `config.optimizer/lr`."""
    return re.sub('[- ]', '_', re.split(r'[/.]', name.lower())[-1])


def _normalize(value: object) -> str:
    """Return one text for equal values, such as 1e-3 and 0.001; '' for none."""
    return '' if value is None else _normalize_text(str(value))


@functools.lru_cache(maxsize=4096)  # most settings have few values
def _normalize_text(text: str) -> str:
    try:
        return f'{float(text):g}'
    except ValueError:
        return text.strip()
