"""How is a number written for a reader, and a line as a sentence?"""

import math


def size(value: float | None) -> str:
    """A count for a reader: 12,736, 6.796B, 1.5e16."""
    if value is None or not math.isfinite(value):
        return ''
    for limit, unit in ((1e15, ''), (1e12, 'T'), (1e9, 'B'), (1e6, 'M')):
        if value >= limit:
            return f'{value / limit:.4g}{unit}' if unit else power(value)
    return f'{value:,.0f}'


def power(value: float | None) -> str:
    """FLOPs: 2.5e18."""
    return '' if value is None or not math.isfinite(value) else f'{value:.4g}'.replace('e+', 'e')


def ratio(tokens: float | None, params: float | None) -> str:
    """D/N: 2,480, 535, 18.4."""
    return f'{float(f"{tokens / params:.3g}"):,g}' if tokens and params else ''


def percent(log_residual: float) -> str:
    return f'{100 * math.expm1(log_residual):+.2f}%'


def sentence(line: str) -> str:
    return f'{line[:1].upper()}{line[1:]}' + ('' if line.endswith('.') else '.')
