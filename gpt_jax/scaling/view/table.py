"""How does a ladder of runs read as a table? Aligned text, one row per trial, every column under its convention."""

import math
from typing import Any

# Column of the record, heading, format. The headings carry the conventions: a number without one is not comparable.
TABLE = (
    ('name', 'size', 's'),
    ('params_non_embedding', 'parameters (non-embedding)', ',d'),
    ('tokens', 'tokens', ',d'),
    ('flops_with_attention', 'FLOPs (6N + attention)', '.2e'),
    ('validation_loss', 'validation loss (nats/token)', '.4f'),
    ('bits_per_byte', 'bits/byte', '.4f'),
    ('seconds', 'seconds', ',.1f'),
)


def ladder(records: list[dict[str, Any]]) -> str:
    """The records as aligned lines, smallest first; what is absent is a dash, and a trial not done says its status."""
    ordered = sorted(records, key=lambda record: record.get('params_non_embedding') or math.inf)
    rows = [[heading for _, heading, _ in TABLE]]
    rows += [[_cell(record, name, form) for name, _, form in TABLE] for record in ordered]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    rows.insert(1, ['-' * width for width in widths])
    # The first column is words and reads from the left; numbers line up on the right.
    return '\n'.join(
        '  '.join([row[0].ljust(widths[0])] + [cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)])
        for row in rows
    )


def _cell(record: dict[str, Any], name: str, form: str) -> str:
    value = record.get(name)
    if name == 'name':
        status = record.get('status', 'done')
        return f'{value}' if status == 'done' else f'{value} ({status})'
    return '-' if value is None else format(int(value) if form.endswith('d') else value, form)
