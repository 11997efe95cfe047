"""What does a training step send between devices, under each strategy? Counted in the compiled program.

python experiments/communication/measure.py                 # some minutes on two cores; results.jsonl
python experiments/communication/measure.py --table         # the table of results.jsonl

Simulated devices of a CPU: bytes are those that real ones would send, time means nothing here.
"""

import argparse
import json
import os
import sys
from collections import Counter
from pathlib import Path

FOLDER = Path(__file__).parent
DEVICES = (1, 2, 4, 8)
# What n devices do with their axes.
STRATEGIES = {
    'data': lambda n: {'data': n},
    'zero1': lambda n: {'data': n, 'strategy': 'zero1'},
    'fsdp': lambda n: {'data': 1, 'fsdp': n, 'strategy': 'fsdp'},
    'tensor': lambda n: {'data': 1, 'tensor': n},
    'fsdp + tensor 2': lambda n: {'data': 1, 'fsdp': n // 2, 'tensor': 2, 'strategy': 'fsdp'},
    'ring': lambda n: {'data': 1, 'context': n},
    'all_to_all': lambda n: {'data': 1, 'context': n, 'long': 'all_to_all'},
    'pipeline': lambda n: {'data': 1, 'pipeline': n},
    'experts, capacity': lambda n: {'data': 1, 'expert': n},
}
EXPERTS = {'feedforward': 'experts', 'experts': 8, 'capacity_factor': 1.25, 'mlp_width': 128}


def measure(name: str, devices: int) -> dict:
    """One record: the bytes that a device sends in a step, by the kind of collective."""
    import jax

    from configs import gpt_tiny
    from gpt_jax import assemble, overrides
    from gpt_jax.compiled.collectives import collectives
    from gpt_jax.compiled.text import parse
    from gpt_jax.model import accounting

    config = overrides.plain(gpt_tiny.get_config())
    config['model'] |= {'layers': 8, 'heads': 8, 'vocab_size': 4096, 'scan_layers': True}
    config['model'] |= EXPERTS if name.startswith('experts') else {}
    config['train'] |= {'batch': 32, 'microbatch': 4 if name == 'pipeline' else 0}
    config['mesh'] |= STRATEGIES[name](devices)
    settings = assemble.settings(config, vocab_size=4096)
    program = assemble.build(settings, jax.devices()[:devices])
    batch = assemble.abstract_batch(settings, program.mesh)
    text = program.step.lower(program.abstract_state, batch).compile().as_text()
    sent = Counter()
    for one in collectives(parse(text)):
        sent[one.kind] += one.wire_bytes * one.times
    return {
        'strategy': name,
        'devices': devices,
        'parameters': accounting.parameters(settings.model)['padded_total'],
        'tokens': settings.tokens_per_step,
        'sent_bytes': sum(sent.values()),
        'by_kind': dict(sent),
        'bytes_per_flop': sum(sent.values())
        / (accounting.flops_per_token(settings.model)['6N'] * settings.tokens_per_step / devices),
    }


def table(records: list[dict]) -> str:
    """Megabytes that a device sends in a step, by strategy and devices, and of the largest count what they are."""
    head = (
        f'| strategy | {" | ".join(f"{n} devices" for n in DEVICES if n > 1)} | of {DEVICES[-1]}: bytes per FLOP | of |'
    )
    lines = [head, '| --- ' * (len(DEVICES) + 2) + '|']
    for name in STRATEGIES:
        of = {one['devices']: one for one in records if one['strategy'] == name}
        cells = [f'{of[n]["sent_bytes"] / 1e6:.2f}' if n in of else '' for n in DEVICES if n > 1]
        last = of[DEVICES[-1]]
        kinds = ', '.join(
            f'{kind} {size / last["sent_bytes"]:.0%}'
            for kind, size in sorted(last['by_kind'].items(), key=lambda pair: -pair[1])
            if size > 0.005 * last['sent_bytes']
        )
        lines.append(f'| {name} | {" | ".join(cells)} | {last["bytes_per_flop"]:.2g} | {kinds} |')
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--table', action='store_true', help='only print the table of results.jsonl')
    path = FOLDER / 'results.jsonl'
    if not parser.parse_args().table:
        sys.path.insert(0, str(FOLDER.parents[1]))
        os.environ['JAX_PLATFORMS'] = 'cpu'
        from gpt_jax import runtime

        runtime.start(max(DEVICES), '')
        cases = [(name, n) for name in STRATEGIES for n in DEVICES if n > 1 and not ('+' in name and n < 4)]
        records = []
        for number, (name, devices) in enumerate(cases, 1):
            print(f'{number}/{len(cases)}: {name}, {devices} devices', file=sys.stderr)
            records.append(measure(name, devices))
        path.write_text(''.join(json.dumps(one) + '\n' for one in records))
    print(table([json.loads(line) for line in path.read_text().splitlines()]))


if __name__ == '__main__':
    main()
