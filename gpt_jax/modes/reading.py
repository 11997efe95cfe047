"""What do a sweep's records say? The law, the forecast of the largest, the figure, the page; or why there is none."""

from pathlib import Path
from typing import Any

from gpt_jax import files
from gpt_jax.errors import UserError
from gpt_jax.launch.records import RECORDS
from gpt_jax.scaling import forecast, records

SIZE = 'params_non_embedding'  # what a ladder's curve is drawn over
LOSS = 'validation_loss'
COUNT = 'without_positions'  # what train.flops counts, and so the budgets of an isoFLOP sweep
READ = 'reading.json'  # what was said of which records
FORECASTS = 'forecasts.jsonl'  # a ledger in the sweep's folder is scored in its report


def read(done: list[dict[str, Any]], workdir: Path) -> list[str]:
    """Writes what the records allow into `workdir`; returns the lines to print.

    Runs of one length are a ladder: fit.json and scaling_curve.png, .svg hold the law over the size and its forecast of
    the largest. Of any sweep report.html is made. What was made from these very records is left as it is.
    """
    sums = {name: files.sha256_file(workdir / name) for name in (RECORDS, FORECASTS) if (workdir / name).exists()}
    if (workdir / READ).exists() and files.read_json(workdir / READ)['sha256'] == sums:
        return list(files.read_json(workdir / READ)['lines'])
    lines = _read(done, workdir)
    files.write_json(workdir / READ, {'sha256': sums, 'lines': lines})
    return lines


def _read(done: list[dict[str, Any]], workdir: Path) -> list[str]:
    kept, left_out = records.fittable(done, [SIZE, LOSS])
    lines = [f'not in the fit: {one["name"]}: {one["reason"]}' for one in left_out]
    made = [workdir / RECORDS]
    if len({one['tokens'] for one in kept}) == 1:
        ladder, paths = _ladder(kept, left_out, workdir)
        lines, made = lines + ladder, made + paths
    from gpt_jax.scaling.view import tasks, tuned

    made += tasks.figure(kept, SIZE, LOSS, workdir / 'tasks.png')
    made += tuned.figure(done, SIZE, workdir / 'tuned.png')
    return [*lines, *(f'  {path}' for path in made), *_report(workdir)]


def _report(workdir: Path) -> list[str]:
    ledger = workdir / FORECASTS
    from gpt_jax.scaling.view import report

    try:
        told = report.from_records(
            str(workdir / RECORDS), str(workdir / 'report.html'), str(ledger) if ledger.exists() else None, count=COUNT
        )
    except UserError as reason:
        return [f'no report: {reason}']
    return [f'  {line}' for line in told[1:]]


def _ladder(kept: list[dict[str, Any]], left_out: list[dict[str, str]], workdir: Path) -> tuple[list[str], list[Path]]:
    if len({one[SIZE] for one in kept}) < forecast.FEWEST:
        return [f'no law: {len(kept)} finished runs, and leaving one size out takes {forecast.FEWEST} sizes'], []
    fit = forecast.leave_largest_out([one[SIZE] for one in kept], [one[LOSS] for one in kept])
    fit |= {'x_column': SIZE, 'loss_column': LOSS, 'left_out': left_out}
    files.write_json(workdir / 'fit.json', fit)
    from gpt_jax.scaling.view import plots

    figures = plots.scaling_curve(fit, kept, workdir / 'scaling_curve.png')
    return list(forecast.verdict(fit)), [workdir / 'fit.json', *figures]
