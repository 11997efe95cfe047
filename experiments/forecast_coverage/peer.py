"""Intervals of simple-scaling-laws for draws, in a Python that has it (0.2.0: 3.12 or later).

Reads one JSON per line from standard input: columns (params, tokens, loss), target (N, D), flops,
over ('N': N determines D) and is_isoflop; writes, for each, a JSON of quantity -> [low, high,
centre], or a text that says why there is none. `simulate.py --peer_python=PATH` runs it.
"""

import argparse
import json
import sys
import warnings

import polars as pl
import simple_scaling_laws as peer

N, D, LOSS = 'model_size__params', 'dataset_size__tokens', 'test_loss__ce'
ENDS = ('q025', 'q975', 'median')


def measure(draw: dict, law: str, n_draws: int) -> dict:
    """Return the intervals for one draw.

    Each run is one row, since the package wants one observation per run. Where N determines D, only
    N is given, since it cannot tell their terms apart; the run to forecast is on the same line.
    """
    columns = draw['columns']
    table = pl.DataFrame(
        {
            'training_run_id': [f'run{i}' for i in range(len(columns['loss']))],
            'test_set_id': 'validation',
            N: columns['params'],
            D: columns['tokens'],
            LOSS: columns['loss'],
        }
    )
    point = {N: [draw['target'][0]], D: [draw['target'][1]]}
    has_both = draw['over'] == 'N and D'
    if not has_both:
        table, point = table.drop(D), {N: point[N]}
    model = peer.fit(table, law=law, n_draws=n_draws, seed=0)
    found = model.predict(point, kind='new-run').row(0, named=True)
    outcome = {'forecast': [found[f'{LOSS}__{end}'] for end in ENDS]}
    if not has_both:
        return outcome
    centres = model.params(LOSS)
    for name, (low, high) in model.conf_int(LOSS).items():
        if name in ('E', 'alpha', 'beta'):  # its A and B are of scaled N and D
            outcome[name] = [low, high, centres[name]]
    cost = peer.cost_model('power', k=6.0, a=1.0, b=1.0)
    frontier = model.optimal_allocation([draw['flops']], cost).row(0, named=True)
    outcome['N* by approach 3'] = [frontier[f'{N}__{end}'] for end in ENDS]
    if draw['is_isoflop']:
        line = peer.fit_isoflop(table, cost=cost, n_draws=n_draws, seed=0)
        found = line.predict([draw['flops']]).row(0, named=True)
        outcome['N* by approach 2'] = [found[f'{N}__{end}'] for end in ENDS]
    return outcome


if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--law', default='separable-power', help='a law of the package')
    parser.add_argument('--draws', type=int, default=400, help='its bootstrap draws')
    flags = parser.parse_args()
    warnings.simplefilter('ignore')  # it warns of every extrapolation
    for line in sys.stdin:
        try:
            result = measure(json.loads(line), flags.law, flags.draws)
        except Exception as reason:  # of any kind: it is counted, not hidden
            result = {'error': f'{type(reason).__name__}: {reason}'}
        print(json.dumps(result), flush=True)
