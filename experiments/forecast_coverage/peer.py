"""Intervals of simple-scaling-laws for draws, in a Python that has it (0.2.0: 3.12 or later).

Reads one JSON per line from standard input: columns (params, tokens, loss), targets (a list of
N, D), over ('N': N determines D), flops (to split; null: nothing) and is_isoflop; writes, for each,
a JSON of quantity -> [low, high, centre], a list of them for `forecasts`; or an `error` that says
why there is none. `simulate.py --peer_python=PATH` runs it, and protocol.py of forecast_backtests.
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
    N is given, since it cannot tell their terms apart; the runs to forecast are on the same line.
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
    params, tokens = zip(*draw['targets'], strict=True)
    points = {N: params, D: tokens}
    has_both = draw['over'] == 'N and D'
    if not has_both:
        table, points = table.drop(D), {N: params}
    model = peer.fit(table, law=law, n_draws=n_draws, seed=0)
    found = model.predict(points, kind='new-run').rows(named=True)
    outcome = {'forecasts': [[row[f'{LOSS}__{end}'] for end in ENDS] for row in found]}
    if not has_both or draw['flops'] is None:
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
