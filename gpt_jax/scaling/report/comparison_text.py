"""A comparison of recipes as lines for the terminal."""

import math
from typing import Any

from gpt_jax.scaling.recipe_files import COST_UNITS
from gpt_jax.scaling.report.terminal import format_table

SHOWN_LOSSES = 5
LARGE = 1e4  # multipliers beyond it are written as 'no limit'


def format_comparison(result: dict[str, Any]) -> list[str]:
    """Return the lines for a result of compare_recipes with `files` and `conventions`."""
    recipes, conventions = result['recipes'], result['conventions']
    unit = COST_UNITS[result['by']]
    lines = []
    for recipe, path in zip(recipes, result['files'], strict=True):
        law = recipe['law']
        formula = f'{law["E"]:.4g} + {law["K"]:.4g} C^-{law["gamma"]:.4f}'
        where = f', N* = {law["G"]:.3g} C^{law["a"]:.3f}' if 'G' in law else ' along its line'
        lines.append(f'{recipe["name"]}: {path}')
        lines.append(f'  {recipe["name"]}: loss = {formula}{where}')
    lines.append(
        f'conventions: loss in {conventions["loss"]}, C is {conventions["cost"]}, parameters '
        f'{conventions["parameters"]}'
    )
    for recipe in recipes[1:]:
        if recipe['warning']:
            lines.append(f'warning: {recipe["name"]}: {recipe["warning"]}')
    single = recipes[1]['name']
    if len(recipes) == 2:
        lines.append(f'{unit} of A over {unit} of {single} for the same loss:')
        along = recipes[1]['along']
        losses = along['loss']
        for index in range(0, len(losses), max(1, (len(losses) - 1) // (SHOWN_LOSSES - 1))):
            row = {name: along[name][index] for name in ('multiplier', 'low', 'high')}
            lines.append(f'  loss {losses[index]:.4f}: {_format_multiplier(row)}')
        lines.append(f'  mean over these: {_format_multiplier(recipes[1]["overall"])}')
    lines += _format_points(result, unit)
    if len(recipes) > 2:
        lines += _format_ranking(result, unit)
    return [*lines, *_format_intervals(result)]


def _format_points(result: dict[str, Any], unit: str) -> list[str]:
    """Return a line per recipe at each loss and budget that was asked for."""
    lines = []
    for point in result['at_loss']:
        lines.append(f'at loss {point["loss"]:.4f}{_warn(point)}:')
        for row in point['recipes']:
            text = f'  {row["name"]}: needs {row["cost"]:.3g} {unit}'
            lines.append(text + _format_row(row))
    for point in result['at_cost']:
        lines.append(f'at {point["cost"]:.3g} {unit}{_warn(point)}:')
        for row in point['recipes']:
            text = f'  {row["name"]}: loss {row["loss"]:.4f}'
            if _is_known(row['loss_low']):
                text += f' ({row["loss_low"]:.4f} to {row["loss_high"]:.4f})'
            lines.append(text + _format_row(row))
    return lines


def _format_row(row: dict[str, Any]) -> str:
    text = '' if row['name'] == 'A' else f', A needs {_format_multiplier(row)} as much'
    return text if row['p_best'] is None else f'{text}; best with probability {row["p_best"]:.2f}'


def _warn(point: dict[str, Any]) -> str:
    return (
        ' (beyond the runs: the intervals hold only if the laws do)' if point['is_beyond'] else ''
    )


def _format_ranking(result: dict[str, Any], unit: str) -> list[str]:
    by_name = {recipe['name']: recipe for recipe in result['recipes']}
    at_loss, at_cost = result['at_loss'][-1], result['at_cost'][-1]
    best = [{row['name']: row['p_best'] for row in one['recipes']} for one in (at_loss, at_cost)]
    cells = []
    for name in result['ranking']:
        overall = by_name[name].get('overall')
        multiplier = _format_multiplier(overall) if overall else 'the base'
        chances = ['' if one[name] is None else f'{one[name]:.2f}' for one in best]
        path = result['files'][list(by_name).index(name)]
        cells.append([name, multiplier, *chances, path])
    headings = ['recipe', f'{unit} of A over its own', f'best at {at_loss["loss"]:.4f}']
    headings += [f'best at {at_cost["cost"]:.3g} {unit}', 'file']
    return ['ranking, the best first:', *format_table(headings, cells, left=(0, 1, 4))]


def _format_multiplier(row: dict[str, Any]) -> str:
    text = f'{row["multiplier"]:.3g} times'
    if not _is_known(row['low']):
        return text
    high = f'to {row["high"]:.3g}' if row['high'] < LARGE else 'without an upper limit'
    return f'{text} (from {row["low"]:.3g} {high})'


def _is_known(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


def _format_intervals(result: dict[str, Any]) -> list[str]:
    if result['no_interval']:
        return [f'no intervals: {result["no_interval"]}']
    noise = sorted({f'{100 * level:.2g}%' for level in result['noise']})
    lines = [
        f'intervals: {100 * result["level"]:g}%, {result["draws"]} refits of the laws with new '
        f'noise ({" and ".join(noise)} of the loss, {result["freedom"]:.0f} degrees of freedom)'
    ]
    if result['shared'] and _is_known(result['correlation']):
        lines.append(
            f'  {result["shared"]} configurations are shared: the correlation of their noise is '
            f'{result["correlation"]:.2f}, and what is common cancels'
        )
    if result['shared_exponents']:
        lines.append('  one set of exponents for all recipes')
    if result['is_rejected']:
        lines.append(
            f'  the noise of seeds rejects the laws (chi-square {result["lack_of_fit"]:.3g} per '
            'degree of freedom): the residuals about them count as noise instead'
        )
    if result['failed']:
        lines.append(
            f'  {result["failed"]} of {result["draws"]} refits failed, and count as low and as high'
        )
    return lines
