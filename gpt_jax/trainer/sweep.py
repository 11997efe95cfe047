"""Sweeps: checking and grouping of trials, running in any number of processes, and reports."""

import json
import sys
from pathlib import Path
from typing import Any

from gpt_jax.core import config_fields, files, model_counts
from gpt_jax.core.config import Config, RawConfig, parse_config, parse_section
from gpt_jax.core.errors import Preempted, TrialsFailed, UserError
from gpt_jax.core.progress import LogFn
from gpt_jax.scaling import ladder_forecast, rows
from gpt_jax.scaling.report import terminal
from gpt_jax.sweep.claims import Claims
from gpt_jax.sweep.dashboard import Dashboard
from gpt_jax.sweep.ledger import RECORDS_FILE, Trial, make_limits, trial_summary_path
from gpt_jax.sweep.worker import OVER_BUDGET, run_trials
from gpt_jax.train.trackers import check_trackers
from gpt_jax.trainer import resume
from gpt_jax.trainer.dataset import load_dataset
from gpt_jax.trainer.init_from import config_from_pretrained
from gpt_jax.trainer.vmapped_trials import group_trials

SIZE_COLUMN = 'params_non_embedding'  # the x axis of a ladder's scaling curve
LOSS_COLUMN = 'validation_loss'
# The parameter count that train.flops uses, and with it the budgets of an isoFLOP sweep.
COUNT_CONVENTION = 'without_positions'
REPORT_STATE_FILE = 'sweep_report.json'  # the lines of the last report, with hashes of its inputs
FORECASTS_FILE = 'forecasts.jsonl'  # a forecast ledger in the sweep's folder, scored in its report


def write_sweep_report(records: list[dict[str, Any]], workdir: Path) -> list[str]:
    """Write the reports that the records allow into `workdir`; return the lines to print.

    Runs of equal length are a ladder: fit.json and scaling_curve.png, .svg show the law over the
    size and its forecast of the largest run. Every sweep gets report.html. Nothing is rewritten if
    the inputs have not changed.
    """
    hashes = {
        name: files.sha256_file(workdir / name)
        for name in (RECORDS_FILE, FORECASTS_FILE)
        if (workdir / name).exists()
    }
    path = workdir / REPORT_STATE_FILE
    if path.exists():
        previous = files.read_json(path)
        if previous['sha256'] == hashes:
            return list(previous['lines'])
    lines = _write_report_files(records, workdir)
    files.write_json(path, {'sha256': hashes, 'lines': lines})
    return lines


def _write_report_files(records: list[dict[str, Any]], workdir: Path) -> list[str]:
    from gpt_jax.scaling.report import task_figures  # matplotlib takes a second to import

    fittable, left_out = rows.split_fittable(records, [SIZE_COLUMN, LOSS_COLUMN])
    lines = [f'not in the fit: {row["name"]}: {row["reason"]}' for row in left_out]
    paths = [workdir / RECORDS_FILE]
    if len({row['tokens'] for row in fittable}) == 1:
        ladder_lines, ladder_paths = _fit_ladder(fittable, left_out, workdir)
        lines += ladder_lines
        paths += ladder_paths
    paths += task_figures.draw_task_gains(fittable, SIZE_COLUMN, LOSS_COLUMN, workdir / 'tasks.png')
    paths += task_figures.draw_finetuning_gains(records, SIZE_COLUMN, workdir / 'finetuned.png')
    return [*lines, *(f'  {path}' for path in paths), *_write_html_report(workdir)]


