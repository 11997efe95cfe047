"""Formatting of numbers, durations and sentences for people to read."""

import math


def format_count(value: float | None) -> str:
    """Format a count with four significant figures: 12,736, 6.796B, 1.5e16; '' for None and NaN."""
    if value is None or not math.isfinite(value):
        return ''
    for limit, unit in ((1e15, ''), (1e12, 'T'), (1e9, 'B'), (1e6, 'M')):
        if value >= limit:
            return f'{value / limit:.4g}{unit}' if unit else format_flops(value)
    return f'{value:,.0f}'


def format_short_count(value: float) -> str:
    """Format a count with about three significant figures: 950, 1.2k, 51.2k, 3.4M, 1.5B, 2.0T."""
    for limit, unit in ((1e3, ''), (1e6, 'k'), (1e9, 'M'), (1e12, 'B')):
        digits = 0 if unit == '' else 1
        # Rounded before it is compared: 999,960 is 1.0M, not 1000.0k.
        scaled = round(value / (limit / 1e3), digits)
        if abs(scaled) < 1e3:
            return f'{scaled:.{digits}f}{unit}'
    return f'{value / 1e12:.1f}T' if math.isfinite(value) else str(value)


def format_flops(value: float | None) -> str:
    """Format FLOPs: 2.5e18; '' for None and NaN."""
    return '' if value is None or not math.isfinite(value) else f'{value:.4g}'.replace('e+', 'e')


def format_tokens_per_param(tokens: float | None, params: float | None) -> str:
    """Format D/N with three significant figures: 2,480, 535, 18.4; '' if either is missing."""
    return f'{float(f"{tokens / params:.3g}"):,g}' if tokens and params else ''


def format_bytes(count: float) -> str:
    """Format a number of bytes in a suitable unit: '3.2 GB' (10^9)."""
    for unit, scale in (('TB', 1e12), ('GB', 1e9), ('MB', 1e6), ('kB', 1e3)):
        if count >= scale:
            return f'{count / scale:.3g} {unit}'
    return f'{count:.0f} B'


def format_duration(seconds: float) -> str:
    """Format whole seconds as 0:42, 12:07 or 1:02:03; there is no unit above hours."""
    minutes, second = divmod(max(0, round(seconds)), 60)
    hour, minute = divmod(minutes, 60)
    return f'{hour}:{minute:02d}:{second:02d}' if hour else f'{minute}:{second:02d}'


def format_residual(log_residual: float) -> str:
    """Format the difference of two logarithms as a percentage: '+1.25%'."""
    return f'{100 * math.expm1(log_residual):+.2f}%'


def to_sentence(line: str) -> str:
    """Return the line as a sentence, with a capital letter and a full stop."""
    return f'{line[:1].upper()}{line[1:]}' + ('' if line.endswith('.') else '.')
