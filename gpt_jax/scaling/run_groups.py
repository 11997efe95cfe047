"""Which rows of a table are of one run, and which runs are of one configuration.

A table may have several rows of one run: its checkpoints, at growing token counts. They share the
run's noise, so they are no more independent evidence than its last row. They are known by

- a column of run ids, or of names, that several rows of one size share;
- a column that counts steps (`step`) or says a run's planned length (`max_steps`), for rows of one
  size and one setting;
- without either, token counts of one size in equal or small steps: separate runs differ by more.

Runs of one size, token count and setting (hyperparameters, shape, recipe) are seeds or re-runs of
one configuration.

The last row of a run is what a law of finished runs is about. Until the learning rate has decayed,
the loss is above that law, and most so at the beginning. Measured on public checkpoints (OLMo 2
ladder, (Mis)Fitting, Gemstones, GPT-3, multi-power-law curves): where the last rows differ in size
and in token count, they alone predict larger runs best (OLMo 2 at 3, 10 and 30 times the compute:
off by .2, .7 and .04%; with the second halves of the runs .3, 1.4 and .6%; with all checkpoints 6,
9 and 11%). Where all runs end at one token count, or are few, the last rows do not determine a law;
then the second half of each run is the best of the other choices, or close to it.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Hashable
from typing import NamedTuple

import numpy as np

from gpt_jax.scaling.table_formats import Row, list_names
from gpt_jax.scaling.tuned_runs import HYPERPARAMETER, find_varying, last_word, list_settings

# Columns that tell runs apart, the surest first; `name` may also be that of a size.
RUN_COLUMNS = ('run_id', 'wandb_id', 'uid', 'id', '_id', 'run', 'run_name', 'trial', 'name')
STEP_COLUMNS = ('step', '_step', 'global_step', 'trainer/global_step', 'checkpoint', 'iteration')
# Columns that say how long a run was to be: equal for all checkpoints of a run.
LENGTH_COLUMNS = re.compile('(planned|total|max|num|train)_?(tokens|steps|iters|iterations)')
STEP_SUFFIX = re.compile(r'[-_/@. ]*(step|ckpt|checkpoint|iter)s?[-_ ]?\d+$', re.IGNORECASE)
SIZE_NAME = re.compile(r'\d(\.\d+)?\s?[kmb]\b|\d[kmb][-_]|\bd\d+\b', re.IGNORECASE)
SETTING = re.compile(  # of the last part of a column's name, beside HYPERPARAMETER
    '(num_|n_)?(layers?|blocks?|heads?|experts?)|num_layers|depth|width|(d|model)_(model|dim)|'
    'hidden(_dim|_size)?|head_dim|top_?k|k|vocab(_size)?|(seq|context)(_len(gth)?)?|(num_)?params_.*|'
    '.*_params|architecture|arch|family|variant|recipe|router(_type)?|tokenizer|dataset|corpus|data|'
    'parallel_size|group'
)
CHECKPOINT_CHOICES = ('', 'last', 'half', 'all', 'separate')
MIN_RUNS, MIN_LENGTHS = 6, 3  # of the last rows, to be fitted alone
EARLIER = "a checkpoint before its run's last (--checkpoints=half or all keeps more)"
FIRST_HALF = 'a checkpoint of the first half of its run (--checkpoints=all keeps it)'
LATE_SHARE = 0.5  # of a run's tokens, from which its checkpoints are fitted
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
      evidence: how checkpoints are known, in words; '' if every row is a run.
    """

    runs: np.ndarray
    clusters: np.ndarray
    is_last: np.ndarray
    evidence: str


def group_rows(rows: list[Row], sizes: np.ndarray, *, are_runs: bool = False) -> RunGroups:
    """Find the run and the configuration of each row.

    Args:
      rows: with their columns renamed, [rows].
      sizes: params, tokens, unique tokens, all parameters (0: unknown), [rows, 4].
      are_runs: whether every row is a run of its own, whatever the columns say.
    """
    keys, evidence = _find_run_keys(rows, sizes)
    if are_runs:
        keys = list(range(len(rows)))
    tokens = sizes[:, 1]
    _, runs = np.unique(_number(keys), return_inverse=True)
    last_tokens = np.zeros(runs.max(initial=-1) + 1)
    np.maximum.at(last_tokens, runs, tokens)
    is_last = tokens == last_tokens[runs]
    ends = np.flatnonzero(is_last)
    _, label, counts = np.unique(sizes[ends], axis=0, return_inverse=True, return_counts=True)
    is_shared = counts[label.reshape(-1)] > 1  # others need no setting to be told apart
    names = find_varying(rows, is_setting) if is_shared.any() else []
    settings: dict[int, tuple[Hashable, ...]] = {}  # of the last row of each run
    for index, shared in zip(ends.tolist(), is_shared.tolist(), strict=True):
        setting = list_settings([rows[index]], names)[0] if shared else ()
        settings.setdefault(int(runs[index]), (*sizes[index].tolist(), *setting))
    order = {setting: label for label, setting in enumerate(sorted(set(settings.values())))}
    clusters = np.array([order[settings[run]] for run in runs.tolist()], int)
    return RunGroups(runs, clusters, is_last, evidence if len(last_tokens) < len(rows) else '')


