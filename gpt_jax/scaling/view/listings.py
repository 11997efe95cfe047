"""Which runs is a report about, and how are they counted? All rows of the file, those left out, the conventions."""

import math
from typing import Any

from gpt_jax.scaling.view.page import Html, paragraph, section, table
from gpt_jax.scaling.words import percent, power, ratio, size

COUNTS = {
    'as given': "the file's column params; of our own records params_total, embeddings included",
    'total': 'all parameters, embeddings included',
    'non_embedding': 'without token embedding, position table and an untied head',
    'without_positions': 'all parameters but the position table',
    'active': 'what one token uses: of routed experts those that it takes, and all of the rest',
    'active_non_embedding': 'the same without token embedding, position table and an untied head',
}
FLOPS = {
    '6ND': '6 x N x D',
    'column': "the file's column flops",
    'with_attention': '6 per parameter and token, and all of the score matrix',
    'causal': '6 per parameter and token, and the half of the score matrix that a causal mask leaves',
}
MORE = (('seed', 'seed', 'g'), ('bits_per_byte', 'bits/byte', '.4f'), ('seconds', 'seconds', ',.1f'))


def runs(result: dict[str, Any], records: list[dict[str, Any]]) -> Html:
    """Every row of the file; the fitted ones carry their index in residuals, for the figures' marks."""
    fitted = {row: index for index, row in enumerate(result['residuals']['row'])}
    reasons = {one['row']: one for one in result['left_out']}
    more = [(key, name, form) for key, name, form in MORE if any(_number(row.get(key)) is not None for row in records)]
    rows, marks = [], []
    for number, record in enumerate(records, 1):
        index = fitted.get(number)
        name = result['residuals']['name'][index] if index is not None else reasons[number]['name']
        extra = [_formatted(record.get(key), form) for key, _, form in more]
        status = 'fitted' if index is not None else f'left out: {reasons[number]["reason"]}'
        rows.append([str(number), name, *_measured(result['residuals'], index, record), *extra, status])
        marks.append(('' if index is not None else 'gone', index))
    tips = ['name', 'N', 'D', 'C', 'D/N', 'loss', 'measured over law']
    names = ['row', *tips, *(name for _, name, _ in more), 'status']
    words = f'{len(records)} rows; in the figures, point at a run, tap it, or go through them with the arrow keys.'
    return section(
        'Runs', paragraph(words), table(names, rows, words=['name'], long='status', marks=marks, tips=tips)
    )  # fmt: skip


def _measured(fitted: dict[str, Any], index: int | None, record: dict[str, Any]) -> list[str]:
    if index is not None:
        n, d, c, loss = (fitted[name][index] for name in ('params', 'tokens', 'flops', 'loss'))
        residual = percent(fitted['log_residual'][index]) if 'log_residual' in fitted else ''
    else:
        n, d, c, loss = (_number(record.get(name)) for name in ('params', 'tokens', 'flops', 'loss'))
        c, residual = (6 * n * d if c is None and n and d else c), ''
    return [size(n), size(d), power(c), ratio(d, n), '' if loss is None else f'{loss:.4f}', residual]


def _number(value: Any) -> float | None:
    """Of a row that may hold anything, since it may be there only to be left out."""
    try:
        number = float(value.replace('_', '') if isinstance(value, str) else value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _formatted(value: Any, form: str) -> str:
    number = _number(value)
    return '' if number is None else format(number, form)


def left_out(result: dict[str, Any]) -> Html:
    rows = [[str(one['row']), one['name'], one['reason']] for one in result['left_out']]
    if not rows:
        return section('Left out', paragraph('No row: all are fitted.'))
    return section('Left out', table(['row', 'name', 'reason'], rows, words=['name', 'reason'], long='reason'))


def conventions(result: dict[str, Any]) -> Html:
    about = result['data']
    count, flops = about['count'], about['flops']
    rows = [
        ['file', about['file']],
        ['SHA-256', about['sha256']],
        ['N', f'{count}: {COUNTS.get(count, "a column of the file")}'],
        ['D', 'tokens trained on, repeats counted'],
        ['C', f'{flops}: {FLOPS.get(flops, "a column of the file")}'],
        ['loss', 'nats per token, natural logarithm'],
        ['measured over law', 'the measured loss over the one that the law gives the run, less 1'],
    ]
    costs = [one['cost'] for one in result.get('approaches', {}).values() if not one['note']]
    if costs:
        rows.append(['cost', f'C = {costs[0]["k"]:.4g} N^{costs[0]["p"]:.4g} D, as these runs have it'])
    return section('Conventions', table(['what', 'how it is counted'], rows, words=['what'], long='how it is counted'))
