"""Which rows of a table are of one run, and which runs are of one configuration.

A table may have several rows of one run: its checkpoints, at growing token counts. They share the
run's noise, so they are no more independent evidence than its last row. They are known by

- a column of run ids, or of names, that several rows of one size share;
- a column that counts steps (`step`), for rows of one size and one setting;
- without either, token counts of one size in equal or small steps: separate runs differ by more.

Runs of one size, token count and setting (hyperparameters) are seeds or re-runs of one
configuration.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Hashable
from typing import NamedTuple

import numpy as np

from gpt_jax.scaling.table_formats import Row
from gpt_jax.scaling.tuned_runs import find_settings, get_setting, last_word

# Columns that tell runs apart, the surest first; `name` may also be that of a size.
RUN_COLUMNS = ('run_id', 'wandb_id', 'uid', 'id', '_id', 'run', 'run_name', 'trial', 'name')
STEP_COLUMNS = ('step', '_step', 'global_step', 'trainer/global_step', 'checkpoint', 'iteration')
# Columns that say how long a run was to be: equal for all checkpoints of a run.
LENGTH_COLUMNS = re.compile('(planned|total|max|num|train)_?(tokens|steps|iters|iterations)')
STEP_SUFFIX = re.compile(r'[-_/@. ]*(step|ckpt|checkpoint|iter)s?[-_ ]?\d+$', re.IGNORECASE)
SIZE_NAME = re.compile(r'\d(\.\d+)?\s?[kmb]\b|\d[kmb][-_]|\bd\d+\b', re.IGNORECASE)
MIN_CLOSE_POINTS = 6  # token counts of one size
CLOSE_RATIO = 1.2  # of neighboring token counts; those of separate runs are further apart
EQUAL_STEPS = 0.02  # relative tolerance of the differences of neighboring token counts


class RunGroups(NamedTuple):
    """Rows by run and by configuration.

    Attributes:
      runs: label of the run that each row is of, [rows].
      clusters: label of the run's configuration, [rows], in the order of size, token count at the
        end, unique tokens and setting; as `Runs.clusters`.
      is_last: whether the row is the last of its run, [rows].
    """

    runs: np.ndarray
    clusters: np.ndarray
    is_last: np.ndarray


def group_rows(rows: list[Row], sizes: np.ndarray) -> RunGroups:
    """Find the run and the configuration of each row.

    Args:
      rows: with their columns renamed, [rows].
      sizes: params, tokens and unique tokens (0: unknown), [rows, 3].
    """
    keys = _find_run_keys(rows, sizes)
    tokens = sizes[:, 1]
    _, runs = np.unique(_number(keys), return_inverse=True)
    last_tokens = np.zeros(runs.max(initial=-1) + 1)
    np.maximum.at(last_tokens, runs, tokens)
    is_last = tokens == last_tokens[runs]
    names = find_settings(rows)
    settings: dict[int, tuple[Hashable, ...]] = {}  # of the last row of each run
    for index in np.flatnonzero(is_last):
        setting = (*sizes[index].tolist(), *get_setting(rows[index], names))
        settings.setdefault(int(runs[index]), setting)
    order = {setting: label for label, setting in enumerate(sorted(set(settings.values())))}
    clusters = np.array([order[settings[run]] for run in runs.tolist()], int)
    return RunGroups(runs, clusters, is_last)


def _number(keys: list[Hashable]) -> np.ndarray:
    """Return an integer for each key, equal for equal keys."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], int)


def _find_run_keys(rows: list[Row], sizes: np.ndarray) -> list[Hashable]:
    """Return a key for each row: equal for rows of one run."""
    columns = dict.fromkeys(name for row in rows for name in row)
    words = {name: last_word(name) for name in columns}
    has_steps = any(name.lower() in STEP_COLUMNS for name in columns)
    # What a run has only one of. A learning rate beside a step is that of the step.
    fixed = [name for name, word in words.items() if LENGTH_COLUMNS.fullmatch(word)]
    fixed += [
        name
        for name in find_settings(rows)
        if not (has_steps and words[name] in ('lr', 'learning_rate'))
    ]
    fixed += [name for name, word in words.items() if word == 'seed']
    column = _find_run_column(rows, words)
    names = [STEP_SUFFIX.sub('', str(row.get(column))) if column else '' for row in rows]
    keys: list[Hashable] = [
        (name, float(size), *get_setting(row, fixed))
        for name, size, row in zip(names, sizes[:, 0], rows, strict=True)
    ]
    is_run_name = bool(column) and not (words[column] == 'name' and _are_of_size(names, sizes))
    if is_run_name or has_steps or _are_close(keys, sizes):
        return keys
    return list(range(len(rows)))


def _find_run_column(rows: list[Row], words: dict[str, str]) -> str:
    """Return the column that tells runs apart; '' if there is none."""
    for known in RUN_COLUMNS:
        for column, word in words.items():
            values = [row.get(column) for row in rows] if word == known else []
            texts = [str(value) for value in values]
            if any(value in (None, '') for value in values) or not texts:
                continue
            if word != 'name' and len(set(texts)) == len(texts) and _is_index(texts):
                continue
            return column
    return ''


def _is_index(texts: list[str]) -> bool:
    """Return whether the cells number the rows."""
    return any(texts == [str(start + i) for i in range(len(texts))] for start in (0, 1))


def _are_of_size(names: list[str], sizes: np.ndarray) -> bool:
    """Return whether the names say no more than the size: one per size, and they look so."""
    by_name: defaultdict[str, set[float]] = defaultdict(set)
    by_size: defaultdict[float, set[str]] = defaultdict(set)
    for name, size in zip(names, sizes[:, 0].tolist(), strict=True):
        by_name[name].add(size)
        by_size[size].add(name)
    counts = [*map(len, by_name.values()), *map(len, by_size.values())]
    is_one_to_one = all(count == 1 for count in counts)
    return is_one_to_one and all(SIZE_NAME.search(name) for name in by_name)


def _are_close(keys: list[Hashable], sizes: np.ndarray) -> bool:
    """Return whether the token counts of each key are as close as checkpoints are."""
    tokens: defaultdict[Hashable, set[float]] = defaultdict(set)
    for key, count in zip(keys, sizes[:, 1].tolist(), strict=True):
        tokens[key].add(count)
    lengths = Counter(map(len, tokens.values()))
    if min(lengths, default=0) < MIN_CLOSE_POINTS:
        return False
    for counts in map(sorted, tokens.values()):
        steps = np.diff(counts)
        is_even = bool(np.ptp(steps) <= EQUAL_STEPS * np.median(steps))
        ratio = float(np.median(np.exp(np.diff(np.log(counts)))))
        if not is_even and (ratio > CLOSE_RATIO or len(counts) < 2 * len(tokens)):
            return False
    return True
