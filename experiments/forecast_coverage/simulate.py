"""Coverage of 95% intervals on simulated runs whose law is known, beside simple-scaling-laws.

python experiments/forecast_coverage/simulate.py --replicates=200 --peer_python=PATH
python experiments/forecast_coverage/simulate.py          prints and draws the committed results

Each cell is a design, a truth and a noise (worlds.py). Its replicates are measured by the functions
behind the commands (intervals.py), and the same draws by simple-scaling-laws, in a Python that has
it (peer.py). Appends one line per cell, tool and quantity to results.jsonl: how many intervals
contain the true value, their widths and errors in percent of it, and why there was none. Cells that
have as many replicates or more are not measured again.
"""

import argparse
import collections
import itertools
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from experiments.forecast_coverage import intervals, report, worlds
from experiments.forecast_coverage.intervals import Interval, Outcome
from gpt_jax.core import files

HERE = Path(__file__).parent
OURS, PEER = 'gpt_jax', 'simple-scaling-laws'
Row = dict[str, Any]


def measure_cell(
    measure: str, design: str, truth: str, noise: float, replicates: int
) -> list[Outcome]:
    """Return gpt_jax's intervals for every replicate of a cell."""
    with tempfile.TemporaryDirectory() as folder:
        return [
            intervals.MEASURES[measure](design, truth, noise, replicate, Path(folder))
            for replicate in range(replicates)
        ]


def measure_peer(
    python: str, design: str, truth: str, noise: float, replicates: int
) -> list[Outcome]:
    """Return the intervals of simple-scaling-laws for the same draws.

    Of a run with checkpoints, it is given the last row.
    """
    made = worlds.DESIGNS[design]
    draws = [
        worlds.draw_runs(design, truth, noise=noise, replicate=replicate)
        for replicate in range(replicates)
    ]
    is_last = np.append(made.run[1:] != made.run[:-1], True)
    questions = [
        {
            'columns': {
                name: draw.columns[name][is_last].tolist() for name in ('params', 'tokens', 'loss')
            },
            'targets': [made.target],
            'flops': made.flops,
            'over': made.over,
            'is_isoflop': 'budget' in made.columns,
        }
        for draw in draws
    ]
    optimum = worlds.find_optimal_params(truth, made.flops)
    truths = worlds.CHINCHILLA if truth == 'chinchilla' else {}
    outcomes: list[Outcome] = []
    for draw, answer in zip(draws, ask_peer(python, questions), strict=True):
        if 'error' in answer:
            outcomes.append({'forecast': answer['error']})
            continue
        answer['forecast'] = answer['forecasts'][0]
        known = truths | {
            'forecast': draw.reached,
            'N* by approach 2': optimum,
            'N* by approach 3': optimum,
        }
        outcomes.append(
            {
                name: Interval(*ends, known[name])
                if all(end is not None and math.isfinite(end) for end in ends)
                else intervals.NOT_GIVEN
                for name, ends in answer.items()
                if name in known
            }
        )
    return outcomes


def ask_peer(python: str, questions: list[Row], *options: str) -> list[Row]:
    """Return the answers of simple-scaling-laws, in a Python that has it, as peer.py says."""
    lines = '\n'.join(map(json.dumps, questions))
    answers = subprocess.run(
        [python, str(HERE / 'peer.py'), *options], input=lines, capture_output=True, text=True
    )
    if answers.returncode:
        raise SystemExit(f'--peer_python={python}: {answers.stderr.strip().splitlines()[-1]}')
    return [json.loads(line) for line in answers.stdout.splitlines()]


def summarize_outcomes(outcomes: list[Outcome]) -> list[Row]:
    """Return, for each quantity, the coverage, the widths and the errors of its intervals."""
    rows = []
    for quantity in dict.fromkeys(name for outcome in outcomes for name in outcome):
        values = [outcome.get(quantity, intervals.NOT_GIVEN) for outcome in outcomes]
        given = [value for value in values if isinstance(value, Interval)]
        reasons = collections.Counter(value for value in values if isinstance(value, str))
        row: Row = {
            'quantity': quantity,
            'replicates': len(values),
            'intervals': len(given),
            'inside': sum(one.low <= one.truth <= one.high for one in given),
            'none': dict(reasons),
        }
        if given:
            widths = [100 * (one.high - one.low) / one.truth for one in given]
            errors = [100 * abs(one.centre / one.truth - 1) for one in given]
            row |= {
                'mean_width_percent': float(np.mean(widths)),
                'median_width_percent': float(np.median(widths)),
                'median_error_percent': float(np.median(errors)),
            }
        rows.append(row)
    return rows


def main(flags: argparse.Namespace) -> None:
    output = Path(flags.output)
    done = files.read_jsonl(output) if output.exists() else []
    tasks = [
        (tool, measure, replicates)
        for tool, measure, replicates in (
            *((OURS, measure, flags.replicates) for measure in flags.measures),
            (PEER, 'peer', (flags.peer_replicates or flags.replicates)),
        )
        if replicates and not (tool == PEER and not flags.peer_python)
    ]
    if flags.replicates and not flags.peer_python:
        print(
            f'{PEER} is skipped: give --peer_python=PATH of a Python that has it', file=sys.stderr
        )
    cells = itertools.product(flags.designs, flags.truths, flags.noises)
    for (design, truth, noise), (tool, measure, replicates) in itertools.product(cells, tasks):
        cell = {'tool': tool, 'measure': measure, 'design': design, 'truth': truth, 'noise': noise}
        is_done = any(
            cell.items() <= row.items() and row['replicates'] >= replicates for row in done
        )
        if is_done or (tool == OURS and design not in intervals.list_designs(measure)):
            continue
        if tool == OURS:
            outcomes = measure_cell(measure, design, truth, noise, replicates)
        else:
            outcomes = measure_peer(flags.peer_python, design, truth, noise, replicates)
        for summary in summarize_outcomes(outcomes):
            files.append_jsonl(output, cell | summary)
        print(*cell.values(), file=sys.stderr)
    rows = report.find_latest(files.read_jsonl(output))
    report.print_tables(rows)
    for path in report.draw_figure(rows, output.with_name('forecast_coverage.png')):
        print(path)


def split_words(text: str) -> list[str]:
    return [word for word in text.split(',') if word]


if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--replicates', type=int, default=0, help='draws per cell; 0: print the results'
    )
    parser.add_argument('--peer_python', default='', metavar='PATH', help='has simple-scaling-laws')
    parser.add_argument('--peer_replicates', type=int, default=0, help='0: as many')
    parser.add_argument(
        '--measures',
        type=split_words,
        default=list(intervals.MEASURES),
        metavar='NAME,...',
        help=f'of {", ".join(intervals.MEASURES)}',
    )
    parser.add_argument(
        '--designs',
        type=split_words,
        default=list(worlds.DESIGNS),
        metavar='NAME,...',
        help=f'of {", ".join(worlds.DESIGNS)}',
    )
    parser.add_argument(
        '--truths',
        type=split_words,
        default=list(worlds.TRUTHS),
        metavar='NAME,...',
        help=f'of {", ".join(worlds.TRUTHS)}',
    )
    parser.add_argument(
        '--noises',
        type=lambda text: [float(word) for word in text.split(',')],
        default=list(worlds.NOISES),
        metavar='SD,...',
        help='of the log loss of a run',
    )
    parser.add_argument('--output', default=str(HERE / 'results.jsonl'), metavar='PATH')
    main(parser.parse_args())
