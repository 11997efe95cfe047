"""Sections of the HTML report; a function returns None if the result lacks its numbers."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gpt_jax.core.formatting import (
    format_count,
    format_flops,
    format_residual,
    format_tokens_per_param,
    to_sentence,
)
from gpt_jax.scaling import ladder_forecast, power_law
from gpt_jax.scaling.loss_units import label_unit
from gpt_jax.scaling.report import scaling_curve, terminal
from gpt_jax.scaling.report.page import (
    NUMBER,
    TEXT,
    Block,
    BulletList,
    Column,
    Paragraph,
    Section,
    Table,
    TableRow,
    make_table,
)
from gpt_jax.scaling.rollouts import Rollout, summarize_rollouts

Result = Mapping[str, Any]  # from analyze_parametric, analyze_power_law or describe_runs

LAW_EQUATIONS = {
    'chinchilla': 'L = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022)',
    'tied': 'L = E + A / N^alpha + B / D^alpha (Gadre et al. 2024)',
    'kaplan': 'L = [(Nc / N)^(alphaN / alphaD) + Dc / D]^alphaD (Kaplan et al. 2020)',
    'repeated': "L = E + A / N'^alpha + B / D'^beta, with N' and D' reduced by repetition "
    '(Muennighoff et al. 2023)',
    'skaling': 'L = E + A (N^-alpha + R D^-beta)^k (arXiv 2608.07222)',
    'kaplan_offset': 'L = E + [(Nc / N)^(alphaN / alphaD) + Dc / D]^alphaD (Kaplan et al. 2020, '
    'with an irreducible loss)',
    'interaction': 'L = E + A / N^alpha + B / D^beta + G (A / N^alpha) (B / D^beta)',
    'farseer': 'L = exp(a3 N^gamma + b3) + exp(a2 N^beta + b2) D^-exp(a1 N^alpha + b1) '
    '(Li et al. 2025)',
    'experts': 'L = E + A S^delta / N^(alpha + gamma log S) + B S^omega / D^(beta + zeta log S), '
    'with S the expansion by experts (Ludziejewski et al. 2025)',
}
COUNTS = {
    'as given': "the file's column params; for our own records params_total, embeddings included",
    'total': 'all parameters, embeddings included',
    'non_embedding': 'without token embedding, position table and untied head',
    'without_positions': 'all parameters but the position table',
    'active': 'what one token uses: the routed experts chosen for it, and everything else',
    'active_non_embedding': 'the same without token embedding, position table and untied head',
}
FLOPS = {
    '6ND': '6 x N x D',
    'column': "the file's column flops",
    'with_attention': '6 per parameter and token, and all of the score matrix',
    'causal': '6 per parameter and token, and the half of the score matrix that a causal mask '
    'keeps',
}
LOSS_UNITS = {
    'nats/token': 'nats per token, natural logarithm',
    'bits/byte': 'bits per byte of text',
}
EXTRA_COLUMNS = (  # key in the records, heading, format
    ('seed', 'seed', 'g'),
    ('bits_per_byte', 'bits/byte', '.4f'),
    ('seconds', 'seconds', ',.1f'),
)


def make_summary(result: Result, scores: Result | None, why: str) -> list[Block]:
    """Return the number of runs, their ranges, and the main findings in one line each."""
    runs, dropped = result['residuals'], len(result['left_out'])
    ranges = ', '.join(
        _format_range(format_value(min(runs[name])), format_value(max(runs[name])), unit)
        for name, format_value, unit in (
            ('params', format_count, 'parameters'),
            ('tokens', format_count, 'tokens'),
            ('flops', format_flops, 'FLOPs'),
        )
    )
    rows = 'row' if dropped == 1 else 'rows'
    text = f'{result["data"]["runs"]} runs fitted, {dropped} {rows} left out: {ranges}.'
    blocks: list[Block] = [Paragraph(text)]
    if why:
        blocks.append(Paragraph(why))
    return [*blocks, BulletList(_list_findings(result, scores))]


def _get_unit(result: Result) -> str:
    return label_unit(result['data']['loss_unit'])


def _list_findings(result: Result, scores: Result | None) -> list[str]:
    runs = result['residuals']
    best = int(np.argmin(runs['loss']))
    lowest = f'{runs["loss"][best]:.4f} {_get_unit(result)}'
    lines = [f'The lowest loss is {lowest}, of {runs["name"][best]}.']
    if 'fit' in result and result['fit']['law'] in ('chinchilla', 'tied'):
        c = result['fit']['constants']
        beta = c.get('beta', c['alpha'])
        lines.append(
            f'L = {c["E"]:.4g} + {c["A"]:.4g} / N^{c["alpha"]:.4f} + {c["B"]:.4g} / D^{beta:.4f}.'
        )
    if 'held_out' in result and not result['held_out']['note']:
        held_out = result['held_out']
        lines.append(
            f'Runs held out ({held_out["condition"]}) were predicted within '
            f'{abs(held_out["worst_percent"]):.2f}%.'
        )
    if 'forecast' in result:
        finding = scaling_curve.make_forecast_title(result['forecast'])
        lines.append(f'{finding}.'.replace('\n', ' '))
    for number, split in result.get('approaches', {}).items():
        if not split['note']:
            exponents = f'N* ~ C^{split["a"]:.3f}, D* ~ C^{split["b"]:.3f}'
            lines.append(f'Approach {terminal.APPROACH_TITLES[number]}: {exponents}.')
    if scores and scores['verified']:
        lines.append(
            f'{scores["inside"]} of {scores["verified"]} verified forecasts were inside their '
            'intervals.'
        )
    return lines


def _format_range(low: str, high: str, unit: str) -> str:
    return f'{low} {unit}' if low == high else f'{low} to {high} {unit}'


def make_law_section(result: Result) -> Section | None:
    """Return the law over parameters and tokens: equation, constants, how it was fitted."""
    if 'fit' not in result:
        return None
    fit, intervals, profiles = result['fit'], result['intervals'], result['profiles']
    rows = [
        [
            name,
            f'{value:.5g}',
            _format_interval(intervals.get(name), '.4g'),
            profiles.get(name, {}).get('note', ''),
        ]
        for name, value in fit['constants'].items()
    ]
    lines = [
        f'Sum of Huber terms {fit["objective"]:.6e} at delta {fit["delta"]:.3g}; '
        f'{fit["starts_reached"]} of {fit["starts"]} searches ended there.'
    ]
    interval_heading = 'interval'
    if intervals:
        first = next(iter(intervals.values()))
        interval_heading = f'{100 * first["level"]:g}% interval'
        failed = f', {result["failed_draws"]} failed' if result['failed_draws'] else ''
        lines.append(f'Intervals: {first["draws"]} draws{failed}; drawn: {first["resampled"]}.')
    else:
        lines.append(to_sentence(result['resampled']))
    lines += map(to_sentence, terminal.describe_lack_of_fit(result))
    if result['design_gap']:
        lines.append(to_sentence(result['design_gap']))
    if 'downstream' in result:
        lines += [line for line in terminal.format_downstream(result['downstream']) if line]
    headings = ['constant', 'value', interval_heading, 'note']
    equation = LAW_EQUATIONS.get(fit['law'], fit['law'])  # a law given as a dotted path has no text
    blocks: list[Block] = [
        Paragraph(equation, 'formula'),
        make_table(headings, rows, text_columns=['constant', 'note'], long_column='note'),
        BulletList(lines),
    ]
    test = result['lack_of_fit']
    is_rejected = bool(test and test['rejected'])
    return Section('A description of the runs' if is_rejected else 'The law', blocks)


def _format_interval(interval: Result | None, spec: str) -> str:
    return f'{interval["low"]:{spec}} to {interval["high"]:{spec}}' if interval else ''


def make_power_law_section(result: Result) -> Section | None:
    """Return the law over one variable, and the outcome of its forecast of the largest run."""
    if 'law' not in result:
        return None
    law = power_law.law_from_dict(result['law'])
    lines = [f'Through all runs: loss = {power_law.format_law(law, result["over"])}.']
    if law.note:
        lines.append(to_sentence(f'note: {law.note}'))
    if 'forecast' in result:
        lines += map(to_sentence, ladder_forecast.describe_forecast(result['forecast']))
    else:
        lines.append(
            'The largest was not forecast from the others: that needs '
            f'{ladder_forecast.MIN_SIZES} sizes.'
        )
    return Section(f'The power law over {result["over"]}', [BulletList(lines)])


def make_held_out_section(result: Result) -> Section | None:
    """Return the errors of the prediction of held-out runs."""
    held_out = result.get('held_out')
    if not held_out:
        return None
    runs = f'{held_out["runs"]} run' + ('' if held_out['runs'] == 1 else 's')
    text = f'Held out: {held_out["condition"]}, {runs}; '
    if held_out['note']:
        text += f'not predicted from the rest: {held_out["note"]}.'
        return Section('Held out', [Paragraph(text)])
    text += f'predicted from the other {held_out["fitted_runs"]}.'
    rows = [
        [name, f'{held_out[f"{key}_nats"]:{sign}.4f}', f'{held_out[f"{key}_percent"]:{sign}.2f}%']
        for name, key, sign in (
            ('mean error', 'mean_absolute', ''),
            ('bias', 'bias', '+'),
            ('worst', 'worst', '+'),
        )
    ]
    table = make_table(['', _get_unit(result), 'of the loss'], rows, text_columns=[''])
    by_auto = [to_sentence(line.strip()) for line in terminal.describe_held_out_by_auto(held_out)]
    return Section(
        'Held out', [Paragraph(text), table, *([BulletList(by_auto)] if by_auto else [])]
    )


def make_rollouts_section(rollouts: list[Rollout], why: str) -> Section:
    """Return how good forecasts of these runs from the smaller ones would have been."""
    title = 'Backtest'
    if not rollouts:
        return Section(title, [Paragraph(to_sentence(f'no rollouts: {why}'))])
    text = (
        'For several amounts of compute, the runs up to it were fitted and larger ones forecast. '
        'The interval score is the width of the 95% interval plus 40 times the distance of a loss '
        'outside of it, in percent of the loss: the smaller, the better. The forecasts of one '
        'amount share their fit, so they are not independent trials.'
    )
    headings, cells = terminal.tabulate_backtest(summarize_rollouts(rollouts))
    table = make_table(headings, cells, text_columns=['law'])
    return Section(title, [Paragraph(text), table])


def make_split_section(result: Result) -> Section | None:
    """Return the approaches side by side: exponents, N* and D* at the budgets, disagreements."""
    approaches = result.get('approaches')
    if approaches is None:
        return None
    estimated = {number: split for number, split in approaches.items() if not split['note']}
    blocks: list[Block] = [
        Paragraph(
            'N* ~ C^a, D* ~ C^b: the parameters and tokens with the lowest loss for their compute.'
        ),
        _make_exponents_table(approaches),
    ]
    budgets = [
        [
            format_flops(optimum['flops']),
            terminal.APPROACH_TITLES[number],
            format_count(optimum['params']),
            _format_params_interval(optimum),
            format_count(optimum['tokens']),
            format_tokens_per_param(optimum['tokens'], optimum['params']),
            f'{optimum["loss"]:.4f}',
        ]
        for number, split in estimated.items()
        for optimum in split['at']
    ]
    if budgets:
        budgets.sort(key=lambda row: float(row[0]))
        headings = ['FLOPs', 'approach', 'N*', '95% interval of N*', 'D*', 'D*/N*']
        headings.append('loss by the law')
        blocks.append(make_table(headings, budgets, text_columns=['approach']))
    for split in estimated.values():
        if 'minima' in split:
            blocks.append(Paragraph('The minimum of each isoFLOP curve:'))
            blocks.append(_make_minima_table(split['minima']))
    with_interval = sum(split.get('a_interval') is not None for split in estimated.values())
    lines = list(map(to_sentence, result['disagreements']))
    if not lines and with_interval > 1:
        lines = [f'The intervals of a overlap for all {with_interval} approaches that have one.']
    return Section('Compute-optimal split', [*blocks, BulletList(lines)])


def _make_exponents_table(approaches: Result) -> Table:
    rows = [
        [
            terminal.APPROACH_TITLES[number],
            '' if split['note'] else f'{split["a"]:.3f}',
            _format_interval(split.get('a_interval'), '.3f'),
            '' if split['note'] else f'{split["b"]:.3f}',
            split['note'],
        ]
        for number, split in approaches.items()
    ]
    headings = ['approach', 'a', '95% interval of a', 'b', 'note']
    return make_table(headings, rows, text_columns=['approach', 'note'], long_column='note')


def _format_params_interval(optimum: Result) -> str:
    if 'params_low' not in optimum:
        return ''
    return f'{format_count(optimum["params_low"])} to {format_count(optimum["params_high"])}'


def _make_minima_table(minima: list[dict[str, Any]]) -> Table:
    rows = [
        [
            format_flops(minimum['flops']),
            format_count(minimum['params']),
            format_count(minimum['tokens']),
            f'{minimum["loss"]:.4f}',
            minimum['note'],
        ]
        for minimum in minima
    ]
    headings = ['FLOPs', 'N at the minimum', 'D', 'loss', 'note']
    return make_table(headings, rows, text_columns=['note'], long_column='note')


def make_noise_section(result: Result) -> Section | None:
    """Return how much the seed alone changes the loss."""
    if 'seed_noise' not in result:
        return None
    noise = result['seed_noise']
    text = 'No two runs differ in their seed alone, so the noise between seeds is unknown.'
    if noise:
        text = (
            f'The seed alone moves the loss by {100 * noise["log_loss_sd"]:.2f}% (one standard '
            f'deviation, {noise["degrees_of_freedom"]} degrees of freedom).'
        )
    return Section('Noise between seeds', [Paragraph(text)])


def make_forecasts_section(scores: Result | None) -> Section:
    """Return the scored ledger.

    Args:
      scores: the result of forecast_ledger.verify_forecasts; None if there is no ledger.
    """
    if scores is None:
        return Section('Forecasts', [Paragraph('No ledger of forecasts was given.')])
    rows = []
    for score in scores['scores']:
        row = [score['name'], score['date'], f'{score["predicted"]:.4f}']
        row.append(_format_interval(score, '.4f'))
        if score['reached'] is None:
            row += ['no such run yet', '', '']
        else:
            row += [f'{score["reached"]:.4f}', f'{score["percent"]:+.2f}%']
            row.append('inside' if score['inside'] else 'outside')
        rows.append(row)
    headings = ['run', 'written', 'forecast', 'interval', 'reached', 'forecast over reached']
    headings.append('of the interval')
    table = make_table(headings, rows, text_columns=['run', 'written', 'of the interval'])
    summary = 'None of these runs exists yet'
    if scores['verified'] or not rows:
        summary = terminal.format_verification(scores)[-1]
    return Section('Forecasts', [table, BulletList([to_sentence(summary)])])


def make_runs_section(result: Result, records: list[dict[str, Any]]) -> Section:
    """Return every row of the file, with the index of fitted runs for the figures' marks."""
    index_of_row = {row: index for index, row in enumerate(result['residuals']['row'])}
    dropped = {row['row']: row for row in result['left_out']}
    extra = [
        (key, heading, spec)
        for key, heading, spec in EXTRA_COLUMNS
        if any(_parse_number(record.get(key)) is not None for record in records)
    ]
    rows = []
    for number, record in enumerate(records, 1):
        index = index_of_row.get(number)
        if index is None:
            name, status = dropped[number]['name'], f'left out: {dropped[number]["reason"]}'
        else:
            name, status = result['residuals']['name'][index], 'fitted'
        cells = [str(number), name, *_format_run(result['residuals'], index, record)]
        cells += [_format_number(record.get(key), spec) for key, _, spec in extra]
        rows.append(TableRow([*cells, status], 'gone' if index is None else '', index))
    columns = [Column('row'), Column('name', TEXT, tip='')]
    tips = ('N', 'D', 'C', 'D/N', 'loss', 'measured over law')
    columns += [Column(name, NUMBER, tip=name) for name in tips]
    columns += [Column(heading) for _, heading, _ in extra]
    table = Table([*columns, Column('status', 'long')], rows)
    text = (
        f'{len(records)} rows; in the figures, point at a run, tap it, or step through the runs '
        'with the arrow keys.'
    )
    return Section('Runs', [Paragraph(text), table])


