"""Units of the loss: all but bits per byte become nats per token, which need the text's tokens."""

import math
import re

from gpt_jax.core.errors import UserError

UNITS = ('nats', 'bits', 'bits_per_byte', 'perplexity')
UNIT_WORDS = {  # words in the name of a loss column, in the order in which they count
    'perplexity': ('ppl', 'perplexity'),
    'bits_per_byte': ('bpb', 'byte'),
    'bits': ('bits', 'bit'),
}
# Nats per token above the loss of a uniform guess over the largest vocabularies, ln(1e6).
MAX_NATS = 13.8


def label_unit(unit: str) -> str:
    """Return the unit of losses as they are fitted, for tables and figures."""
    return 'bits/byte' if unit == 'bits_per_byte' else 'nats/token'


def find_unit(column: str) -> str:
    """Return the unit that the name of a loss column says; nats if it says none."""
    words = set(re.findall('[a-z]+', column.lower()))
    if words & {'log', 'nats', 'nll'}:
        return 'nats'
    return next((unit for unit, known in UNIT_WORDS.items() if words & set(known)), 'nats')


def convert_loss(loss: float, unit: str, where: str) -> float:
    """Return the loss in nats per token; in bits per byte if that is its unit.

    Args:
      loss: the loss, or NaN.
      unit: one of UNITS.
      where: prefix of the error message.

    Raises:
      UserError: a perplexity is not above 1.
    """
    if unit == 'bits':
        return loss * math.log(2)
    if unit != 'perplexity':
        return loss
    if loss <= 1:
        raise UserError(
            f'{where}: loss: a perplexity must be above 1, got {loss:g}; correct the cell, or give '
            'the unit as --loss_unit=nats'
        )
    return math.log(loss)


def describe_unit(column: str, unit: str, *, is_given: bool, median: float) -> str:
    """Return a sentence on the unit of the loss if it was converted or is unusual, else ''.

    Args:
      column: the loss column's own name.
      unit: one of UNITS.
      is_given: whether the user named the unit.
      median: the median loss as fitted.
    """
    why = '--loss_unit' if is_given else f'by its name; --loss_unit={"|".join(UNITS)} says another'
    if unit == 'bits_per_byte':
        return f'loss: column {column!r} is in bits per byte, and so are all losses here ({why})'
    if unit != 'nats':
        word = {'bits': 'bits per token', 'perplexity': 'a perplexity'}[unit]
        return f'loss: column {column!r} is {word}, converted to nats per token ({why})'
    if median > MAX_NATS:
        return (
            f'loss: the median is {median:.4g}, too high for nats per token; '
            '--loss_unit=perplexity takes the logarithm'
        )
    return ''
