"""Tables and figure of the simulated coverage."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from experiments.forecast_coverage.worlds import CHINCHILLA
from gpt_jax.scaling.report.figure_style import (
    HELD_OUT_COLOR,
    MEASURED_COLOR,
    RC_PARAMS,
    save_figure,
)

GOAL = (0.90, 0.99)  # coverage of a 95% interval
COLORS = {'gpt_jax': MEASURED_COLOR, 'simple-scaling-laws': HELD_OUT_COLOR}
Row = dict[str, Any]


def find_latest(rows: list[Row]) -> list[Row]:
    """Return the last line of each tool, quantity and cell."""
    names = ('tool', 'quantity', 'design', 'truth', 'noise')
    return list({tuple(row[name] for name in names): row for row in rows}.values())


def compute_coverage(row: Row) -> float:
    """Return the share of the intervals that contain the truth; NaN if there are none."""
    return row['inside'] / row['intervals'] if row['intervals'] else float('nan')


def holds(row: Row) -> bool:
    """Return whether the intervals contain the truth as often as GOAL says, or more often."""
    return compute_coverage(row) >= GOAL[0]


def print_tables(rows: list[Row]) -> None:
    """Print a table per quantity: a line per design, both tools at both noises."""
    noises = sorted({row['noise'] for row in rows})
    for quantity in dict.fromkeys(row['quantity'] for row in rows):
        own = [row for row in rows if row['quantity'] == quantity]
        columns = [(noise, tool) for noise in noises for tool in COLORS]
        heads = [f'{tool}, noise {100 * noise:g}%' for noise, tool in columns]
        print(f'\n| {quantity} | ' + ' | '.join(heads) + ' |\n|' + ' --- |' * (len(heads) + 1))
        for design in dict.fromkeys(row['design'] for row in own):
            of_design = [row for row in own if row['design'] == design]
            cells = [
                format_cells([row for row in of_design if (row['noise'], row['tool']) == column])
                for column in columns
            ]
            print(f'| {design} | ' + ' | '.join(cells) + ' |')
        print('\n' + describe_comparison(quantity, own))


def format_cells(rows: list[Row]) -> str:
    """Return the coverage over all truths and that of the worst, and the widths and errors."""
    given = [row for row in rows if row['intervals']]
    none = sum(row['replicates'] - row['intervals'] for row in rows)
    missing = f'none for {none} of {sum(row["replicates"] for row in rows)}' if none else ''
    if not given:
        return missing
    inside = sum(row['inside'] for row in given) / sum(row['intervals'] for row in given)
    worst = min(map(compute_coverage, given))
    width, error = (
        np.mean([row[f'median_{name}_percent'] for row in given]) for name in ('width', 'error')
    )
    text = f'{100 * inside:.0f}% ({100 * worst:.0f}), {width:.3g}% wide, {error:.2g}% off'
    return ', '.join(filter(None, (text, missing)))


def describe_comparison(quantity: str, rows: list[Row]) -> str:
    """Return how many cells are in the goal, and where both tools hold, which is narrower."""
    lines = []
    for tool in COLORS:
        own = [row for row in rows if row['tool'] == tool and row['intervals']]
        if own:
            shares = np.array([compute_coverage(row) for row in own])
            total = sum(row['inside'] for row in own) / sum(row['intervals'] for row in own)
            within = int(((shares >= GOAL[0]) & (shares <= GOAL[1])).sum())
            lines.append(
                f'{quantity}, {tool}: {100 * total:.1f}% inside; {within} of {len(own)} cells '
                f'in 90 to 99%, {int((shares < GOAL[0]).sum())} below, '
                f'{int((shares > GOAL[1]).sum())} above'
            )
    pairs = find_pairs(rows)
    both = [(ours, peer) for ours, peer in pairs if holds(ours) and holds(peer)]
    if both:
        ratios = np.array([a['median_width_percent'] / b['median_width_percent'] for a, b in both])
        lines.append(
            f'both hold in {len(both)} of {len(pairs)} cells; gpt_jax is narrower in '
            f'{int((ratios < 1).sum())}, with a median ratio of widths of {np.median(ratios):.2f}'
        )
        order = np.argsort(-ratios)
        wider = [
            f'{both[i][0]["design"]}, {both[i][0]["truth"]}, {100 * both[i][0]["noise"]:g}%: '
            f'{ratios[i]:.2f}'
            for i in order
            if ratios[i] > 1
        ]
        if wider:
            lines.append('wider although both hold: ' + '; '.join(wider))
    return '\n'.join(lines)


def find_pairs(rows: list[Row]) -> list[tuple[Row, Row]]:
    """Return the cells that both tools have: (gpt_jax, simple-scaling-laws)."""
    by_cell: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        by_cell.setdefault((row['design'], row['truth'], row['noise']), {})[row['tool']] = row
    ours, peer = COLORS
    return [(tools[ours], tools[peer]) for tools in by_cell.values() if len(tools) == 2]


def draw_figure(rows: list[Row], path: Path) -> list[Path]:
    """Draw the coverage of every cell, by quantity and design, with the goal as a band."""
    rows = [row for row in rows if row['intervals']]
    quantities = list(dict.fromkeys(row['quantity'] for row in rows))
    rows.sort(key=lambda row: quantities.index(row['quantity']))
    lines = list(dict.fromkeys(_label_line(row) for row in rows))
    with matplotlib.rc_context(RC_PARAMS):
        figure = Figure(figsize=(7.2, 0.19 * len(lines) + 1.2), layout='constrained')
        axes = figure.subplots()
        axes.axvspan(100 * GOAL[0], 100 * GOAL[1], color='0.88', lw=0, label='90 to 99%')
        for tool, offset in zip(COLORS, (0.18, -0.18), strict=True):
            own = [row for row in rows if row['tool'] == tool]
            x = [100 * compute_coverage(row) for row in own]
            y = [len(lines) - lines.index(_label_line(row)) + offset for row in own]
            axes.plot(x, y, 'o', ms=3.6, alpha=0.55, mew=0, color=COLORS[tool], label=tool)
        axes.axvline(95, color='black', lw=0.8)
        axes.set_yticks(range(len(lines), 0, -1), lines, fontsize=7.5)
        axes.set_ylim(0.3, len(lines) + 0.7)
        axes.set_xlabel('95% intervals that contain the truth (%), a dot per constant and cell')
        axes.grid(alpha=0.25, lw=0.5)
        axes.legend(frameon=False, loc='lower left', bbox_to_anchor=(0, 1), ncols=3)
        return save_figure(figure, path)


def _label_line(row: Row) -> str:
    quantity = 'constants' if row['quantity'] in CHINCHILLA else row['quantity']
    return f'{quantity}: {row["design"]}'
