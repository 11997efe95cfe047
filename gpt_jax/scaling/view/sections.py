"""What does a report say, part by part? One function, one section; '' where its numbers are not there."""

from typing import Any

import numpy as np

from gpt_jax.scaling import forecast, laws
from gpt_jax.scaling.view import plots, show
from gpt_jax.scaling.view.page import Html, items, paragraph, section, table
from gpt_jax.scaling.words import power, ratio, sentence, size

FORMS = {
    'chinchilla': 'L = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022)',
    'tied': 'L = E + A / N^alpha + B / D^alpha (Gadre et al. 2024)',
    'kaplan': 'L = [(Nc / N)^(alphaN / alphaD) + Dc / D]^alphaD (Kaplan et al. 2020)',
    'repeated': "L = E + A / N'^alpha + B / D'^beta, N' and D' worth less by repeats (Muennighoff et al. 2023)",
}
APPROACHES = {'1': '1 envelope', '2': '2 isoFLOP', '3': '3 parametric'}


def head(result: dict[str, Any], scores: dict[str, Any] | None, why: str) -> Html:
    """What there is, and the main findings in a line each."""
    runs, many = result['residuals'], len(result['left_out'])
    spans = [
        _between([form(pick(runs[name])) for pick in (min, max)], unit)
        for name, form, unit in (('params', size, 'parameters'), ('tokens', size, 'tokens'), ('flops', power, 'FLOPs'))
    ]
    best = int(np.argmin(runs['loss']))
    said = [f'The lowest loss is {runs["loss"][best]:.4f} nats/token, of {runs["name"][best]}.']
    if 'fit' in result and result['fit']['law'] in ('chinchilla', 'tied'):
        c = result['fit']['constants']
        said.append(
            f'L = {c["E"]:.4g} + {c["A"]:.4g} / N^{c["alpha"]:.4f} + {c["B"]:.4g} / D^{c.get("beta", c["alpha"]):.4f}.'
        )
    if 'held_out' in result and not result['held_out']['note']:
        held = result['held_out']
        said.append(f'Runs held out ({held["condition"]}) were predicted within {abs(held["worst_percent"]):.2f}%.')
    if 'forecast' in result:
        said.append(f'{plots.finding(result["forecast"])}.'.replace('\n', ' '))
    for number, one in result.get('approaches', {}).items():
        if not one['note']:
            said.append(f'Approach {APPROACHES[number]}: N* ~ C^{one["a"]:.3f}, D* ~ C^{one["b"]:.3f}.')
    if scores and scores['verified']:
        said.append(f'{scores["inside"]} of {scores["verified"]} forecasts that came due were inside their intervals.')
    words = (
        f'{result["data"]["runs"]} runs fitted, {many} {"row" if many == 1 else "rows"} left out: {", ".join(spans)}.'
    )
    return Html(paragraph(words) + (paragraph(why) if why else '') + items(said))


def _between(ends: list[str], unit: str) -> str:
    return f'{ends[0]} {unit}' if ends[0] == ends[1] else f'{ends[0]} to {ends[1]} {unit}'


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


def _runs(count: int) -> str:
    return f'{count} run' if count == 1 else f'{count} runs'


def _span(one: dict[str, Any] | None, form: str) -> str:
    return f'{one["low"]:{form}} to {one["high"]:{form}}' if one else ''


def held_out(result: dict[str, Any]) -> Html:
    held = result.get('held_out')
    if not held:
        return Html('')
    if held['note']:
        words = f'Held out: {held["condition"]}, {_runs(held["runs"])}; not predicted from the rest: {held["note"]}.'
        return section('Held out', paragraph(words))
    rows = [
        [name, f'{held[f"{key}_nats"]:{sign}.4f}', f'{held[f"{key}_percent"]:{sign}.2f}%']
        for name, key, sign in (('mean error', 'mean_absolute', ''), ('bias', 'bias', '+'), ('worst', 'worst', '+'))
    ]
    words = f'Held out: {held["condition"]}, {_runs(held["runs"])}; predicted from the other {held["fitted_runs"]}.'
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
         ratio(at['tokens'], at['params']), f'{at["loss"]:.4f}']
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
    agree = [f'The intervals of a overlap for all {sure} approaches that have one.'] if sure > 1 else []
    return section(
        'How compute is best split', *blocks, items(sentence(one) for one in result['disagreements'] or agree)
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
    said += [sentence(f'note: {found.note}')] if found.note else []
    said += [sentence(line) for line in forecast.verdict(result['forecast'])] if 'forecast' in result else [
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
        return section('Forecasts', paragraph('No ledger of forecasts was given.'))
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
        'Forecasts', table(names, rows, words=['run', 'written', 'of the interval']), items([sentence(summary)])
    )
