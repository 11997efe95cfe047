"""Results as lines for the terminal, with intervals and conventions, and the table printer."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpt_jax.core import files
from gpt_jax.scaling import analysis, broken_law, ladder_forecast, power_law
from gpt_jax.scaling.loss_units import label_unit

Result = Mapping[str, Any]

MAX_LEFT_OUT_LINES = 12  # --json has all rows
APPROACH_TITLES = {'1': '1 envelope', '2': '2 isoFLOP', '3': '3 parametric', 'auto': 'auto'}
MAX_EQUAL_LINES = 3  # rows left out for one reason
FAR_EXTRAPOLATION = 100  # times the compute of the largest run
# Key in the records, heading, format. A heading states its convention, without which numbers cannot
# be compared.
TRIAL_COLUMNS = (
    ('name', 'size', 's'),
    ('params_non_embedding', 'parameters (non-embedding)', ',d'),
    ('tokens', 'tokens', ',d'),
    ('flops_with_attention', 'FLOPs (6N + attention)', '.2e'),
    ('validation_loss', 'validation loss (nats/token)', '.4f'),
    ('bits_per_byte', 'bits/byte', '.4f'),
    ('seconds', 'seconds', ',.1f'),
)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines to standard output."""
    for line in lines:
        print(line)


def print_figure_paths(paths: Iterable[Path]) -> None:
    """Print where figures were written."""
    print_lines(f'figure: {path}' for path in paths)


def write_numbers(result: Any, path: str | None) -> None:
    """Write a result as JSON and print the path; do nothing without a path."""
    if path:
        files.write_json(path, analysis.nan_to_none(result))
        print(f'numbers: {path}')


