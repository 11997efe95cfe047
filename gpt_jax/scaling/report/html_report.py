"""HTML report of a sweep in one file: law, split, forecasts, all runs and all figures.

The file is self-contained, so it can be mailed and archived. If the runs cannot determine a law
over parameters and tokens, as with a ladder at one token count, the report has a power law over one
variable instead, and a sentence with the reason.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpt_jax.core import files
from gpt_jax.core.errors import UserError
from gpt_jax.scaling import analysis, forecast_ledger, power_law, rollouts
from gpt_jax.scaling.report import (
    fit_figures,
    page,
    rollout_figures,
    scaling_curve,
    sections,
    terminal,
)
from gpt_jax.scaling.report.fit_figures import ReportFigure, RunPoints
from gpt_jax.scaling.report.page import FigureGrid, Section, embed_figure
from gpt_jax.scaling.rollouts import Rollout
from gpt_jax.scaling.rows import read_rows
from gpt_jax.scaling.runs import Runs, read_runs

ALL_APPROACHES = ('1', '2', '3')
BUDGET_FACTOR = 10.0  # default budgets: that of the largest run, and this many times as much
SAME_TOLERANCE = 0.01  # relative: tokens or sizes this close differ only by rounding to batches


def write_records_report(
    records_paths: str | Sequence[str],
    html_path: str,
    ledger_path: str | None = None,
    *,
    columns: dict[str, str] | None = None,
    count: str = '',
    flops: str = '',
    drop_highest: int = 0,
    loss_unit: str = '',
    keep_untuned: bool = False,
    where: str = '',
    checkpoints: str = '',
    backtest: bool = True,
    note: Callable[[str], None] = lambda _: None,
    **fit_options: Any,
) -> list[str]:
    """Write the report of a file of runs.

    Args:
      records_paths: one or several tables that read_runs can read.
      html_path: the file to write.
      ledger_path: a ledger of forecasts to score on these runs; None: none.
      columns, count, flops, drop_highest, loss_unit, keep_untuned, where, checkpoints: as in
        read_runs.
      backtest: whether to forecast the larger runs from the smaller ones.
      note: receives what the backtest does.
      fit_options: as in fit_for_report.

    Returns:
      Lines for the terminal: the number of runs, a reason if there is one, and the path.

    Raises:
      UserError: the file cannot be read as runs, or the ledger was changed.
    """
    source: dict[str, Any] = {'columns': columns, 'count': count}
    runs = read_runs(
        records_paths,
        **source,
        flops=flops,
        drop_highest=drop_highest,
        loss_unit=loss_unit,
        keep_untuned=keep_untuned,
        where=where,
        checkpoints=checkpoints,
    )
    scores = None
    if ledger_path:
        scores = forecast_ledger.verify_ledger(
            ledger_path, records_paths, **source, loss_unit=loss_unit
        )
    result, why = fit_for_report(runs, **fit_options)
    records = read_rows(records_paths, **source, flops=flops)
    made, why_none = [], 'turned off'
    if backtest:
        try:
            made = rollouts.run_backtest(runs, seed=fit_options.get('seed', 0), note=note)
        except UserError as error:
            why_none = str(error)
    write_report(
        html_path,
        result,
        records=records,
        scores=scores,
        why=why,
        backtest=made,
        why_no_backtest=why_none,
    )
    dropped = len(result['left_out'])
    lines = [f'{runs.provenance["file"]}: {result["data"]["runs"]} runs, {dropped} rows left out']
    lines += [*([why] if why else []), *terminal.format_notes(runs.notes)]
    return [*lines, f'report: {html_path}']


def fit_for_report(
    runs: Runs,
    *,
    law: str = 'auto',
    over: str = 'N',
    at_flops: tuple[float, ...] = (),
    holdout: str = '',
    which: tuple[str, ...] = ALL_APPROACHES,
    irreducible: bool = True,
    **fit_options: Any,
) -> tuple[dict[str, Any], str]:
    """Fit the law if the runs determine it, else a power law over the variable that was scaled.

    Args:
      runs: the runs to fit.
      law: a law over parameters and tokens, or 'power' over the variable `over`.
      over: N, D or C.
      at_flops: FLOP budgets to split; if empty, that of the largest run and BUDGET_FACTOR times it.
      holdout: a condition on the runs to predict from the others, or ''.
      which: the approaches to the compute-optimal split.
      irreducible: whether the power law has an irreducible loss.
      fit_options: further arguments of analysis.analyze_parametric.

    Returns:
      The result of the first of analyze_parametric, analyze_power_law and describe_runs that is
      possible, and a sentence that says why those before it are not, or ''.

    Raises:
      UserError: `holdout` is malformed.
    """
    why = ''
    if holdout:
        analysis.select_holdout(runs, holdout)  # a mistake in a flag is an error, not a finding
    if law != 'power':
        largest = float(runs.flops.max())
        budgets = at_flops or (largest, BUDGET_FACTOR * largest)
        try:
            result = analysis.analyze_parametric(
                runs, law=law, at_flops=budgets, holdout=holdout, which=which, **fit_options
            )
            return result, ''
        except UserError as error:
            why = f'No law over parameters and tokens: {error}.'
        over = _find_scaled_variable(runs)
    if not over:
        why += ' No law over one variable either: larger models do not always have more tokens.'
        return analysis.describe_runs(runs), why
    delta = fit_options.get('delta') or power_law.HUBER_DELTA
    try:
        result = analysis.analyze_power_law(runs, over, irreducible=irreducible, delta=delta)
    except UserError as error:
        why = f'{why} No power law over {over} either: {error}.'.lstrip()
        return analysis.describe_runs(runs), why
    return result, f'{why} A power law over {over} instead.' if why else ''


def _find_scaled_variable(runs: Runs) -> str:
    """Return N for one token count, D for one size, C if tokens grow with size; else ''."""
    n, d = np.log(runs.params), np.log(runs.tokens)
    if np.ptp(d) < SAME_TOLERANCE:
        return 'N'
    if np.ptp(n) < SAME_TOLERANCE:
        return 'D'
    steps = np.diff(d[np.lexsort((d, n))])
    return 'C' if (steps > -SAME_TOLERANCE).all() else ''


def write_report(
    path: str,
    result: dict[str, Any],
    *,
    records: list[dict[str, Any]],
    scores: dict[str, Any] | None,
    why: str,
    backtest: Sequence[Rollout] = (),
    why_no_backtest: str = 'turned off',
) -> Path:
    """Write the page.

    Args:
      path: the file to write.
      result: the result of analyze_parametric, analyze_power_law or describe_runs; sections whose
        numbers it lacks are left out.
      records: all rows of the file, from read_rows.
      scores: the result of verify_forecasts, or None.
      why: a sentence on a law that could not be fitted, or ''.
      backtest: rollouts of `rollouts.run_backtest`.
      why_no_backtest: why there are none, a clause.

    Returns:
      The path.
    """
    parts = [
        Section('Figures', [_make_figure_grid(result, backtest)]),
        sections.make_law_section(result),
        sections.make_power_law_section(result),
        sections.make_held_out_section(result),
        sections.make_rollouts_section(list(backtest), why_no_backtest),
        sections.make_split_section(result),
        sections.make_noise_section(result),
        sections.make_forecasts_section(scores),
        sections.make_runs_section(result, records),
        sections.make_left_out_section(result),
        sections.make_conventions_section(result),
    ]
    html = page.render_page(
        title=f'Scaling report: {"/".join(Path(result["data"]["file"]).parts[-2:])}',
        summary=sections.make_summary(result, scores, why),
        sections=[part for part in parts if part is not None],
        numbers=analysis.nan_to_none(
            {
                'result': result,
                'forecasts': scores,
                'why': why,
                'rollouts': [rollout._asdict() for rollout in backtest],
            }
        ),
    )
    files.write_text(path, html)
    return Path(path)


def _make_figure_grid(result: dict[str, Any], backtest: Sequence[Rollout]) -> FigureGrid:
    """Render every figure for wide screens, then every figure for narrow ones."""
    svgs = []
    for css_class, narrow in (('wide', False), ('narrow', True)):
        drawings = [*_make_ladder_figure(result, narrow)]
        drawings += fit_figures.make_fit_figures(result, narrow=narrow)
        if backtest:
            drawings.append(rollout_figures.make_rollouts_figure(backtest, narrow=narrow))
        svgs += [embed_figure(drawing, css_class) for drawing in drawings]
    return FigureGrid(svgs)


def _make_ladder_figure(result: dict[str, Any], narrow: bool) -> list[ReportFigure]:
    if 'forecast' not in result:
        return []
    fit, trials = analysis.to_ladder_records(result)
    figure = scaling_curve.make_scaling_curve(fit, trials, (3.8, 6.2) if narrow else (5.6, 4.8))
    x, loss = (np.array(result['residuals'][fit[name]]) for name in ('x_column', 'loss_column'))
    points = RunPoints(figure.axes[0], np.arange(len(x)), x, loss)
    return [ReportFigure('scaling_curve', figure, [points])]
