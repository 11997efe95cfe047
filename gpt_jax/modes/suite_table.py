"""How do the scores of a suite read as a table? A line for each score, and for each number of a report."""

from typing import Any

UNSHOWN = ('questions', 'contamination', 'chance', 'error')


def table(found: dict[str, dict[str, Any]]) -> str:
    """A line for each task, and for each number of a report."""
    rows = [('task', 'score', '', 'found in training')]
    for name, said in found.items():
        if 'questions' not in said:
            rows += [(name, key, _shown(value), '') for key, value in _flat(said)]
            continue
        dirty = said['contamination']
        overlap = '-' if dirty is None else f'{dirty["fraction_contaminated"]:.1%} of {dirty["examples"]}'
        about = [key for key in said if key not in UNSHOWN and said[key] != {}]
        for number, key in enumerate(about):
            shown = _shown(said[key]) + (f' (chance {said["chance"]:.3f})' if key == 'accuracy' else '')
            rows.append((name if number == 0 else '', key, shown, overlap if number == 0 else ''))
    widths = [max(len(row[n]) for row in rows) for n in range(4)]
    rows.insert(1, tuple('-' * width for width in widths))  # type: ignore[arg-type]
    return '\n'.join(
        '  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _flat(said: dict[str, Any], before: str = '') -> list[tuple[str, Any]]:
    return [
        pair
        for key, value in said.items()
        for pair in (_flat(value, f'{before}{key} ') if isinstance(value, dict) else [(f'{before}{key}', value)])
    ]


def _shown(value: Any) -> str:
    return '-' if value is None else f'{value:,}' if isinstance(value, int) else f'{value:.4g}'
