"""Which number has the label that a row gives by number or by word?"""

import math
from collections.abc import Sequence
from typing import Any

from gpt_jax.errors import UserError
from gpt_jax.schema import nearest

# How TFDS marks a row whose label is kept secret (GLUE's test splits) or was never agreed on (SNLI); -1.0 is a score's.
UNKNOWN = ('-1', '-1.0')


def number(value: Any, labels: Sequence[str], source: Sequence[str], where: str, field: str) -> int | None:
    """The label's number among `labels`; None: the row has none (-1, null or no text).

    A word is looked for among the labels, then read as a number. A number counts from 0, but where the source itself
    names its classes, it is the class of that name if the labels have it. A number with a fraction, or any where the
    source names no classes and all labels are numbers themselves, is the label nearest in value: a score of 3.8 is '4'.

    Args:
      labels: the configuration's words, number 0 first.
      source: the words of the source for its own numbers; () where it has none.
      where, field: the row's place and the configuration's field, for messages.

    Raises:
      UserError: a label outside the set.
    """
    if value is None or value == '' or (str(value) in UNKNOWN and '-1' not in labels):
        return None
    found = None
    if isinstance(value, str):
        found = _of_word(value.strip(), labels)
    elif isinstance(value, int | float) and math.isfinite(value):
        found = _of_number(value, labels, source)
    if found is None:
        close = nearest(value, labels) if isinstance(value, str) else ''
        said = ', '.join(f'{word!r} ({place})' for place, word in enumerate(labels))
        raise UserError(f'{where}: {value!r} is none of the labels of config.{field}: {said}{close}')
    return found


def _of_word(word: str, labels: Sequence[str]) -> int | None:
    if word in labels:
        return labels.index(word)
    return int(word) if word.isascii() and word.isdecimal() and int(word) < len(labels) else None


def _of_number(value: int | float, labels: Sequence[str], source: Sequence[str]) -> int | None:
    if any(word in labels for word in source):
        known = value == int(value) and 0 <= value < len(source) and source[int(value)] in labels
        return labels.index(source[int(value)]) if known else None
    scores = None if source else _scores(labels)
    if scores and min(scores) - 0.5 <= value <= max(scores) + 0.5:
        return min(range(len(scores)), key=lambda place: abs(scores[place] - value))
    return int(value) if not scores and value == int(value) and 0 <= value < len(labels) else None


def _scores(labels: Sequence[str]) -> list[float] | None:
    try:
        return [float(word) for word in labels]
    except ValueError:
        return None
