"""A trial for tests of the sweep: behaves as its name says, and counts its starts.

python fake_trial.py SWEEP --trial=NAME[,NAME...]
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

sweep, names = Path(sys.argv[1]), sys.argv[2].removeprefix('--trial=').split(',')
folder = sweep / 'trials' / names[0]
with (sweep / 'starts.txt').open('a') as file:
    file.write(f'{names[0]}\n')
kind, times = names[0].split('-')[0], (sweep / 'starts.txt').read_text().split().count(names[0])
(folder / 'progress.json').write_text(json.dumps({'text': f'at work on {kind}'}))
if kind == 'hang' or (kind == 'hangonce' and times == 1):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # hangs even after SIGTERM
    time.sleep(600)
if kind == 'memory':
    print('run.py: out of memory')
    sys.exit(4)
if kind == 'full':
    print('run.py: /x: no space left on this disk', file=sys.stderr)
    sys.exit(5)
if kind == 'crashes':
    sys.exit('ValueError: a bug')
if kind == 'killed' and times == 1:
    os.kill(os.getpid(), signal.SIGKILL)
if kind == 'bad':
    print('run.py: config.model.width: must be positive, got -1', file=sys.stderr)
    sys.exit(2)
if kind == 'diverges':
    sys.exit(3)
if kind == 'liar':
    sys.exit(0)
if kind in ('slow', 'short'):
    for tick in range(200 if kind == 'slow' else 40):
        (folder / 'progress.json').write_text(json.dumps({'text': f'step {tick}/200'}))
        time.sleep(0.05)
for name in names:
    (sweep / 'trials' / name).mkdir(parents=True, exist_ok=True)
    summary = {
        'status': 'done',
        'config_hash': f'hash of {name}',
        'validation_loss': 2.0,
        'seconds': 0.1,
    }
    temporary = sweep / 'trials' / name / 'summary.json.tmp'
    temporary.write_text(json.dumps(summary))
    temporary.replace(temporary.with_suffix(''))  # atomically, as a real trial does