def is_setting(column: str) -> bool:
    """Return whether runs that differ in this column are of different configurations."""
    word = last_word(column)
    return bool(HYPERPARAMETER.fullmatch(word) or SETTING.fullmatch(word))


def find_early(
    groups: RunGroups, tokens: np.ndarray, is_tuned: np.ndarray, checkpoints: str
) -> dict[int, str]:
    """Find the rows that are not fitted because their run goes on.

    Args:
      groups: the rows by run.
      tokens: [rows].
      is_tuned: whether the row's run is fitted at all, [rows].
      checkpoints: 'last', 'half' or 'all' of each run; '': the last where those of the tuned runs
        differ in size and token count, else the second half.

    Returns:
      {index of the row: the reason}.
    """
    if not checkpoints:
        last = groups.is_last & is_tuned
        ends, lengths = np.unique(groups.runs[last]).size, np.unique(tokens[last]).size
        checkpoints = 'last' if ends >= MIN_RUNS and lengths >= MIN_LENGTHS else 'half'
    if checkpoints == 'last':
        return dict.fromkeys(np.flatnonzero(~groups.is_last).tolist(), EARLIER)
    if checkpoints == 'half':
        last_tokens = np.zeros(groups.runs.max() + 1)
        np.maximum.at(last_tokens, groups.runs, tokens)
        early = np.flatnonzero(tokens < LATE_SHARE * last_tokens[groups.runs])
        return dict.fromkeys(early.tolist(), FIRST_HALF)
    return {}


def describe_checkpoints(groups: RunGroups, left_out: dict[int, str]) -> str:
    """Return a sentence on the runs of the rows, and on which rows of each are fitted."""
    reasons = set(left_out.values())
    used = 'all their rows are fitted'
    if EARLIER in reasons:
        used = 'the last row of each is fitted'
    elif FIRST_HALF in reasons:
        used = 'the second half of each is fitted, since the last rows alone are too alike'
    return (
        f'{len(groups.runs)} rows are checkpoints of {np.unique(groups.runs).size} runs '
        f'({groups.evidence}): a run is resampled and held out as a whole; {used} '
        '(--checkpoints says otherwise, or that the rows are separate runs)'
    )


def _number(keys: list[Hashable]) -> np.ndarray:
    """Return an integer for each key, equal for equal keys."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], int)


def _find_run_keys(rows: list[Row], sizes: np.ndarray) -> tuple[list[Hashable], str]:
    """Return a key for each row, equal for rows of one run, and how that is known."""
    columns = list_names(rows)
    words = {name: last_word(name) for name in columns}
    column = _find_run_column(rows, words)
    names = [STEP_SUFFIX.sub('', str(row.get(column))) if column else '' for row in rows]
    if len(set(names)) == len(rows):
        return list(range(len(rows))), ''
    steps = [name for name in columns if name.lower() in STEP_COLUMNS]
    # What a run has only one of. A learning rate beside a step is that of the step.
    lengths = [name for name, word in words.items() if LENGTH_COLUMNS.fullmatch(word)]
    tokens = [f'{count:g}' for count in sizes[:, 1].tolist()]
    lengths = [
        name for name in lengths if list_settings(rows, [name]) != [(count,) for count in tokens]
    ]
    fixed = lengths + [
        name
        for name in find_varying(rows, is_setting)
        if not (steps and words[name] in ('lr', 'learning_rate'))
    ]
    fixed += [name for name, word in words.items() if word == 'seed']
    keys: list[Hashable] = [
        (name, size, *setting)
        for name, size, setting in zip(
            names, sizes[:, 0].tolist(), list_settings(rows, fixed), strict=True
        )
    ]
    if column and not (words[column] == 'name' and _are_of_size(names, sizes)):
        return keys, f'by the column {column!r}'
    if steps or lengths:
        return keys, f'by the column {(steps + lengths)[0]!r}'
    if _are_close(keys, sizes):
        return keys, 'by the small steps between the token counts of each size'
    return list(range(len(rows))), ''


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
    distinct, counts = set(names), sizes[:, 0].tolist()
    pairs = set(zip(names, counts, strict=True))
    is_one_to_one = len(pairs) == len(distinct) == len(set(counts))
    return is_one_to_one and all(map(SIZE_NAME.search, distinct))


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
