"""How does a sweep over sizes become a scaling curve? Its trials, their table, the law, the forecast, the plot."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpt_jax import assemble, files, identity
from gpt_jax.data.prepare import prepare
from gpt_jax.errors import TrialsFailed, UserError
from gpt_jax.launch import sweep as launch
from gpt_jax.scaling import forecast, records, table

SIZE = 'params_non_embedding'  # what the curve is drawn over
LOSS = 'validation_loss'


def sweep(
    config: dict[str, Any], trials: dict[str, dict[str, Any]], command: list[str], workdir: Path,
    say: Callable[[str], None],
) -> None:  # fmt: skip
    """Runs what is not done of the sweep; writes records.jsonl, fit.json, scaling_curve.png and .svg into `workdir`.

    Every trial is checked before the first begins, and the text is tokenized once for all.

    Raises:
      UserError: a trial's config or the data is bad, or the folder holds another sweep.
      TrialsFailed: some trial did; the others are recorded.
      Preempted: stopped by a signal.
    """
    for one in trials.values():
        assemble.settings(one, vocab_size=1)
    _same_sweep(config, workdir)
    for data in {str(one['data']): one['data'] for one in trials.values()}.values():
        prepare(assemble.data_config({'data': data}), say)
    with files.lock(workdir / 'lock', wait=False):
        files.write_json(workdir / 'config.json', config)
        done = launch.run(list(trials), command, workdir, say=say)
        print(table.ladder(done))
        failed = [one['name'] for one in done if one['status'] != 'done']
        _report(done, workdir, say)
    if failed:
        raise TrialsFailed(f'{len(failed)} of {len(done)} trials failed ({", ".join(failed)}); run again to retry them')


def _same_sweep(config: dict[str, Any], workdir: Path) -> None:
    if not (workdir / 'config.json').exists():
        return
    before, after = files.read_json(workdir / 'config.json'), config
    trials_before, trials_after = _named(before), _named(after)
    both = trials_before.keys() & trials_after.keys()
    changes = identity.difference(
        identity.fixed(before) | {name: trials_before[name] for name in both},
        identity.fixed(after) | {name: trials_after[name] for name in both},
    )
    if changes:
        raise UserError(f'{workdir}: holds another sweep ({"; ".join(changes)}); choose another --workdir')


def _named(config: dict[str, Any]) -> dict[str, Any]:
    """Trials may be added and taken away, but one of a name stays what it is."""
    return {f'trial {one["name"]}': one for one in config['sweep']['trials']}


def _report(done: list[dict[str, Any]], workdir: Path, say: Callable[[str], None]) -> None:
    """The law, the forecast of the largest size, the figure; or why there is none."""
    kept, left_out = records.fittable(done, [SIZE, LOSS])
    for one in left_out:
        say(f'not in the fit: {one["name"]}: {one["reason"]}')
    if len({one[SIZE] for one in kept}) < forecast.FEWEST:
        say(f'no law: {len(kept)} finished sizes, and leaving one out takes at least {forecast.FEWEST}')
        return
    fit = forecast.leave_largest_out([one[SIZE] for one in kept], [one[LOSS] for one in kept])
    fit |= {'x_column': SIZE, 'loss_column': LOSS, 'left_out': left_out}
    files.write_json(workdir / 'fit.json', fit)
    from gpt_jax.scaling import plots

    figures = plots.scaling_curve(fit, kept, workdir / 'scaling_curve.png')
    for line in forecast.verdict(fit):
        print(line)
    for path in (workdir / 'records.jsonl', workdir / 'fit.json', *figures):
        print(f'  {path}')
