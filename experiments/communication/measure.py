"""Bytes that a training step sends between devices under each strategy.

python experiments/communication/measure.py            # some minutes on two cores; results.jsonl
python experiments/communication/measure.py --table    # only print the table of results.jsonl

The devices are simulated on a CPU: the bytes are those of real devices, times are meaningless.
"""

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

from gpt_jax.core import files
from gpt_jax.core.config import parse_config, to_raw

FOLDER = Path(__file__).parent
DEVICES = (1, 2, 4, 8)
# The mesh of n devices.
STRATEGIES = {
    'data': lambda n: {'data': n},
    'zero1': lambda n: {'data': n, 'strategy': 'zero1'},
    'fsdp': lambda n: {'data': 1, 'fsdp': n, 'strategy': 'fsdp'},
    'tensor': lambda n: {'data': 1, 'tensor': n},
    'fsdp + tensor 2': lambda n: {'data': 1, 'fsdp': n // 2, 'tensor': 2, 'strategy': 'fsdp'},
    'ring': lambda n: {'data': 1, 'context': n},
    'all_to_all': lambda n: {'data': 1, 'context': n, 'context_parallel': 'all_to_all'},
    'pipeline': lambda n: {'data': 1, 'pipeline': n},
    'experts, capacity': lambda n: {'data': 1, 'expert': n},
}
EXPERTS = {'feedforward': 'experts', 'experts': 8, 'capacity_factor': 1.25, 'mlp_width': 128}


def measure_strategy(name: str, devices: int) -> dict:
    """Return the record of a strategy: the bytes that a device sends per step, by collective."""
    import jax

    from configs import gpt_tiny
    from gpt_jax.core import model_counts
    from gpt_jax.preflight.collectives import find_collectives
    from gpt_jax.preflight.hlo import parse_hlo
    from gpt_jax.train import build

    config = to_raw(gpt_tiny.get_config())
    config['model'] |= {'layers': 8, 'heads': 8, 'vocab_size': 4096, 'scan_layers': True}
    config['model'] |= EXPERTS if name.startswith('experts') else {}
    config['train'] |= {'batch_size': 32, 'microbatch_size': 4 if name == 'pipeline' else 0}
    config['mesh'] |= STRATEGIES[name](devices)
    parsed = parse_config(config, vocab_size=4096)
    parts = build.build_trainer_parts(parsed, jax.devices()[:devices])
    batch = build.make_abstract_batch(parsed, parts.mesh)
    text = parts.train_step.lower(parts.abstract_state, batch).compile().as_text()
    sent = Counter()
    for collective in find_collectives(parse_hlo(text)):
        sent[collective.kind] += collective.wire_bytes * collective.executions
    return {
        'strategy': name,
        'devices': devices,
        'parameters': model_counts.parameters(parsed.model)['padded_total'],
        'tokens': parsed.tokens_per_step,
        'sent_bytes': sum(sent.values()),
        'by_kind': dict(sent),
        'bytes_per_flop': sum(sent.values())
        / (model_counts.flops_per_token(parsed.model)['6N'] * parsed.tokens_per_step / devices),
    }


def format_table(records: list[dict]) -> str:
    """Return the megabytes that a device sends per step, and the kinds at the most devices."""
    counts = [f'{n} devices' for n in DEVICES if n > 1]
    head = ['strategy', *counts, f'bytes per FLOP, {counts[-1]}', f'kinds, {counts[-1]}']
    lines = [f'| {" | ".join(head)} |', '| --- ' * len(head) + '|']
    for name in STRATEGIES:
        by_devices = {r['devices']: r for r in records if r['strategy'] == name}
        cells = [
            f'{by_devices[n]["sent_bytes"] / 1e6:.2f}' if n in by_devices else ''
            for n in DEVICES
            if n > 1
        ]
        last = by_devices[DEVICES[-1]]
        kinds = ', '.join(
            f'{kind} {size / last["sent_bytes"]:.0%}'
            for kind, size in sorted(last['by_kind'].items(), key=lambda pair: -pair[1])
            if size > 0.005 * last['sent_bytes']
        )
        lines.append(f'| {name} | {" | ".join(cells)} | {last["bytes_per_flop"]:.2g} | {kinds} |')
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--table', action='store_true', help='only print the table of results.jsonl'
    )
    path = FOLDER / 'results.jsonl'
    if not parser.parse_args().table:
        sys.path.insert(0, str(FOLDER.parents[1]))
        os.environ['JAX_PLATFORMS'] = 'cpu'
        from gpt_jax.core import jax_setup

        jax_setup.start_jax(max(DEVICES), '')
        cases = [
            (name, n)
            for name in STRATEGIES
            for n in DEVICES
            if n > 1 and not ('+' in name and n < 4)
        ]
        records = []
        for number, (name, devices) in enumerate(cases, 1):
            print(f'{number}/{len(cases)}: {name}, {devices} devices', file=sys.stderr)
            records.append(measure_strategy(name, devices))
        files.write_jsonl(path, records)
    print(format_table(files.read_jsonl(path)))


if __name__ == '__main__':
    main()