def _format_run(fitted: Result, index: int | None, record: Result) -> list[str]:
    """Format the cells of N, D, C, D/N, loss and residual."""
    names = 'params', 'tokens', 'flops', 'loss'
    residual = ''
    if index is None:
        n, d, c, loss = (_parse_number(record.get(name)) for name in names)
        c = 6 * n * d if c is None and n and d else c
    else:
        n, d, c, loss = (fitted[name][index] for name in names)
        if 'log_residual' in fitted:
            residual = format_residual(fitted['log_residual'][index])
    return [
        format_count(n),
        format_count(d),
        format_flops(c),
        format_tokens_per_param(d, n),
        '' if loss is None else f'{loss:.4f}',
        residual,
    ]


def _parse_number(value: Any) -> float | None:
    """Return a finite number; None for anything else, which rows left out may contain."""
    try:
        number = float(value.replace('_', '') if isinstance(value, str) else value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _format_number(value: Any, spec: str) -> str:
    number = _parse_number(value)
    return '' if number is None else format(number, spec)


def make_left_out_section(result: Result) -> Section:
    """Return the rows that were not fitted, with the reasons."""
    rows = [[str(row['row']), row['name'], row['reason']] for row in result['left_out']]
    notes = [BulletList([to_sentence(note) for note in result['notes']])] if result['notes'] else []
    if not rows:
        return Section('Left out', [Paragraph('None: all rows were fitted.'), *notes])
    headings = ['row', 'name', 'reason']
    table = make_table(headings, rows, text_columns=['name', 'reason'], long_column='reason')
    return Section('Left out', [table, *notes])


def make_conventions_section(result: Result) -> Section:
    """Return the conventions by which the file's numbers are counted."""
    data = result['data']
    count, flops = data['count'], data['flops']
    rows = [
        ['file', data['file']],
        ['SHA-256', data['sha256']],
        ['N', f'{count}: {COUNTS.get(count, "a column of the file")}'],
        ['D', 'tokens trained on, repeats counted'],
        ['C', f'{flops}: {FLOPS.get(flops, "a column of the file")}'],
        ['loss', LOSS_UNITS[_get_unit(result)]],
        ['measured over law', 'the measured loss over the loss by the law, minus 1'],
    ]
    splits = [split for split in result.get('approaches', {}).values() if not split['note']]
    if splits:
        cost = splits[0]['cost']
        rows.append(['cost', f'C = {cost["k"]:.4g} N^{cost["p"]:.4g} D, fitted to these runs'])
    headings = ['what', 'how it is counted']
    table = make_table(headings, rows, text_columns=['what'], long_column='how it is counted')
    return Section('Conventions', [table])