def format_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], *, left: Sequence[int] = (0,)
) -> list[str]:
    """Return a table as aligned lines: headings, a rule, and the rows.

    Args:
      headings: headings of the columns.
      rows: cells, already formatted.
      left: indices of columns that are aligned left; all others are aligned right.
    """
    cells = [list(headings), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ['-' * width for width in widths])
    return [
        '  '.join(
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]


def format_trials(records: list[dict[str, Any]]) -> str:
    """Return the records of a sweep as a table, smallest model first.

    A missing value is a dash, and an unfinished trial shows its status.
    """
    records = sorted(records, key=lambda record: record.get('params_non_embedding') or math.inf)
    headings = [heading for _, heading, _ in TRIAL_COLUMNS]
    rows = [
        [_format_cell(record, key, spec) for key, _, spec in TRIAL_COLUMNS] for record in records
    ]
    return '\n'.join(format_table(headings, rows))


def _format_cell(record: dict[str, Any], key: str, spec: str) -> str:
    value = record.get(key)
    if key == 'name':
        status = record.get('status', 'done')
        return f'{value}' if status == 'done' else f'{value} ({status})'
    if value is None:
        return '-'
    return format(int(value) if spec.endswith('d') else value, spec)


def format_fit(result: dict[str, Any]) -> list[str]:
    """Return the lines for a result of analyze_parametric."""
    fit, intervals = result['fit'], result['intervals']
    unit = label_unit(result['data']['loss_unit'])
    lines = [
        *_format_source(result),
        f'law {fit["law"]}, {_describe_objective(fit)}, '
        f'{fit["starts_reached"]} of {fit["starts"]} starts reached it',
    ]
    for name, value in fit['constants'].items():
        lines.append(f'  {name:8s}{value:#12.5g}{_format_interval(intervals.get(name))}')
    if fit['law'] == 'tied':
        lines.append(_format_tied(fit['constants']))
    lines += [f'  {profile["note"]}' for profile in result['profiles'].values() if profile['note']]
    noise = result['seed_noise']
    if noise:
        lines.append(
            f'seed noise: {100 * noise["log_loss_sd"]:.2f}% of the loss, '
            f'{noise["degrees_of_freedom"]} degrees of freedom'
        )
    lines += describe_lack_of_fit(result)
    if intervals:
        first = next(iter(intervals.values()))
        failed = f', {result["failed_draws"]} failed' if result['failed_draws'] else ''
        lines.append(
            f'intervals: {100 * first["level"]:g}%, {first["draws"]} draws{failed}; '
            f'drawn: {first["resampled"]}'
        )
    else:
        lines.append(result['resampled'])
    if result['design_gap']:
        lines.append(result['design_gap'])
    lines += ['', *_format_held_out(result['held_out'], unit)]
    if 'approaches' in result:
        lines += ['', 'compute-optimal split: N* ~ C^a, D* ~ C^b']
        for number, split in result['approaches'].items():
            lines += _format_split(APPROACH_TITLES[number], split)
        lines += result['disagreements']
    return lines


def describe_lack_of_fit(result: Result) -> list[str]:
    """Return a line that says whether the noise between seeds rejects the law; [] without seeds."""
    test = result['lack_of_fit']
    if not test:
        return []
    words = (
        f'lack of fit: chi-square per degree of freedom {test["chi_square_per_dof"]:.3g} '
        f'({test["degrees_of_freedom"]} and {test["noise_degrees_of_freedom"]} degrees of freedom)'
    )
    if test['rejected']:
        words += (
            f': the noise between seeds rejects the form {result["fit"]["law"]}; its constants '
            'summarize these runs and are not those of a law'
        )
    return [words]


def _describe_objective(fit: Result) -> str:
    of = '' if fit['residual'] == 'log' else ' of the loss itself'
    if math.isinf(fit['delta']):
        return f'half the sum of squares{of} {fit["objective"]:.6e}'
    return f'sum-Huber objective{of} {fit["objective"]:.6e} (delta {fit["delta"]:.3g})'


def _format_tied(constants: Mapping[str, float]) -> str:
    """Format the constants as Gadre et al. 2024 define them, with C = 6 N D."""
    eta = constants['alpha'] / 2
    a, b = (constants[name] * 6**eta for name in ('A', 'B'))
    return (
        f'  as E + (a M^eta + b M^-eta) C^-eta with M = D/N and C = 6ND: eta {eta:.5g}, a {a:.5g}, '
        f'b {b:.5g}'
    )


def _format_source(result: Result) -> list[str]:
    """Format the file with its conventions, and the rows left out."""
    data = result['data']
    return [
        f'{data["file"]}: {_count_runs(data)}; N: {data["count"]}, C: {data["flops"]}',
        *format_notes(result['notes']),
        *format_left_out(result['left_out']),
        '',
    ]


def _count_runs(data: Result) -> str:
    rows, runs = data['rows'], data['runs']
    words = f'{runs} run{"" if runs == 1 else "s"}'
    return words if rows == runs else f'{rows} rows of {words}'


def format_notes(notes: Iterable[str]) -> list[str]:
    """Return a line for each note on how the runs were read."""
    return [f'  note: {note}' for note in notes]


def format_left_out(rows: list[dict[str, Any]]) -> list[str]:
    """Return lines for the rows that were not fitted: one per row, or per reason of many rows."""
    by_reason: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_reason.setdefault(row['reason'], []).append(row)
    lines = []
    for reason, group in by_reason.items():
        if len(group) > MAX_EQUAL_LINES:
            first = ', '.join(str(row['row']) for row in group[:MAX_EQUAL_LINES])
            lines.append(f'  left out: {len(group)} rows ({first}, ...): {reason}')
        else:
            lines += [f'  left out: row {row["row"]} ({row["name"]}): {reason}' for row in group]
    more = len(lines) - MAX_LEFT_OUT_LINES
    end = [f'  and {more} more lines; --json lists all rows'] if more > 0 else []
    return lines[:MAX_LEFT_OUT_LINES] + end


def _format_interval(interval: Result | None) -> str:
    return f'   from {interval["low"]:#.4g} to {interval["high"]:#.4g}' if interval else ''


def _format_held_out(held_out: Result, unit: str) -> list[str]:
    condition, runs = held_out['condition'], held_out['runs']
    if held_out['note']:
        return [f'held out ({condition}, {runs} runs): not predicted: {held_out["note"]}']
    nats = {name: held_out[f'{name}_nats'] for name in ('mean_absolute', 'bias', 'worst')}
    percent = {name: held_out[f'{name}_percent'] for name in nats}
    return [
        f'held out ({condition}): {_count_runs(held_out)} predicted from the other '
        f'{held_out["fitted_runs"]}',
        f'  mean error {nats["mean_absolute"]:.4f} {unit} ({percent["mean_absolute"]:.2f}%), '
        f'bias {nats["bias"]:+.4f} ({percent["bias"]:+.2f}%), '
        f'worst {nats["worst"]:+.4f} ({percent["worst"]:+.2f}%)',
        *describe_held_out_by_auto(held_out),
    ]


def describe_held_out_by_auto(held_out: Result) -> list[str]:
    """Return a line on the errors of the posterior on the held-out runs; [] without it."""
    auto = held_out.get('auto')
    if not auto or auto['note']:
        return []
    return [
        f'  by auto: mean error {auto["mean_absolute_percent"]:.2f}%, bias '
        f'{auto["bias_percent"]:+.2f}%; {auto["inside"]} of {held_out["rows"]} inside the 95% '
        'intervals'
    ]


def _format_split(title: str, split: Result) -> list[str]:
    """Format one approach to the compute-optimal split, with N* and D* at the budgets."""
    if split['note']:
        return [f'  {title:14s}{split["note"]}']
    a, b = f'{split["a"]:.3f}', f'{split["b"]:.3f}'
    lines = [
        f'  {title:14s}a {a}{_format_interval(split["a_interval"])}   b {b}',
        f'    N* = {split["n_coefficient"]:.4g} C^{a}, D* = {split["d_coefficient"]:.4g} C^{b}',
    ]
    if split.get('points', {}).get('between_runs'):
        lines.append(
            '    fewer than two budgets have enough sizes, by these FLOPs: curves are interpolated '
            'between the runs of each size'
        )
    if split.get('no_interval'):
        lines.append(f'    {split["no_interval"]}')
    if split.get('between_runs'):
        lines.append(
            '    where the curves of two sizes cross, interpolated between the runs of each size'
        )
    if split.get('budgets_left_out'):
        budgets = ', '.join(f'{flops:.3g}' for flops in split['budgets_left_out'])
        lines.append(
            f'    left out: {budgets} FLOPs, whose best size is the smallest or the largest there'
        )
    lines += [
        f'    {minimum["flops"]:.3g} FLOPs: {minimum["note"]}'
        for minimum in split.get('minima', [])
        if minimum['note']
    ]
    for optimum in split['at']:
        interval = ''
        if 'params_low' in optimum:
            interval = f' (from {optimum["params_low"]:.3g} to {optimum["params_high"]:.3g})'
        lines.append(
            f'    at {optimum["flops"]:.3g} FLOPs: N* {optimum["params"]:.4g}{interval}, '
            f'D* {optimum["tokens"]:.4g}, D/N {optimum["tokens_per_param"]:.3g}, '
            f'loss {optimum["loss"]:.4f}'
            f'{"" if optimum.get("identified", True) else "; not identified"}'
        )
    if 'akima' in split:
        sizes = [
            f', at {optimum["flops"]:.3g} FLOPs N* {optimum["params"]:.4g}'
            for optimum in split['akima']['at']
        ]
        lines.append(f'    by Akima interpolation: a {split["akima"]["a"]:.3f}{"".join(sizes)}')
    return lines


def format_power_fit(result: dict[str, Any], over: str) -> list[str]:
    """Return the lines for a result of analyze_power_law over the variable `over`."""
    law = power_law.law_from_dict(result['law'])
    lines = [
        *_format_source(result),
        f'loss = {power_law.format_law(law, over)}, objective {law.objective:.6e}, '
        f'{law.starts_reached} of {law.starts} starts reached it',
    ]
    lines += [
        f'  {name:12s}{getattr(law, name):#12.5g}{_format_interval(interval)}'
        for name, interval in result['intervals'].items()
    ]
    if law.note:
        lines.append(f'note: {law.note}')
    if 'forecast' in result:
        lines += ['', *ladder_forecast.describe_forecast(result['forecast'])]
    return lines


def format_broken_fit(result: dict[str, Any], over: str) -> list[str]:
    """Return the lines for a result of analyze_broken_law over the variable `over`."""
    law = broken_law.BrokenLaw(**result['law'])
    residual = np.array(result['residuals']['log_residual'])
    lines = [
        *_format_source(result),
        f'loss = {broken_law.format_law(law, over)}, objective {law.objective:.6e}, '
        f'{law.starts_reached} of {law.starts} starts reached it',
        f'residuals: rms {100 * math.sqrt(float(np.mean(residual**2))):.2f}% of the loss',
        *(f'  {name:12s}{value:#12.5g}' for name, value in law.constants.items()),
    ]
    if 'held_out' in result:
        x, reached, predicted = (result['held_out'][k] for k in ('x', 'reached', 'predicted'))
        error = 100 * (predicted / reached - 1)
        lines.append(
            f'without the largest: {predicted:.4f} at {x:.4g}, reached {reached:.4f}: {error:+.2f}%'
        )
    return lines


def format_downstream(result: dict[str, Any]) -> list[str]:
    """Return the lines for the law of downstream error over loss."""
    law = f'{result["eps"]:.4g} - {result["k"]:.4g} exp(-{result["gamma"]:.4g} loss)'
    return [
        '',
        f'downstream: error = {law}, rms {result["rms_error"]:.4f} over {result["runs"]} runs',
        *(
            f'  {name:8s}{result[name]:#12.5g}{_format_interval(interval)}'
            for name, interval in result['intervals'].items()
        ),
    ]


def format_plan(result: dict[str, Any]) -> list[str]:
    """Return the lines for the plan of one compute-optimal model."""
    shape = result['shape']
    lines = [
        f'law: {result["law"]["source"]}; N counted as {result["count"]}',
        f'budget {result["flops"]:.4g} FLOPs: '
        f'N* {result["params"]:.4g}{_format_range(result, "params")}, '
        f'D* {result["tokens"]:.4g}{_format_range(result, "tokens")}, '
        f'D/N {result["tokens_per_param"]:.3g}, '
        f'loss {result["loss"]:.4f}{_format_range(result, "loss")}',
        *describe_rollouts(result.get('rollouts')),
        *([result['design_gap']] if result['design_gap'] else []),
        '',
        f'nearest shape: {shape["layers"]} layers, {shape["width"]} wide, {shape["heads"]} heads '
        f'of {shape["width"] // shape["heads"]}, context {shape["context"]:,}, '
        f'vocabulary {shape["vocab"]:,}',
    ]
    lines += [
        f'  parameters {name:22s}{value:>22,}' for name, value in result['shape_params'].items()
    ]
    lines += [f'  FLOPs {name:27s}{value:>22.4e}' for name, value in result['shape_flops'].items()]
    price = f', {result["cost"]:,.0f} at that price' if result['cost'] is not None else ''
    return [
        *lines,
        f'{result["shape_tokens"]:,} tokens in {result["steps"]:,} steps of {result["batch"]} '
        f'sequences, peak rate {result["learning_rate"]:.2e} (DeepSeek-AI 2024); '
        f'loss {result["shape_loss"]:.4f}',
        f'{result["hours"]:,.1f} hours on {result["devices"]} x {result["device"]} at '
        f'{100 * result["utilization"]:g}% of its peak{price}',
    ]


def _format_range(result: Result, name: str) -> str:
    interval = result.get(f'{name}_interval')
    return f' (from {interval[0]:.4g} to {interval[1]:.4g})' if interval else ''


def format_isoflop_sweep(result: dict[str, Any]) -> list[str]:
    """Return the lines for the plan of an isoFLOP sweep, with a table of trials per budget."""
    frame = result['frame']
    lines = [f'N* from: {result["source"]}']
    lines += [f'  not used: {source}' for source in result['passed_over']]
    lines += [
        f'N counted as {frame["counted"]}; C is 6 per token and parameter (without positions); '
        f'context {frame["context"]:,}, vocabulary {frame["vocab"]:,}',
        *result['rules'],
    ]
    for budget in result['budgets']:
        optimum = f'N* {budget["params"]:.4g}, D* {budget["tokens"]:.4g}'
        lines += ['', f'{budget["flops"]:.4g} FLOPs: {optimum}: {budget["source"]}']
        if budget['note']:
            lines.append(f'  {budget["note"]}')
        lines += _format_planned_trials(budget['trials'])
    return [
        *lines,
        '',
        *(f'note: {note}' for note in result['notes']),
        f'all: {result["total"]["trials"]} trials, {_format_cost(result["total"], result)}',
        f'new: {result["new"]["trials"]} trials, {_format_cost(result["new"], result)}',
    ]


def _format_planned_trials(trials: list[dict[str, Any]]) -> list[str]:
    headings = ('layers x width', 'heads', 'N', 'tokens', 'D/N', 'steps', 'rate', 'status')
    rows = [
        (
            f'{trial["layers"]} x {trial["width"]}',
            f'{trial["heads"]}',
            f'{trial["params"]:,.0f}',
            f'{trial["tokens"]:,}',
            f'{trial["tokens_per_param"]:.3g}',
            f'{trial["steps"]:,}',
            f'{trial["learning_rate"] or math.nan:.3g}',
            'new' if trial['new'] else f'done, loss {trial["loss"]:.4f}',
        )
        for trial in trials
    ]
    return [
        f'  {line}'.rstrip() for line in format_table(headings, rows, left=(len(headings) - 1,))
    ]


def _format_cost(cost: Result, result: Result, convention: str = '') -> str:
    """Format FLOPs, hours and price of part of a plan."""
    hours = f'{cost["hours"]:,.1f}' if cost['hours'] >= 0.1 else f'{cost["hours"]:.2g}'
    price = f', {cost["cost"]:,.2f} at that price' if cost['cost'] is not None else ''
    return f'{cost["flops"]:.4g} FLOPs{convention}, {hours} hours on {result["device"]}{price}'


def format_cooldowns(result: dict[str, Any]) -> list[str]:
    """Return the lines for the plan of a trunk and the branches that cool down from it."""
    shape, planned, separate = result['shape'], result['planned'], result['separate']
    headings = ('horizon', 'steps', 'branches at', 'own steps', 'own tokens')
    keys = ('horizon', 'steps', 'branch_step', 'own_steps', 'own_tokens')
    rows = [[f'{branch[key]:,}' for key in keys] for branch in result['branches']]
    lines = [
        f'{shape["layers"]} layers, {shape["width"]} wide, {shape["heads"]} heads, '
        f'context {shape["context"]:,}, vocabulary {shape["vocab"]:,}: '
        f'{result["shape_params"]["total"]:,} parameters (total)',
        f'steps of {result["batch"]} sequences, {result["warmup_steps"]:,} of warmup, '
        f'rate {result["learning_rate"]:g}',
        f'trunk: {result["trunk_steps"]:,} steps at that rate',
        *(f'  {line}' for line in format_table(headings, rows, left=())),
    ]
    for title, cost in (('trunk and branches', planned), ('separate runs', separate)):
        words = _format_cost(cost, result, convention=' (6N)')
        lines.append(f'{title + ":":20s}{cost["tokens"]:,} tokens, {words}')
    saved = separate['tokens'] - planned['tokens']
    return [
        *lines,
        f'saved: {saved:,} tokens; {result["share"]:.3f} of the cost of separate runs '
        '(Hagele et al. 2024 report .57 to .60 for their own setting)',
    ]


def format_forecast(line: dict[str, Any], path: str) -> list[str]:
    """Return the lines for a forecast that was added to the ledger at `path`."""
    factor = line['extrapolation']
    lines = [
        f'{line["name"]}: {line["params"]:.4g} parameters, {line["tokens"]:.4g} tokens: '
        f'loss {line["loss"]:.4f}, '
        f'{100 * line["level"]:g}% from {line["low"]:.4f} to {line["high"]:.4f}',
        f'  law {line["law"]} through {line["runs"]} runs; {factor:.3g} times the compute of the '
        'largest of them',
    ]
    lines += describe_rollouts(line.get('rollouts'))
    if line['design_gap']:
        lines.append(f'  {line["design_gap"]}')
    if factor > FAR_EXTRAPOLATION and line['law'] != 'auto':
        lines.append(
            f'  warning: more than {FAR_EXTRAPOLATION} times beyond the runs; the interval holds '
            'only if the law does'
        )
    return [
        *lines,
        f'  written to {path} on {line["date"]}; after the run, gpt-jax verify scores it',
    ]


def describe_rollouts(scores: Result | None) -> list[str]:
    """Return a line on how good such forecasts would have been on these runs; [] if unknown."""
    if not scores:
        return []
    return [
        f'  in {scores["rollouts"]} rollouts at {scores["factor"]} times the compute on '
        f'these runs: median error {scores["median_percent"]:.2g}%, {scores["inside"]} inside'
    ]


def format_forecasts(forecasts: Sequence[Result]) -> list[str]:
    """Return a table of many forecasts by one fit."""
    cells = [
        [
            forecast['name'],
            f'{forecast["params"]:.4g}',
            f'{forecast["tokens"]:.4g}',
            f'{forecast["extrapolation"]:.3g}x',
            f'{forecast["loss"]:.4f}',
            f'{forecast["low"]:.4f} to {forecast["high"]:.4f}',
        ]
        for forecast in forecasts
    ]
    level = f'{100 * forecasts[0]["level"]:g}%'
    table = format_table(['name', 'params', 'tokens', 'compute', 'loss', level], cells)
    gaps = dict.fromkeys(f['design_gap'] for f in forecasts if f['design_gap'])
    return [*table, *gaps]


def format_backtest(rows: Sequence[Result]) -> list[str]:
    """Return a table of the scores of `rollouts.summarize_rollouts`."""
    return format_table(*tabulate_backtest(rows))


def tabulate_backtest(rows: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the cells of the scores of `rollouts.summarize_rollouts`."""
    cells = []
    for row in rows:
        intervals = ['', '', '']
        if row['inside'] is not None:
            intervals = [
                f'{row["inside"]}/{row["rollouts"]}',
                f'{row["width_percent"]:.1f}%',
                f'{row["score_percent"]:.1f}%',
            ]
        errors = [f'{row["median_percent"]:.2f}%', f'{row["bias_percent"]:+.2f}%']
        worst = f'{row["worst_percent"]:+.2f}%'
        count = str(row['rollouts'])
        cells.append([row['law'], f'{row["factor"]}x', count, *errors, worst, *intervals])
    headings = ['law', 'compute', 'rollouts', 'median error', 'bias', 'worst']
    return [*headings, 'inside 95%', 'width', 'interval score'], cells


def format_curve_scores(rows: Sequence[Result]) -> list[str]:
    """Return a table of the scores of `curves.summarize_scores`."""
    cells = []
    for row in rows:
        errors = [f'{row[name]:.4f}' for name in ('rms', 'median_rms', 'worst_rms')]
        shares = [f'{100 * row[name]:.1f}%' for name in ('inside', 'inside_points', 'width')]
        shares = ['', '', ''] if row['inside'] != row['inside'] else shares
        cells.append([row['law'], str(row['curves']), *errors, *shares])
    headings = ['law', 'curves', 'rms log error', 'median', 'worst', 'inside 95%', 'of all points']
    return format_table([*headings, 'width'], cells)


def format_verification(result: Result) -> list[str]:
    """Return the lines for a scored ledger, with a summary at the end."""
    scores, lines = result['scores'], []
    for score in scores:
        head = f'{score["name"]}: forecast {score["predicted"]:.4f}'
        if score['reached'] is None:
            lines.append(f'{head}; no such run yet')
            continue
        verdict = 'inside' if score['inside'] else 'outside'
        lines.append(
            f'{head} ({score["low"]:.4f} to {score["high"]:.4f}), reached '
            f'{score["reached"]:.4f}: {score["percent"]:+.2f}%, {verdict} the interval'
        )
    if result['verified']:
        lines.append(
            f'{result["verified"]} of {len(scores)} verified: {result["inside"]} inside their '
            f'{100 * result["level"]:g}% intervals, mean error {result["mean_percent"]:.2f}%, '
            f'bias {result["bias_percent"]:+.2f}%, worst {result["worst_percent"]:+.2f}%'
        )
    return lines or ['the ledger is empty']
