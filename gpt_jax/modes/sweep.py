"""How does a sweep become records, a law and a report? Its trials checked and grouped, run, and read."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpt_jax import assemble, files, identity, schema
from gpt_jax.assemble import Settings
from gpt_jax.errors import Preempted, TrialsFailed, UserError
from gpt_jax.launch import sweep as launch
from gpt_jax.launch.claims import Claims
from gpt_jax.launch.config import SweepConfig
from gpt_jax.launch.worker import UNPAID
from gpt_jax.model import accounting
from gpt_jax.modes import material, reading, together
from gpt_jax.modes.adopt import adopt
from gpt_jax.observe.board import Board
from gpt_jax.scaling.view import table


def sweep(
    config: dict[str, Any], trials: dict[str, dict[str, Any]], command: list[str], workdir: Path,
    say: Callable[[str], None], only: str | None = None,
) -> None:  # fmt: skip
    """Runs what is not done of the sweep; writes records.jsonl, ledger.jsonl and what `reading.read` makes of them.

    Every trial is checked before the first begins, and the text is tokenized once for all. The same call may be made by
    any number of processes, on machines that share the folder: each takes trials that no other has.

    Args:
      only: NAME,NAME,...: the trials to run; None: all.

    Raises:
      UserError: a trial's config or the data is bad, or the folder holds another sweep.
      TrialsFailed: some trial did; the others are recorded.
      Preempted: stopped by a signal, or a budget of the sweep is spent.
    """
    bounds = schema.from_dict(SweepConfig, config['sweep'], 'sweep')
    for one in trials.values():
        assemble.settings(one, vocab_size=1)
    _no_twins(trials)
    _same_sweep(config, workdir)
    trials = {name: adopt(one, say) for name, one in trials.items()}  # as each of them will say itself what it is
    settings = _settings(trials, say)
    made = {
        name: launch.Trial(name, identity.config_hash(trials[name]), _flops(one), one.train.branch_from)
        for name, one in settings.items()
    }
    groups = [[made[name] for name in names] for names in together.groups(trials, bounds.together)]
    files.write_json(workdir / 'config.json', config)
    mine = frozenset(only.split(',')) if only is not None else frozenset(made)
    board = Board(sys.stderr, str(config['name']), {name: one.flops for name, one in made.items()})
    try:
        done = launch.run(groups, command, workdir, bounds.limits, board, mine)
    finally:
        board.close()
    print(table.ladder(done))
    _read(done, len(made), workdir, bounds.limits.stale_seconds, say)
    _judge([one for one in done if one['name'] in mine], say)


def _settings(trials: dict[str, dict[str, Any]], say: Callable[[str], None]) -> dict[str, Settings]:
    """Of all trials, each text prepared once."""
    vocabulary: dict[str, int] = {}
    made = {}
    for name, one in trials.items():
        words = json.dumps([one['data'], one['task'], one['model']['context'] if one['task']['source'] else 0])
        if words not in vocabulary:
            vocabulary[words] = material.material(one, say).vocab_size
        made[name] = assemble.settings(one, vocabulary[words])
    return made


def _read(done: list[dict[str, Any]], trials: int, workdir: Path, stale: float, say: Callable[[str], None]) -> None:
    """Draws and fits, once every trial has ended, and one process at a time."""
    if len(done) < trials:
        say(f'{len(done)} of {trials} trials have ended; the report is made by whoever ends the last')
        return
    claim = Claims(workdir, stale).take('report')
    if claim is None:
        say(f'{workdir}: another process is making the report')
        return
    try:
        for line in reading.read(done, workdir):
            print(line)
    finally:
        claim.release()


def _judge(done: list[dict[str, Any]], say: Callable[[str], None]) -> None:
    """Raises what the exit code tells: trials that failed, or a budget that is spent."""
    left = {one['name']: one['status'] for one in done if one['status'] != 'done'}
    for name, status in left.items():
        say(f'{name}: {status}')
    over = [name for name, status in left.items() if status.startswith(UNPAID)]
    if left and len(over) == len(left):
        raise Preempted(f'{len(over)} of {len(done)} trials wait for a larger budget; raise it and run again')
    if left:
        raise TrialsFailed(f'{len(left)} of {len(done)} trials failed ({", ".join(left)}); run again to retry them')


def _flops(settings: Settings) -> float:
    """What a trial costs: a branch, only its own end."""
    steps = settings.steps - settings.train.branch_step
    return float(steps * settings.tokens_per_step * accounting.flops_per_token(settings.model)['6N'])


def _no_twins(trials: dict[str, dict[str, Any]]) -> None:
    seen: dict[str, str] = {}
    for name, one in trials.items():
        other = seen.setdefault(identity.config_hash(one), name)
        if other != name:
            raise UserError(f'config.sweep.trials: {other!r} and {name!r} are the same run; nothing is done twice')


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
