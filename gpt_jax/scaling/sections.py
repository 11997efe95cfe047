"""What does a report say, part by part? Each function makes one section of analysis.fit's numbers, or '' without them."""

import math
from typing import Any

from gpt_jax.scaling import forecast, laws, show
from gpt_jax.scaling.page import Html, items, paragraph, section, table

FORMS = {
    'chinchilla': 'L = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022)',
    'tied': 'L = E + A / N^alpha + B / D^alpha (Gadre et al. 2024)',
    'kaplan': 'L = [(Nc / N)^(alphaN / alphaD) + Dc / D]^alphaD (Kaplan et al. 2020)',
    'repeated': "L = E + A / N'^alpha + B / D'^beta, N' and D' worth less by repeats (Muennighoff et al. 2023)",
}
APPROACHES = {'1': '1 envelope', '2': '2 isoFLOP', '3': '3 parametric'}
COUNTS = {
    'as given': "the file's column params; of our own records params_total, embeddings included",
    'total': 'all parameters, embeddings included',
    'non_embedding': 'without token embedding, position table and an untied head',
    'without_positions': 'all parameters but the position table',
}
FLOPS = {
    '6ND': '6 x N x D',
    'column': "the file's column flops",
    'with_attention': '6 per parameter and token, and all of the score matrix',
    'causal': '6 per parameter and token, and the half of the score matrix that a causal mask leaves',
}
MORE = (('seed', 'seed', 'g'), ('bits_per_byte', 'bits/byte', '.4f'), ('seconds', 'seconds', ',.1f'))
OPEN = {'params': '(N)', 'tokens': '(D)'}


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


def percent(log_residual: float) -> str:
    return f'{100 * math.expm1(log_residual):+.2f}%'


def law(result: dict[str, Any]) -> Html:
    if 'fit' not in result:
        return Html('')
    found, intervals = result['fit'], result['intervals']
    first = next(iter(intervals.values()), None)
    level = f'{100 * first["level"]:g}% interval' if first else 'interval'
    rows = [
        [name, f'{value:.5g}', _span(intervals.get(name), '.4g'), result['profiles'].get(name, {}).get('note', '')]
        for name, value in found['constants'].items()
    ]
    said = [
        f'Sum of Huber terms {found["objective"]:.6e} at delta {found["delta"]:.3g}; '
        f'{found["starts_reached"]} of {found["starts"]} searches ended there.'
    ]
    said.append(
        f'Intervals: bootstrap over {first["resampled"]}, {first["draws"]} draws.' if first
        else 'No intervals: the bootstrap was turned off (--draws=0).'
    )  # fmt: skip
    said += [line for line in show.downstream(result['downstream']) if line] if 'downstream' in result else []
    return section(
        'The law',
        paragraph(FORMS[found['law']], 'formula'),
        table(['constant', 'value', level, 'note'], rows, words=['constant', 'note'], long='note'),
        items(said),
    )


def _span(one: dict[str, Any] | None, form: str) -> str:
    return f'{one["low"]:{form}} to {one["high"]:{form}}' if one else ''


def held_out(result: dict[str, Any]) -> Html:
    held = result.get('held_out')
    if not held:
        return Html('')
    if held['note']:
        words = f'{held["runs"]} runs ({held["condition"]}) were not predicted from the rest: {held["note"]}.'
        return section('Held out', paragraph(words))
    rows = [
        [name, f'{held[f"{key}_nats"]:{sign}.4f}', f'{held[f"{key}_percent"]:{sign}.2f}%']
        for name, key, sign in (('mean error', 'mean_absolute', ''), ('bias', 'bias', '+'), ('worst', 'worst', '+'))
    ]
    words = f'{held["runs"]} runs ({held["condition"]}) predicted by a law fitted to the other {held["fitted_runs"]}.'
    return section('Held out', paragraph(words), table(['', 'nats/token', 'of the loss'], rows, words=['']))


