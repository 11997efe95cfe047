"""The four calibration numbers of law_posterior.py, chosen without the sets that score them.

python experiments/forecast_backtests/calibration.py FILE.csv ...

TEMPERATURE, SD_FACTOR, DRIFT_SD and DRIFT are the only part of the posterior that is calibrated on
real runs by a grid (`GRID`). For each source of sets (the repository column of README.md), the
combination with the lowest mean interval score over the sets of all other sources is chosen, and
the left-out sets are forecast with it. The forecasts are those of protocol.py, from the same fits
and of the same runs: the members of a posterior depend on none of the four numbers, so that each is
fitted once.
"""

import argparse
import itertools
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from experiments.forecast_backtests import protocol
from gpt_jax.scaling import forecast, law_posterior, rollouts
from gpt_jax.scaling.law_posterior import Prediction
from gpt_jax.scaling.rollouts import Rollout
from gpt_jax.scaling.runs import read_runs

NUMBERS = ('TEMPERATURE', 'SD_FACTOR', 'DRIFT_SD', 'DRIFT')
NEUTRAL = (1.0, 1.0, 0.0, 0.0)  # with which the members are left as they are
DRIFTS = (0.0, 0.002, 0.004)
GRID = tuple(itertools.product((1.0, 3.0, 10.0), (1.0, 1.25, 1.5), (*DRIFTS, 0.006), DRIFTS))
GRID_POINTS = 1001  # of a predicted distribution: enough for 0.01 of its standard deviation
LEAST_WEIGHT = 1e-5  # of a member that counts
QUANTILES = (0.5, 0.025, 0.975)
Combination = tuple[float, ...]


class Target(NamedTuple):
    """A run to forecast, and its prediction with NEUTRAL numbers.

    Attributes:
      set: the name of its set.
      rollout: the run; its forecast is replaced.
      members: means, standard deviations and weights of the members.
      beyond: the logarithm of N D relative to the largest fitted run's, at least 0.
    """

    set: str
    rollout: Rollout
    members: Prediction
    beyond: float


def find_sources() -> dict[str, str]:
    """Return the repository of each set, from the last table of README.md."""
    text = (protocol.HERE / 'README.md').read_text().split('| set | repository |')[1]
    rows = [[cell.strip() for cell in line.split('|')[1:3]] for line in text.splitlines()[2:]]
    return {row[0]: row[1] for row in rows if len(row) == 2}


def predict_targets(paths: list[str]) -> list[Target]:
    """Fit the posterior of every set and factor, and predict its targets."""
    targets = []
    for path in paths:
        runs = read_runs(path)
        for factor in protocol.FACTORS:
            fitted, indices = protocol.split_runs(runs, factor)
            if not len(indices):
                continue
            posterior = forecast.fit_forecaster(fitted, 'auto', draws=0, seed=0).posterior
            assert posterior is not None
            for i in map(int, indices):
                n, d = float(runs.params[i]), float(runs.tokens[i])
                rollout = rollouts.roll_out(
                    runs, i, 'auto', factor, float(fitted.flops.max()), lambda *_, **__: (1, 1, 1)
                )
                beyond = max(0.0, float(np.log(n * d)) - posterior.log_compute)
                targets.append(Target(Path(path).stem, rollout, posterior.predict(n, d), beyond))
        print(path, file=sys.stderr)
    return targets


def compute_quantiles(
    target: Target, temperature: float, sd_factor: float, drift_sd: float
) -> np.ndarray:
    """Return the quantiles of a target's loss with other numbers than NEUTRAL, DRIFT excepted."""
    means, sds, weights, freedom = target.members
    weights = weights ** (1 / temperature)
    kept = weights > LEAST_WEIGHT * weights.sum()
    weights = weights[kept] / weights[kept].sum()
    sds = np.sqrt((sd_factor * sds[kept]) ** 2 + (drift_sd * target.beyond) ** 2)
    prediction = Prediction(means[kept], sds, weights, freedom)
    return np.array(prediction.compute_quantiles(*QUANTILES))


def forecast_targets(targets: list[Target]) -> dict[Combination, list[Rollout]]:
    """Return the rollouts of all targets with every combination of GRID."""
    made: dict[Combination, list[Rollout]] = {combination: [] for combination in GRID}
    for target in targets:
        # DRIFT only moves a distribution, so that its quantiles are computed once.
        for first, group in itertools.groupby(GRID, key=lambda combination: combination[:3]):
            quantiles = compute_quantiles(target, *first)
            for combination in group:
                predicted, low, high = quantiles * np.exp(-combination[3] * target.beyond)
                made[combination].append(
                    target.rollout._replace(
                        predicted=float(predicted), low=float(low), high=float(high)
                    )
                )
    return made


def score_sets(made: list[Rollout], sets: list[str]) -> dict[str, float]:
    """Return the mean interval score of each set, so that sets count alike."""
    groups: dict[str, list[Rollout]] = {}
    for name, rollout in zip(sets, made, strict=True):
        groups.setdefault(name, []).append(rollout._replace(factor=0))
    return {
        name: rollouts.summarize_rollouts(group)[0]['score_percent']
        for name, group in groups.items()
    }


def choose_combination(scores: dict[Combination, dict[str, float]], sets: set[str]) -> Combination:
    """Return the combination with the lowest mean score over some sets."""
    return min(scores, key=lambda c: float(np.mean([scores[c][name] for name in sets])))


def describe_combination(combination: Combination) -> str:
    return ', '.join(f'{name} {value:g}' for name, value in zip(NUMBERS, combination, strict=True))


def leave_sources_out(targets: list[Target], present: Combination) -> None:
    """Print what the numbers would be without each source, and the scores of all left-out sets."""
    sets = [target.set for target in targets]
    sources = {name: source for name, source in find_sources().items() if name in sets}
    made = forecast_targets(targets)
    scores = {combination: score_sets(rows, sets) for combination, rows in made.items()}
    best = choose_combination(scores, set(sets))
    for label, combination in (('now', present), ('all sources', best)):
        print(f'{label}: {describe_combination(combination)}')
        print(describe(made[combination], sets))
    left_out: list[Rollout | None] = [None] * len(targets)
    for source in dict.fromkeys(sources.values()):
        chosen = choose_combination(scores, {n for n in sources if sources[n] != source})
        print(f'without {source}: {describe_combination(chosen)}')
        for i, name in enumerate(sets):
            if sources[name] == source:
                left_out[i] = made[chosen][i]
    print('each source by the numbers chosen without it:')
    print(describe([rollout for rollout in left_out if rollout], sets))


def describe(made: list[Rollout], sets: list[str]) -> str:
    rows = [{'set': name, **row._asdict()} for name, row in zip(sets, made, strict=True)]
    return protocol.describe_all(rows)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('files', nargs='+', metavar='FILE.csv', help='sets of runs of README.md')
    flags = parser.parse_args()
    present = tuple(getattr(law_posterior, constant) for constant in NUMBERS)
    for constant, value in zip(NUMBERS, NEUTRAL, strict=True):
        setattr(law_posterior, constant, value)
    law_posterior.GRID = GRID_POINTS
    leave_sources_out(predict_targets(flags.files), present)