def _fit_ladder(
    fittable: list[dict[str, Any]], left_out: list[dict[str, str]], workdir: Path
) -> tuple[list[str], list[Path]]:
    """Fit the law without the largest size and forecast that; return lines to print and files."""
    from gpt_jax.scaling.report import scaling_curve

    sizes = [row[SIZE_COLUMN] for row in fittable]
    if len(set(sizes)) < ladder_forecast.MIN_SIZES:
        line = (
            f'no law: {len(fittable)} finished runs; leaving the largest size out requires '
            f'{ladder_forecast.MIN_SIZES} sizes'
        )
        return [line], []
    fit = ladder_forecast.leave_largest_out(sizes, [row[LOSS_COLUMN] for row in fittable])
    fit |= {'x_column': SIZE_COLUMN, 'loss_column': LOSS_COLUMN, 'left_out': left_out}
    files.write_json(workdir / 'fit.json', fit)
    figures = scaling_curve.draw_scaling_curve(fit, fittable, workdir / 'scaling_curve.png')
    return list(ladder_forecast.describe_forecast(fit)), [workdir / 'fit.json', *figures]


def _write_html_report(workdir: Path) -> list[str]:
    from gpt_jax.scaling.report import html_report

    ledger = workdir / FORECASTS_FILE
    try:
        lines = html_report.write_records_report(
            str(workdir / RECORDS_FILE),
            str(workdir / 'report.html'),
            str(ledger) if ledger.exists() else None,
            count=COUNT_CONVENTION,
        )
    except UserError as error:
        return [f'no report: {error}']
    return [f'  {line}' for line in lines[1:]]


def run_sweep(
    raw_config: RawConfig,
    trials: dict[str, RawConfig],
    command: list[str],
    workdir: Path,
    log: LogFn,
    only: str | None = None,
) -> None:
    """Run the unfinished trials of a sweep; write records.jsonl, ledger.jsonl and the report.

    Every trial's config is checked before the first trial starts, and each text is tokenized once.
    Any number of processes may make the same call, also on other machines that share the folder:
    each takes trials that no other process is running.

    Args:
      raw_config: the sweep's config.
      trials: the trials' configs by name.
      command: the command that runs a trial once `--trial=NAME,...` is appended.
      workdir: the sweep's folder.
      log: receives lines for the user.
      only: 'NAME,NAME,...', the trials to run; None: all.

    Raises:
      UserError: bad config or data, or the folder holds another sweep.
      TrialsFailed: some trials failed; the others are recorded.
      Preempted: a signal stopped the sweep, or one of its budgets is spent.
    """
    section = parse_section(raw_config, 'sweep')
    limits = make_limits(section)
    for trial_config in trials.values():
        parse_config(trial_config, vocab_size=1)
    _check_duplicates(trials)
    _check_same_sweep(raw_config, workdir)
    # A trial's hash must be that of the config that its own process uses.
    trials = {name: config_from_pretrained(trial, log) for name, trial in trials.items()}
    all_trials = {
        name: Trial(
            name,
            config_fields.config_hash(trials[name]),
            _count_flops(config),
            config.train.branch_from,
        )
        for name, config in _parse_trials(trials, workdir, log).items()
    }
    groups = [
        [all_trials[name] for name in names]
        for names in group_trials(trials, section.trials_per_process)
    ]
    files.write_json(workdir / 'config.json', raw_config)
    selected = frozenset(only.split(',') if only is not None else all_trials)
    costs = {name: trial.flops for name, trial in all_trials.items()}
    dashboard = Dashboard(sys.stderr, str(raw_config['name']), costs)
    try:
        records = run_trials(groups, command, workdir, limits, dashboard, selected)
    finally:
        dashboard.close()
    print(terminal.format_trials(records))
    _report_finished_sweep(records, len(all_trials), workdir, limits.stale_seconds, log)
    _raise_for_unfinished([record for record in records if record['name'] in selected], log)


