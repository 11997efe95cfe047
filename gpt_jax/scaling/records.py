"""What is a record of a trial, and which of them can a law be fitted to? One line of records.jsonl per trial."""

import math
from typing import Any

from gpt_jax.errors import UserError
from gpt_jax.scaling.rows import OFF_THE_LAW

# What the rooms of this house write and read; a record may carry more.
COLUMNS = {
    'name': "the trial's name, unique in its file",
    'status': "'done', or why there is no result; only done trials are fitted",
    'params_non_embedding': 'parameters without token embedding, position table and an untied head',
    'tokens': 'tokens trained on, repeats counted',
    'flops_with_attention': 'training FLOPs: 6 per parameter and token, and all of the score matrix',
    'validation_loss': 'nats per token',
    'bits_per_byte': 'validation loss in bits, over the bytes of the text that the tokens stand for',
    'seconds': 'wall-clock seconds of training',
}


def column(records: list[dict[str, Any]], name: str) -> list[Any]:
    """The value of `name` in every record.

    Raises:
      UserError: a record lacks it; says which record, and which columns there are.
    """
    for index, record in enumerate(records):
        if name not in record:
            there = ', '.join(sorted({key for each in records for key in each})) or 'none'
            raise UserError(f'record {record.get("name", index)}: no column {name!r}; the columns are: {there}')
    return [record[name] for record in records]


def fittable(records: list[dict[str, Any]], names: list[str]) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Splits off the records that no law can be fitted to: not done, or with a value that has no logarithm.

    Returns:
      The records to fit, and for each of the others {'name', 'reason'}.

    Raises:
      UserError: a finished record lacks one of the columns `names`.
    """
    kept, left_out = [], []
    for index, record in enumerate(records):
        name, status = str(record.get('name', index)), column([record], 'status')[0]
        reason = f'status is {status!r}' if status != 'done' else ''
        reason = OFF_THE_LAW.get(record.get('role', ''), reason)
        for key in [] if reason else names:
            value = column([record], key)[0]
            if not _has_logarithm(value):
                reason = f'{key} is {value!r}, not a finite number above zero'
        if reason:
            left_out.append({'name': name, 'reason': reason})
        else:
            kept.append(record)
    return kept, left_out


def _has_logarithm(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