def split(result: dict[str, Any]) -> Html:
    """The approaches side by side: exponents, N* and D* at the budgets, the minima, and where they disagree."""
    made = result.get('approaches')
    if made is None:
        return Html('')
    good = {number: one for number, one in made.items() if not one['note']}
    rows = [
        [APPROACHES[n], '' if one['note'] else f'{one["a"]:.3f}', _span(one.get('a_interval'), '.3f'),
         '' if one['note'] else f'{one["b"]:.3f}', one['note']]
        for n, one in made.items()
    ]  # fmt: skip
    budgets = [
        [power(at['flops']), APPROACHES[n], size(at['params']), _sizes(at), size(at['tokens']),
         f'{at["tokens_per_param"]:.3g}', f'{at["loss"]:.4f}']
        for n, one in good.items() for at in one['at']
    ]  # fmt: skip
    budgets.sort(key=lambda row: float(row[0]))
    blocks = [
        paragraph('N* ~ C^a, D* ~ C^b: the parameters and tokens with the lowest loss for their compute.'),
        table(['approach', 'a', '95% interval of a', 'b', 'note'], rows, words=['approach', 'note'], long='note'),
    ]
    if budgets:
        names = ['FLOPs', 'approach', 'N*', '95% interval of N*', 'D*', 'D*/N*', 'loss by the law']
        blocks.append(table(names, budgets, words=['approach']))
    blocks += [_minima(one['minima']) for one in good.values() if 'minima' in one]
    sure = sum(one.get('a_interval') is not None for one in good.values())
    agree = [f'The {sure} approaches with an interval agree on a within them.'] if sure > 1 else []
    return section(
        'How compute is best split', *blocks, items(_sentence(one) for one in result['disagreements'] or agree)
    )


def _sizes(at: dict[str, Any]) -> str:
    return f'{size(at["params_low"])} to {size(at["params_high"])}' if 'params_low' in at else ''


def _minima(made: list[dict[str, Any]]) -> Html:
    rows = [
        [power(one['flops']), size(one['params']), size(one['tokens']), f'{one["loss"]:.4f}', one['note']]
        for one in made
    ]
    names = ['FLOPs', 'N at the minimum', 'D', 'loss', 'note']
    return Html(paragraph('The minimum of each isoFLOP curve:') + table(names, rows, words=['note'], long='note'))


def ladder(result: dict[str, Any]) -> Html:
    """The law in one variable, and how its forecast of the largest run came out."""
    if 'law' not in result:
        return Html('')
    found = laws.from_dict(result['law'])
    said = [f'Through all runs: loss = {laws.formula(found, result["over"])}.']
    said += [_sentence(f'note: {found.note}')] if found.note else []
    said += [_sentence(line) for line in forecast.verdict(result['forecast'])] if 'forecast' in result else [
        f'The largest was not forecast from the others: that takes {forecast.FEWEST} sizes.'
    ]  # fmt: skip
    return section(f'The power law over {result["over"]}', items(said))


def noise(result: dict[str, Any]) -> Html:
    if 'seed_noise' not in result:
        return Html('')
    found = result['seed_noise']
    words = 'No two runs differ in their seed alone, so what the seed moves is not known.'
    if found:
        words = (
            f'The seed alone moves the loss by {100 * found["log_loss_sd"]:.2f}% (one standard deviation, '
            f'{found["degrees_of_freedom"]} degrees of freedom).'
        )
    return section('Noise between seeds', paragraph(words))


def forecasts(scores: dict[str, Any] | None) -> Html:
    """The ledger, scored: what ledger.verify returned."""
    if scores is None:
        return section('Forecasts', paragraph('No ledger of forecasts was given; --ledger=forecasts.jsonl scores one.'))
    rows = []
    for one in scores['scores']:
        there = one['reached'] is not None
        rows.append([
            one['name'], one['date'], f'{one["predicted"]:.4f}', _span(one, '.4f'),
            f'{one["reached"]:.4f}' if there else 'no such run yet', f'{one["percent"]:+.2f}%' if there else '',
            ('inside' if one['inside'] else 'outside') if there else '',
        ])  # fmt: skip
    names = ['run', 'written', 'forecast', 'interval', 'reached', 'forecast over reached', 'of the interval']
    summary = show.verify(scores)[-1] if scores['verified'] or not rows else 'None of these runs has been made yet'
    return section(
        'Forecasts', table(names, rows, words=['run', 'written', 'of the interval']), items([_sentence(summary)])
    )


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
    ratio = f'{d / n:.3g}' if n and d else ''
    return [size(n), size(d), power(c), ratio, '' if loss is None else f'{loss:.4f}', residual]


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


def _sentence(line: str) -> str:
    return f'{line[:1].upper()}{line[1:]}' + ('' if line.endswith('.') else '.')