def _parse_trials(trials: dict[str, RawConfig], workdir: Path, log: LogFn) -> dict[str, Config]:
    """Parse all trials' configs; each text is tokenized once, for the size of its vocabulary.

    Raises:
      UserError: a config is bad, or a finished trial of the folder was trained on other data.
    """
    datasets: dict[str, tuple[int, str]] = {}  # vocabulary size, fingerprint
    configs = {}
    for name, trial in trials.items():
        context = trial['model']['context'] if trial['task']['source'] else 0
        data_key = json.dumps([trial['data'], trial['task'], context, trial['model']['vocab_size']])
        if data_key not in datasets:
            dataset = load_dataset(trial, log)
            datasets[data_key] = dataset.vocab_size, dataset.fingerprint
        vocab_size, fingerprint = datasets[data_key]
        configs[name] = parse_config(trial, vocab_size)
        path = trial_summary_path(workdir, name)
        if path.exists() and files.read_json(path)['fingerprint'] != fingerprint:
            raise UserError(
                f'{path}: was trained on other data; restore it, rename the trial or choose '
                'another --workdir'
            )
        check_trackers(configs[name].train)
    return configs


def _count_flops(config: Config) -> float:
    """Count a trial's training FLOPs (6N convention); for a branch, only its own steps."""
    steps = config.steps - config.train.branch_step
    per_token = model_counts.flops_per_token(config.model)['6N']
    return float(steps * config.tokens_per_step * per_token)


def _check_duplicates(trials: dict[str, RawConfig]) -> None:
    """Raise UserError if two trials are the same run."""
    names: dict[str, str] = {}
    for name, trial in trials.items():
        first = names.setdefault(config_fields.config_hash(trial), name)
        if first != name:
            raise UserError(
                f'config.sweep.trials: must differ, but {first!r} and {name!r} are the same run'
            )


def _check_same_sweep(raw_config: RawConfig, workdir: Path) -> None:
    """Raise UserError if the folder holds another sweep.

    Trials may be added and removed, but a trial of the same name must not change.
    """
    if not (workdir / 'config.json').exists():
        return
    configs = files.read_json(workdir / 'config.json'), raw_config
    trials_before, trials_after = map(_trials_by_name, configs)
    common = trials_before.keys() & trials_after.keys()
    before, after = (
        {
            field: value
            for field, value in config_fields.select_run_fields(config).items()
            if field not in resume.PATH_FIELDS  # each trial checks that its data is the same
        }
        for config in configs
    )
    changes = config_fields.diff_configs(
        before | {name: trials_before[name] for name in common},
        after | {name: trials_after[name] for name in common},
    )
    if changes:
        raise UserError(
            f'{workdir}: holds another sweep ({"; ".join(changes)}); choose another --workdir'
        )


def _trials_by_name(raw_config: RawConfig) -> dict[str, Any]:
    return {
        f'trial {trial["name"]}': {
            key: value for key, value in trial.items() if key not in resume.PATH_FIELDS
        }
        for trial in raw_config['sweep']['trials']
    }


def _report_finished_sweep(
    records: list[dict[str, Any]], trials: int, workdir: Path, stale_seconds: float, log: LogFn
) -> None:
    """Write the report once all trials have ended; one process at a time."""
    if len(records) < trials:
        log(
            f'{len(records)} of {trials} trials have ended; '
            'the process that finishes the last one writes the report'
        )
        return
    claim = Claims(workdir, stale_seconds).acquire('report')
    if claim is None:
        log(f'{workdir}: another process is writing the report')
        return
    try:
        for line in write_sweep_report(records, workdir):
            print(line)
    finally:
        claim.release()


def _raise_for_unfinished(records: list[dict[str, Any]], log: LogFn) -> None:
    """Raise the error of the sweep's exit code: trials failed, or a budget is spent."""
    unfinished = {row['name']: row['status'] for row in records if row['status'] != 'done'}
    if not unfinished:
        return
    for name, status in unfinished.items():
        log(f'{name}: {status}')
    if all(status.startswith(OVER_BUDGET) for status in unfinished.values()):
        raise Preempted(
            f'{len(unfinished)} of {len(records)} trials wait for a larger budget; '
            'raise it and run again'
        )
    raise TrialsFailed(
        f'{len(unfinished)} of {len(records)} trials failed ({", ".join(unfinished)}); '
        'run again to retry them'
    )
