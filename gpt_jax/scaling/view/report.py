"""What does a sweep say, on one page? The law, the split, the forecasts, every run and every figure, in one HTML file.

The file loads nothing: it can be mailed, and reads the same in ten years. Where the runs cannot carry a law over
parameters and tokens, as a ladder of one token count cannot, the power law stands in its place and a sentence says why.
"""

from pathlib import Path
from typing import Any

import numpy as np

from gpt_jax import files
from gpt_jax.errors import UserError
from gpt_jax.scaling import analysis, laws, ledger, rows
from gpt_jax.scaling import runs as table
from gpt_jax.scaling.runs import Runs
from gpt_jax.scaling.view import figures, inline, listings, page, plots, sections
from gpt_jax.scaling.view.page import Html

EVERY = ('1', '2', '3')
FURTHER = 10.0  # where no budget is asked for: the largest of the runs, and so many times that
SAME = 0.01  # relative: tokens (or sizes) this close are one, rounded to whole batches


def from_records(
    records_path: str, html_path: str, ledger_path: str | None = None, *, columns: dict[str, str] | None = None,
    count: str = '', flops: str = '', drop_highest: int = 0, **fitting: Any,
) -> list[str]:  # fmt: skip
    """Writes the report of a file of runs; returns lines that say what is in it and where it is.

    Args:
      ledger_path: of forecasts, to be scored on these runs; None: there are none.
      columns, count, flops, drop_highest: as runs.read takes them.
      fitting: as `told` takes them.

    Raises:
      UserError: the file cannot be read as runs, or the ledger was changed.
    """
    given = table.read(records_path, columns=columns, count=count, flops=flops, drop_highest=drop_highest)
    records = rows.read(records_path, columns=columns, count=count, flops=flops)
    scores = None
    if ledger_path:
        done = table.read(records_path, columns=columns, count=count, flops=flops, for_fitting=False)
        scores = ledger.verify(ledger.read(ledger_path), lambda _: done)
    result, why = told(given, **fitting)
    write(html_path, result, records=records, scores=scores, why=why)
    lines = [f'{records_path}: {result["data"]["runs"]} runs, {len(result["left_out"])} rows left out']
    return [*lines, *([why] if why else []), f'report: {html_path}']


def told(
    given: Runs, *, law: str = 'chinchilla', over: str = 'N', at_flops: tuple[float, ...] = (), holdout: str = '',
    which: tuple[str, ...] = EVERY, irreducible: bool = True, **fitting: Any,
) -> tuple[dict[str, Any], str]:  # fmt: skip
    """(what analysis.fit says, ''), or where it cannot, (what analysis.power or measured says, a sentence why).

    Args:
      law: of forms.LAWS, or 'power' over the variable `over`.
      at_flops: budgets to split; where there are none, the largest of the runs and ten times that.
      fitting: what else analysis.fit takes.

    Raises:
      UserError: `holdout` is no condition.
    """
    why = ''
    if holdout:
        analysis.chosen(given, holdout)  # a slip in a flag is refused, not told of in a report
    if law != 'power':
        budgets = at_flops or (float(given.flops.max()), FURTHER * float(given.flops.max()))
        try:
            result = analysis.fit(given, law=law, at_flops=budgets, holdout=holdout, which=which, **fitting)
            return result, ''
        except UserError as error:
            why = f'No law over parameters and tokens: {error}.'
        over = _scaled(given)
    if not over:
        return analysis.measured(
            given
        ), f'{why} Nor one over a single variable: size and tokens change against each other.'
    try:
        result = analysis.power(given, over, irreducible=irreducible, delta=fitting.get('delta', laws.HUBER_DELTA))
    except UserError as error:
        return analysis.measured(given), f'{why} No power law over {over} either: {error}.'.lstrip()
    return result, f'{why} A power law over {over} instead.' if why else ''


def _scaled(runs: Runs) -> str:
    """The one variable that was scaled: N at one token count, D at one size, C where tokens grow with size; else ''."""
    n, d = np.log(runs.params), np.log(runs.tokens)
    if np.ptp(d) < SAME:
        return 'N'
    if np.ptp(n) < SAME:
        return 'D'
    steps = np.diff(d[np.lexsort((d, n))])
    return 'C' if (steps > -SAME).all() else ''


def write(
    path: str, result: dict[str, Any], *, records: list[dict[str, Any]], scores: dict[str, Any] | None, why: str
) -> Path:
    """Writes the page.

    Args:
      result: what analysis.fit, analysis.power or analysis.measured returned; what it lacks is left out.
      records: all rows of the file, as rows.read gives them.
      scores: what ledger.verify returned, or None.
      why: a sentence on what could not be fitted, or ''.
    """
    blocks = [
        sections.head(result, scores, why),
        page.section('Figures', _figures(result)),
        sections.law(result),
        sections.ladder(result),
        sections.held_out(result),
        sections.split(result),
        sections.noise(result),
        sections.forecasts(scores),
        listings.runs(result, records),
        listings.left_out(result),
        listings.conventions(result),
    ]
    title = f'Scaling report: {"/".join(Path(result["data"]["file"]).parts[-2:])}'
    numbers = analysis.plain({'result': result, 'forecasts': scores, 'why': why})
    files.write_text(path, page.whole(title, blocks, numbers))
    return Path(path)


def _figures(result: dict[str, Any]) -> Html:
    made = []
    for kind, narrow in (('wide', False), ('narrow', True)):
        drawn = [*_ladder(result, narrow), *figures.drawn(result, narrow=narrow)]
        made += [(one.name, kind, inline.svg(one, f'{kind}-{one.name}-', one.name.replace('_', ' '))) for one in drawn]
    return page.figures((kind, svg) for _, kind, svg in made)


def _ladder(result: dict[str, Any], narrow: bool) -> list[figures.Drawn]:
    if 'forecast' not in result:
        return []
    fit, trials = analysis.as_ladder(result)
    figure = plots.ladder(fit, trials, (3.8, 6.2) if narrow else (5.6, 4.8))
    x, loss = (np.array(result['residuals'][fit[name]]) for name in ('x_column', 'loss_column'))
    return [figures.Drawn('scaling_curve', figure, [figures.Points(figure.axes[0], np.arange(len(x)), x, loss)])]
